/* Flows around lwIP's pcbs.
 *
 * lwIP finds a pcb by walking lists. Here a hash table owns the pcbs: around every call into lwIP its lists hold only
 * the pcb of the flow at hand (flow_isolate), and what is left in them afterwards says what has become of it
 * (flow_settle). The timers get the pcbs that have something to wait for. */
#ifndef ZKS_FLOW_LWIP_H
#define ZKS_FLOW_LWIP_H
#include "context.h"

/* Lets lwIP know the pcb of this flow only (of none: NULL), before a call into it. */
void flow_isolate(zks_core *core, struct flow *flow);
/* The same, with a listener at the flow's destination, for its SYN. */
void flow_listen(zks_core *core, struct flow *flow);
/* Reads from lwIP's lists, after the call, what has become of the flow's pcb. May free the flow. */
void flow_settle(zks_core *core, struct flow *flow);
/* Frees the pcb of the flow, with a RST to the peer or without a word. May free the flow. */
void flow_abandon(zks_core *core, struct flow *flow, int reset);
/* Whether lwIP's timers have something to do for the pcb. */
int flow_is_busy(const struct tcp_pcb *pcb);
/* Two traps of lwIP, told of in flow_lwip.c: after each segment, and after each write. */
void flow_put_back(struct tcp_pcb *pcb);
void flow_unstick(struct tcp_pcb *pcb);
/* Makes the pcb that of the flow. */
void flow_adopt(struct flow *flow, struct tcp_pcb *pcb);
/* Decides, before the first byte, how long segments are. */
void flow_size_segments(const zks_core *core, struct flow *flow, struct tcp_pcb *pcb);
/* Opens the congestion window once the handshake's last segment is handled, and sends. */
void flow_open_window(struct flow *flow, struct tcp_pcb *pcb);
/* lwIP's callbacks at the end of a handshake. */
err_t flow_on_accept(void *arg, struct tcp_pcb *pcb, err_t err);
err_t flow_on_connected(void *arg, struct tcp_pcb *pcb, err_t err);

/* Gives lwIP a packet, whose destination becomes the interface's address; takes p over. */
void flow_inject(zks_core *core, struct pbuf *p, const struct zks_packet *packet);
/* The same of a copy. */
void flow_inject_bytes(zks_core *core, const uint8_t *bytes, uint32_t length);

#endif
