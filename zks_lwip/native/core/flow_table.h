/* The flows of a core: lists, the table that finds them by packet, ids, life. */
#ifndef ZKS_FLOW_TABLE_H
#define ZKS_FLOW_TABLE_H
#include "context.h"

/* Moves a flow to the end of a list (LIST_*). */
void flow_list_move(zks_core *core, struct flow *flow, uint8_t to);
/* Puts a flow that lwIP's timers have nothing to do for into LIST_IDLE, unless it is idle or asked already. */
void flow_rest(zks_core *core, struct flow *flow);
/* Notes that a segment of its peer has come; flow_settle follows. */
void flow_heard(zks_core *core, struct flow *flow);

/* What the table knows a four-tuple by. */
uint32_t flow_hash_of(const zks_core *core, const struct zks_address *source, uint16_t source_port,
                      const struct zks_address *destination, uint16_t destination_port);
/* The flow that a segment from the device belongs to, or NULL. */
struct flow *flow_find(const zks_core *core, const struct zks_packet *packet, uint32_t hash);
void flow_table_add(zks_core *core, struct flow *flow);
void flow_table_remove(zks_core *core, struct flow *flow);
/* The flow of an id that its owner has not let go, or NULL. */
struct flow *flow_get(const zks_core *core, uint64_t id);
/* Makes a flow, owned, with an id, in the table; NULL: out of memory. */
struct flow *flow_new(zks_core *core, const struct zks_address *source, uint16_t source_port,
                      const struct zks_address *destination, uint16_t destination_port);
/* Frees the flow if neither a pcb nor an owner needs it. */
void flow_reap(zks_core *core, struct flow *flow);
/* The owner lets go of the id: what has been received is freed, and an open flow lingers. */
void flow_release(zks_core *core, struct flow *flow);
/* The flow has no pcb any more: reports event (ZKS_EV_*; 0: none), unless an end has been reported. */
void flow_died(zks_core *core, struct flow *flow, uint8_t event);
/* The MSS of the flow that an outgoing segment belongs to. */
uint16_t flow_mss(const zks_core *core, const struct zks_packet *reply);

#endif
