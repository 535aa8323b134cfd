#include "platform.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

static SRWLOCK mutex = SRWLOCK_INIT;
static CONDITION_VARIABLE turn = CONDITION_VARIABLE_INIT;
#define LOCK() AcquireSRWLockExclusive(&mutex)
#define UNLOCK() ReleaseSRWLockExclusive(&mutex)
#define WAIT() SleepConditionVariableSRW(&turn, &mutex, INFINITE, 0)
#define WAKE() WakeAllConditionVariable(&turn)

uint64_t zks_now_ms(void) { return GetTickCount64(); }

#else
#include <pthread.h>
#include <time.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn = PTHREAD_COND_INITIALIZER;
#define LOCK() pthread_mutex_lock(&mutex)
#define UNLOCK() pthread_mutex_unlock(&mutex)
#define WAIT() pthread_cond_wait(&turn, &mutex)
#define WAKE() pthread_cond_broadcast(&turn)

uint64_t zks_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}
#endif

/* A ticket lock that sleeps: tickets are given under the mutex, so the order of asking is the order of service. */
static volatile uint32_t next_ticket, now_serving;

void zks_lock_acquire(void)
{
    uint32_t ticket;
    LOCK();
    ticket = next_ticket++;
    while (ticket != now_serving)
        WAIT();
    UNLOCK();
}

void zks_lock_release(void)
{
    int waiters;
    LOCK();
    now_serving++;
    waiters = next_ticket != now_serving;
    UNLOCK();
    if (waiters)
        WAKE();
}

int zks_lock_wanted(void) { return next_ticket - now_serving > 1; }
