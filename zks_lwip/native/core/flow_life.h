/* What a core makes and frees for its flows. */
#ifndef ZKS_FLOW_LIFE_H
#define ZKS_FLOW_LIFE_H
#include "context.h"

/* 0, or -1: out of memory. */
int flow_setup(zks_core *core);
/* Aborts every flow, and frees what flow_setup made. */
void flow_teardown(zks_core *core);
/* Takes the flow from its owner, refuses its SYN if that is held, and isolates its pcb; flow_settle has to follow. */
void flow_detach(zks_core *core, struct flow *flow);

#endif
