/* The time of a core. Its life is in zks_core.h. */
#ifndef ZKS_CORE_INTERNAL_H
#define ZKS_CORE_INTERNAL_H
#include "context.h"

/* Runs the ticks that are due at now_ms (of zks_now_ms, or of zks_tick's caller). */
void core_advance(zks_core *core, uint64_t now_ms);
/* Milliseconds until a tick has something to do, or -1: not before an event. */
int64_t core_wait(const zks_core *core);
/* Before a pump sleeps for so many milliseconds (of core_wait): shortens it soon after packets, so that who sends need
 * not kick it, and says in pump_sleeps whether it has to be kicked. moved: there were packets; alert_ms: the pump's. */
void core_sleep(zks_core *core, int64_t *wait, int moved, uint64_t *alert_ms);

#endif
