/* TCP flows: our own table in front of lwIP's pcbs.
 *
 * lwIP finds a pcb by walking lists. Here a hash table owns the pcbs: around every call into lwIP its lists hold only
 * the pcb of the flow at hand (flow_isolate), and what is left in them afterwards says what has become of it
 * (flow_settle). The timers get the pcbs that have something to wait for. */
#ifndef ZKS_FLOW_H
#define ZKS_FLOW_H

#include "internal.h"

/* flow_table.c */
void flow_list_move(zks_core *core, struct flow *flow, uint8_t to);
struct flow *flow_find(const zks_core *core, const struct zks_packet *packet, uint32_t hash);
void flow_hash(zks_core *core, struct flow *flow);
void flow_unhash(zks_core *core, struct flow *flow);
struct flow *flow_get(const zks_core *core, uint64_t id);
struct flow *flow_new(zks_core *core, const struct zks_address *source, uint16_t source_port,
                      const struct zks_address *destination, uint16_t destination_port);
void flow_reap(zks_core *core, struct flow *flow);
void flow_release(zks_core *core, struct flow *flow);
void flow_died(zks_core *core, struct flow *flow, uint8_t event);

/* flow_lwip.c */
void flow_isolate(zks_core *core, struct flow *flow);
void flow_settle(zks_core *core, struct flow *flow);
int flow_is_busy(const struct tcp_pcb *pcb);
void flow_put_back(struct tcp_pcb *pcb);
void flow_unstick(struct tcp_pcb *pcb);
void flow_adopt(struct flow *flow, struct tcp_pcb *pcb);
void flow_size_segments(const zks_core *core, struct flow *flow, struct tcp_pcb *pcb);
void flow_open_window(struct flow *flow, struct tcp_pcb *pcb);
err_t flow_on_accept(void *arg, struct tcp_pcb *pcb, err_t err);
err_t flow_on_connected(void *arg, struct tcp_pcb *pcb, err_t err);

/* flow_keepalive.c. flow_rest: it has nothing for lwIP's timers. flow_heard: a segment of its peer has come, and
 * flow_settle follows. flow_keepalive_due: 0: not before an event. flow_keepalive sends what probes are due. */
void flow_rest(zks_core *core, struct flow *flow);
void flow_heard(zks_core *core, struct flow *flow);
void flow_keepalive(zks_core *core);

/* flow.c */
void flow_inject(zks_core *core, const uint8_t *bytes, uint32_t length);
void flow_refuse(zks_core *core, struct flow *flow, int how);

#endif
