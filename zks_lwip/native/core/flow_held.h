/* The SYN of a new flow, held until its owner accepts or rejects it. */
#ifndef ZKS_FLOW_HELD_H
#define ZKS_FLOW_HELD_H
#include "context.h"

/* Holds the SYN of a new flow; over the limits the oldest gives way. */
void flow_hold(zks_core *core, const struct zks_packet *packet, const uint8_t *bytes);
/* Handles a segment for a flow whose SYN is held: the same SYN joins it, RST cancels it, another SYN replaces it. */
void flow_held_segment(zks_core *core, struct flow *flow, const struct zks_packet *packet, const uint8_t *bytes);
/* Answers the held SYN (ZKS_REJECT_*) and frees it; flow_died follows. */
void flow_refuse(zks_core *core, struct flow *flow, int how);
/* Whether the application has given up its connect(). */
int flow_given_up(const zks_core *core, const struct flow *flow);

#endif
