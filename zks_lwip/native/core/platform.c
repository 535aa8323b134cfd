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

/* A lock that sleeps. Those that wait have tickets, given under the mutex, and are served in their order. Who asks
 * while the lock is free gets it before them as long as the first of them has not waited for MAX_WAIT_US: else two
 * threads that both need it for a moment, again and again, would sleep and wake each other each time. */
static volatile uint32_t next_ticket, now_serving;
static volatile uint64_t waits_since; /* the first of those that wait */
static int held, woken;               /* woken: they have been, and none of them has looked yet */

static int overdue(void) { return next_ticket != now_serving && now_us() - waits_since >= MAX_WAIT_US; }

void zks_lock_acquire(void)
{
    LOCK();
    if (held || overdue()) {
        uint32_t ticket = next_ticket++;
        if (ticket == now_serving)
            waits_since = now_us();
        do {
            WAIT();
            woken = 0;
        } while (held || ticket != now_serving);
        now_serving++;
        waits_since = now_us();
    }
    held = 1;
    UNLOCK();
}

void zks_lock_release(void)
{
    int wake;
    LOCK();
    held = 0;
    wake = next_ticket != now_serving && !woken;
    if (wake)
        woken = 1;
    UNLOCK();
    if (wake)
        WAKE();
}

int zks_lock_due(void) { return overdue(); }
