/* The pump of a session of Wintun. */
#ifndef ZKS_WINTUN_INTERNAL_H
#define ZKS_WINTUN_INTERNAL_H
#include "context.h"

/* zks_pump_run and zks_pump_stop of a core whose device is Wintun. */
int wintun_pump(zks_core *core);
void wintun_stop(zks_core *core);

#endif
