/* The time of a core. Its life is in zks_core.h. */
#ifndef ZKS_CORE_INTERNAL_H
#define ZKS_CORE_INTERNAL_H
#include "context.h"

/* Runs the ticks that are due at now_ms (of zks_now_ms, or of zks_tick's caller). */
void core_advance(zks_core *core, uint64_t now_ms);
/* Milliseconds until a tick has something to do, or -1: not before an event. */
int64_t core_wait(const zks_core *core);

#endif
