/* The time of the flows. */
#ifndef ZKS_FLOW_TIMER_H
#define ZKS_FLOW_TIMER_H
#include "context.h"

/* Runs lwIP's timers once (each 250 ms), and keepalive; ends flows whose SYN or peer is given up. */
void flow_tick(zks_core *core);

#endif
