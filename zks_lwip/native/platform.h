/* Locks and clocks of the three systems. */
#ifndef ZKS_PLATFORM_H
#define ZKS_PLATFORM_H
#include <stdint.h>

/* A fair lock: who asks first is served first. (A plain mutex lets the pump, which asks again at once, starve
 * the other side.) */
void zks_lock_acquire(void);
void zks_lock_release(void);
/* Somebody waits for the lock. A hint: read without it. */
int zks_lock_wanted(void);

/* Milliseconds of a clock that never goes back. */
uint64_t zks_now_ms(void);

#endif
