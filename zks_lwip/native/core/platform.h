/* Locks and clocks of the three systems. */
#ifndef ZKS_PLATFORM_H
#define ZKS_PLATFORM_H
#include <stdint.h>

/* A fair lock: threads get it in the order in which they ask. (A plain mutex lets the pump, which asks again at once,
 * starve the threads of Python.) */
void zks_lock_acquire(void);
void zks_lock_release(void);
/* Asked by the thread that has the lock, between two things: whether another one has waited for it for long enough. (To
 * hand it over at once would cost a sleep and a wake-up of both threads for each thing.) */
int zks_lock_due(void);

/* Milliseconds of a clock that never goes back. */
uint64_t zks_now_ms(void);

#endif
