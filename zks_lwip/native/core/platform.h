/* Locks and clocks of the three systems. */
#ifndef ZKS_PLATFORM_H
#define ZKS_PLATFORM_H
#include <stdint.h>

/* A fair lock: threads get it in the order in which they ask. (A plain mutex lets the pump, which asks again at once,
 * starve the threads of Python.) */
void zks_lock_acquire(void);
void zks_lock_release(void);
/* Whether a thread waits for the lock. A hint: read without it. */
int zks_lock_wanted(void);

/* Milliseconds of a clock that never goes back. */
uint64_t zks_now_ms(void);

#endif
