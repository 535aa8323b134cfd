/* Locks and clocks of the three systems. */
#ifndef ZKS_PLATFORM_H
#define ZKS_PLATFORM_H
#include <stdint.h>

/* A fair lock: a thread that waits has it after 0.1 ms, and what the one that has it then does. (A plain mutex lets the
 * pump, which asks again at once, starve the threads of Python; one that serves in the order of asking has both sleep
 * and wake for each thing that they do.) */
void zks_lock_acquire(void);
void zks_lock_release(void);
/* Asked by the thread that has the lock, between two things: whether another one has waited for it for long enough;
 * then zks_lock_release and zks_lock_acquire hand it over. */
int zks_lock_due(void);

/* Milliseconds of a clock that never goes back. */
uint64_t zks_now_ms(void);

#endif
