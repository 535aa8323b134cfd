/* The SYN of a new flow: held, without a pcb, until its owner says accept (then lwIP sees it) or reject. */
#include "flow_held.h"

#include <string.h>

#include "datagram_out.h"
#include "flow_lwip.h"
#include "flow_table.h"

#define MAX_HELD_MS 150000u /* longer than any connect() waits: its owner will not decide any more */
#define RETRANSMIT_MS 1000u /* until the first retransmission of a SYN (RFC 6298 §2.1) */

void flow_refuse(zks_core *core, struct flow *flow, int how)
{
    uint8_t *syn = flow->syn;
    flow->syn = NULL;
    core_count(core, ZKS_C_FLOWS_REFUSED);
    if (how == ZKS_REJECT_RST) {
        flow_isolate(core, NULL); /* lwIP answers a SYN without a listener by RST */
        flow_inject_bytes(core, syn, flow->syn_length);
    } else if (how != ZKS_REJECT_SILENT) {
        icmp_error(core, syn, flow->syn_length, how, 0);
    }
    free(syn);
}

void flow_hold(zks_core *core, const struct zks_packet *packet, const uint8_t *bytes)
{
    struct flow *flow;
    uint32_t live = core->flow_count - core->lists[LIST_WAIT].count;
    if (live >= core->config.max_flows || core->lists[LIST_HELD].count >= core->config.max_held) {
        core_count(core, ZKS_C_FLOWS_OVER_LIMIT);
        flow = core->lists[LIST_HELD].first;
        /* Silently: a RST would say that the far end has refused. A client that still waits sends its SYN again. */
        if (!flow)
            return;
        flow_refuse(core, flow, ZKS_REJECT_SILENT);
        flow_died(core, flow, ZKS_EV_RESET);
        flow_reap(core, flow);
    }
    while (core->lists[LIST_WAIT].count > core->config.max_flows)
        flow_abandon(core, core->lists[LIST_WAIT].first, 0);
    flow = flow_new(core, &packet->source, packet->source_port, &packet->destination, packet->destination_port);
    if (flow)
        flow->syn = malloc(packet->length);
    if (!flow || !flow->syn) {
        core_count(core, ZKS_C_NO_MEMORY);
        if (flow) {
            flow->owned = 0;
            flow->state = FLOW_DEAD;
            flow_reap(core, flow);
        }
        return;
    }
    memcpy(flow->syn, bytes, packet->length);
    flow->syn_length = (uint16_t)packet->length;
    flow->syn_ms = core->now_ms;
    flow->state = FLOW_HELD;
    flow_list_move(core, flow, LIST_HELD);
    core_ready(core, flow, ZKS_EV_SYN);
}

void flow_held_segment(zks_core *core, struct flow *flow, const struct zks_packet *packet, const uint8_t *bytes)
{
    if (packet->flags & ZKS_TCP_RST) {
        flow_died(core, flow, ZKS_EV_RESET);
        flow_reap(core, flow);
    } else if ((packet->flags & (ZKS_TCP_SYN | ZKS_TCP_ACK)) == ZKS_TCP_SYN) {
        core_count(core, ZKS_C_SYN_JOINED);
        flow->syn_ms = core->now_ms;
        if (flow->syn_count < 7)
            flow->syn_count++;
        if (packet->length != flow->syn_length || packet->sequence != zks_get32(flow->syn + packet->payload + 4)) {
            uint8_t *syn = malloc(packet->length);
            if (!syn)
                return;
            free(flow->syn);
            flow->syn = syn;
            flow->syn_length = (uint16_t)packet->length;
            memcpy(syn, bytes, packet->length);
        }
    } else {
        core_count(core, ZKS_C_STRAY_SEGMENTS);
    }
}

/* A kernel says nothing when an application gives up a connect(): it only stops to retransmit. The next SYN is due
 * after at most twice the last interval; four times, and two lost ones are forgiven. */
int flow_given_up(const zks_core *core, const struct flow *flow)
{
    uint64_t due = (uint64_t)RETRANSMIT_MS << flow->syn_count;
    return core->now_ms - flow->since_ms >= MAX_HELD_MS || core->now_ms - flow->syn_ms >= 4 * due + RETRANSMIT_MS;
}
