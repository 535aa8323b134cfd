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

static uint64_t now_us(void)
{
    LARGE_INTEGER count, each;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&each);
    return (uint64_t)count.QuadPart / (uint64_t)each.QuadPart * 1000000u +
           (uint64_t)count.QuadPart % (uint64_t)each.QuadPart * 1000000u / (uint64_t)each.QuadPart;
}

#else
#include <pthread.h>
#include <time.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn = PTHREAD_COND_INITIALIZER;
#define LOCK() pthread_mutex_lock(&mutex)
#define UNLOCK() pthread_mutex_unlock(&mutex)
#define WAIT() pthread_cond_wait(&turn, &mutex)
#define WAKE() pthread_cond_broadcast(&turn)

static uint64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

uint64_t zks_now_ms(void) { return now_us() / 1000u; }
#endif

#define MAX_WAIT_US 100u

/* A ticket lock that sleeps: tickets are given under the mutex, so the order of asking is the order of service. */
static volatile uint32_t next_ticket, now_serving;
static uint64_t seen_waiting; /* when the thread that has the lock first saw another one wait; 0: not yet */

void zks_lock_acquire(void)
{
    uint32_t ticket;
    LOCK();
    ticket = next_ticket++;
    while (ticket != now_serving)
        WAIT();
    seen_waiting = 0;
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

int zks_lock_due(void)
{
    if (next_ticket - now_serving <= 1)
        return 0;
    if (!seen_waiting)
        seen_waiting = now_us();
    return now_us() - seen_waiting >= MAX_WAIT_US;
}
