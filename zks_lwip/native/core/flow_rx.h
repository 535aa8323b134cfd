/* What a flow has received and its owner has not taken. */
#ifndef ZKS_FLOW_RX_H
#define ZKS_FLOW_RX_H
#include "context.h"

struct chunk {
    struct chunk *next;
    struct pbuf *pbuf; /* data lies in this pbuf, which we own; NULL: in the chunk itself */
    const uint8_t *data;
    uint32_t start, end, size;
};

/* Appends what p holds, and takes p over; -1: out of memory, and the flow cannot go on. */
int rx_append(zks_core *core, struct flow *flow, struct pbuf *p);
/* Copies at most size bytes out; how many. */
size_t rx_take(zks_core *core, struct flow *flow, uint8_t *buffer, size_t size);
/* Frees what is left. */
void rx_clear(zks_core *core, struct flow *flow);
/* Frees the spare chunks of the core. */
void rx_trim(zks_core *core);

#endif
