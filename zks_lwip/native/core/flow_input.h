/* TCP segments from the device. */
#ifndef ZKS_FLOW_INPUT_H
#define ZKS_FLOW_INPUT_H
#include "context.h"

/* Handles a segment, p, that packet tells of; takes p over. */
void flow_segment(zks_core *core, struct pbuf *p, struct zks_packet *packet);
/* Sends the ACKs that a batch of packets owes, one a flow. */
void flow_acknowledge(zks_core *core);

#endif
