/* Keepalive of quiet flows. */
#ifndef ZKS_FLOW_KEEPALIVE_H
#define ZKS_FLOW_KEEPALIVE_H
#include "context.h"

/* Sets when the next probe is due; 0: none before an event. */
int flow_keepalive_due(const zks_core *core, uint64_t *due_ms);
/* Sends the probes that are due, and ends flows whose peer has not answered any. */
void flow_keepalive(zks_core *core);

#endif
