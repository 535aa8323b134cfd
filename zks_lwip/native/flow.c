/* TCP segments of the device and the time that passes: which flow they belong to, and what it does with them.
 *
 * A SYN of a new flow is held until the other side says accept (then lwIP sees it) or reject. */
#include "flow.h"

#include <string.h>

#define HELD_MOST_MS 150000u /* longer than any connect: the other side has forgotten */
#define RETRANSMIT_MS 1000u  /* until the first retransmission of a SYN (RFC 6298 §2.1) */
#define SILENT_MOST_MS 300000u
#define TRIED_LEAST 6u /* times that bytes, or a probe of the window, have been sent in vain: over a minute of them */

/* ---- the held SYN ---- */
void flow_inject(zks_core *core, const uint8_t *bytes, uint32_t length)
{
    struct zks_packet packet;
    struct pbuf *p;
    if (zks_packet_parse(&packet, bytes, length, 0) != ZKS_PACKET_OK)
        return;
    p = pbuf_alloc(PBUF_RAW, (u16_t)packet.length, PBUF_RAM);
    if (!p) {
        core_count(core, ZKS_C_NO_MEMORY);
        return;
    }
    memcpy(p->payload, bytes, packet.length);
    core_inject(core, p, &packet);
}

void flow_refuse(zks_core *core, struct flow *flow, int how)
{
    uint8_t *syn = flow->syn;
    flow->syn = NULL;
    core_count(core, ZKS_C_FLOWS_REFUSED);
    if (how == ZKS_REJECT_RST) {
        flow_isolate(core, NULL); /* lwIP answers a SYN without a listener by RST */
        flow_inject(core, syn, flow->syn_length);
    } else if (how != ZKS_REJECT_SILENT) {
        icmp_error(core, syn, flow->syn_length, how, 0);
    }
    free(syn);
}

static void drop_oldest_wait(zks_core *core)
{
    struct flow *flow = core->lists[LIST_WAIT].first;
    flow_isolate(core, flow);
    tcp_abandon(flow->pcb, 0);
    flow_settle(core, flow);
}

static void hold(zks_core *core, const struct zks_packet *packet, const uint8_t *bytes)
{
    struct flow *flow;
    uint32_t live = core->flow_count - core->lists[LIST_WAIT].count;
    if (live >= core->config.max_flows || core->lists[LIST_HELD].count >= core->config.max_held) {
        core_count(core, ZKS_C_FLOWS_OVER_LIMIT);
        flow = core->lists[LIST_HELD].first;
        /* In silence: a RST would say that the far end has refused. Who still wants it sends its SYN again. */
        if (!flow)
            return;
        flow_refuse(core, flow, ZKS_REJECT_SILENT);
        flow_died(core, flow, ZKS_EV_RESET);
        flow_reap(core, flow);
    }
    while (core->lists[LIST_WAIT].count > core->config.max_flows)
        drop_oldest_wait(core);
    flow = flow_new(core, &packet->source, packet->source_port, &packet->destination, packet->destination_port);
    if (flow)
        flow->syn = malloc(packet->length);
    if (!flow || !flow->syn) {
        core_count(core, ZKS_C_NO_MEMORY);
        if (flow) {
            flow->held_id = 0;
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

/* A segment for a flow whose SYN is held: the same SYN joins it, RST cancels it, another SYN replaces it. */
static void held_segment(zks_core *core, struct flow *flow, const struct zks_packet *packet, const uint8_t *bytes)
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
static int given_up(const zks_core *core, const struct flow *flow)
{
    uint64_t due = (uint64_t)RETRANSMIT_MS << flow->syn_count;
    return core->now_ms - flow->since_ms >= HELD_MOST_MS ||
           core->now_ms - flow->syn_ms >= 4 * due + RETRANSMIT_MS;
}

/* ---- segments from the device ---- */
/* lwIP keeps a segment that comes early whole, even where it goes beyond the window, and when its turn comes asserts
 * that the window holds it. */
static void clip(struct pbuf *p, const struct zks_packet *packet, const struct tcp_pcb *pcb)
{
    uint8_t *bytes = p->payload;
    uint32_t fin = (packet->flags & ZKS_TCP_FIN) != 0, length = packet->data + fin;
    int32_t over = (int32_t)(packet->sequence + length - pcb->rcv_nxt - pcb->rcv_wnd);
    if (over <= 0 || (uint32_t)over >= length)
        return; /* all of it fits, or none: that lwIP sees */
    bytes[packet->payload + 13] &= (uint8_t)~ZKS_TCP_FIN;
    length = packet->length - ((uint32_t)over - fin);
    if (packet->source.family == 4)
        zks_put16(bytes + 2, length);
    else
        zks_put16(bytes + 4, length - 40);
    pbuf_realloc(p, (u16_t)length);
}

/* lwIP reads options in every segment, and believes them: a new MSS, below what it has queued already, would end in
 * an assertion, and one over the device's in fragments. After the handshake no option says anything to it. */
static void hide_options(struct pbuf *p, const struct zks_packet *packet)
{
    uint32_t header = packet->length - packet->payload - packet->data;
    if (header > 20)
        memset((uint8_t *)p->payload + packet->payload + 20, 1, header - 20); /* no operation */
}

/* Bytes in a SYN (TCP Fast Open, RFC 7413) are not ours to keep while it is held: they are cut off and not
 * acknowledged, so their sender sends them again after the handshake. */
static void cut_data(struct pbuf *p, struct zks_packet *packet)
{
    uint8_t *bytes = p->payload;
    packet->length -= packet->data;
    packet->data = 0;
    if (packet->source.family == 4) {
        zks_put16(bytes + 2, packet->length);
        zks_put16(bytes + 10, 0);
        zks_put16(bytes + 10, (uint16_t)~zks_fold(zks_sum(0, bytes, packet->payload)));
    } else {
        zks_put16(bytes + 4, packet->length - 40);
    }
    pbuf_realloc(p, (u16_t)packet->length);
}

void flow_segment(zks_core *core, struct pbuf *p, struct zks_packet *packet)
{
    uint32_t hash = core_hash(core, &packet->source, packet->source_port, &packet->destination,
                              packet->destination_port);
    struct flow *flow = flow_find(core, packet, hash);
    int syn = (packet->flags & (ZKS_TCP_SYN | ZKS_TCP_ACK)) == ZKS_TCP_SYN;

    if (flow && flow->state == FLOW_WAIT && syn) {
        /* A new connection on an old four-tuple: the old one is over (RFC 6191, with the kernel as the judge). */
        flow_isolate(core, flow);
        tcp_abandon(flow->pcb, 0);
        flow_settle(core, flow);
        flow = flow_find(core, packet, hash);
    }
    if (flow && flow->state == FLOW_DEAD) {
        /* Its holder has not let go of the id, but the four-tuple is free. */
        if (syn) {
            flow_unhash(core, flow);
            flow->hash = ~flow->hash; /* out of the way of the new one */
            flow_hash(core, flow);
        }
        flow = NULL;
    }
    if (syn && packet->data && (!flow || flow->state == FLOW_HELD))
        cut_data(p, packet);
    if (flow && flow->state == FLOW_HELD) {
        held_segment(core, flow, packet, p->payload);
        pbuf_free(p);
    } else if (flow) {
        /* At a window of zero lwIP answers an empty ACK with an ACK, although its sequence number is acceptable
         * (RFC 9293 §3.4); two of its kind would do so for ever. A window of one byte, for this call, prevents it. */
        int ajar = !(packet->flags & (ZKS_TCP_SYN | ZKS_TCP_FIN | ZKS_TCP_RST)) && !packet->data &&
                   flow->pcb->state != TIME_WAIT && flow->pcb->rcv_wnd == 0 &&
                   packet->sequence == flow->pcb->rcv_nxt;
        if (ajar)
            flow->pcb->rcv_wnd = 1;
        if (flow->state == FLOW_LINGER || (flow->list == LIST_BUSY && !(packet->flags & ZKS_TCP_RST)))
            flow->since_ms = core->now_ms;
        if (flow->pcb->state != SYN_SENT) {
            hide_options(p, packet);
            clip(p, packet, flow->pcb);
        }
        if (!(packet->flags & ZKS_TCP_RST))
            flow_heard(core, flow);
        flow_isolate(core, flow);
        core_inject(core, p, packet);
        if (flow->pcb && flow->pcb == tcp_active_pcbs) {
            if (ajar)
                flow->pcb->rcv_wnd--;
            flow_put_back(flow->pcb);
            if (flow->fresh)
                flow_open_window(flow, flow->pcb);
            flow_unstick(flow->pcb);
        }
        flow_settle(core, flow);
    } else if (syn) {
        hold(core, packet, p->payload);
        pbuf_free(p);
    } else {
        core_count(core, ZKS_C_STRAY_SEGMENTS);
        flow_isolate(core, NULL); /* RST, by lwIP */
        core_inject(core, p, packet);
    }
}

/* The ACKs that a batch of packets owes, one a flow. */
void flow_acknowledge(zks_core *core)
{
    while (core->ack_first) {
        struct flow *flow = core->ack_first;
        core->ack_first = flow->ack_next;
        flow->ack_due = 0;
        /* Not if a segment has carried it meanwhile. */
        if (flow->pcb && flow->state != FLOW_WAIT && flow->pcb->rcv_nxt != flow->acked) {
            flow_isolate(core, flow);
            tcp_ack_now(flow->pcb);
            tcp_output(flow->pcb);
            flow_settle(core, flow);
        }
    }
}

/* ---- the timers ---- */
static void link_list(struct flow_list *list, struct tcp_pcb **pcbs)
{
    struct flow *flow;
    *pcbs = NULL;
    for (flow = list->first; flow; flow = flow->next) {
        flow->pcb->next = *pcbs;
        *pcbs = flow->pcb;
    }
}

/* Pcbs that the timers have freed without a word are no longer linked. */
static void sweep(zks_core *core, uint8_t which, const struct tcp_pcb *pcbs)
{
    struct flow *flow, *next;
    const struct tcp_pcb *pcb;
    for (flow = core->lists[which].first; flow; flow = flow->next)
        flow->linked = 0;
    for (pcb = pcbs; pcb; pcb = pcb->next)
        ((struct flow *)pcb->callback_arg)->linked = 1;
    for (flow = core->lists[which].first; flow; flow = next) {
        next = flow->next;
        if (!flow->linked)
            flow_died(core, flow, ZKS_EV_CLOSED);
        else if (which == LIST_BUSY && !flow_is_busy(flow->pcb))
            flow_rest(core, flow);
    }
}

/* Its peer has been silent for so long that it must have vanished without a RST: lwIP would repeat the last bytes for
 * 40 minutes and more. A peer that is there answers at least every probe of its window. Where somebody holds the flow,
 * the peer must have had several chances to answer, too: we may have been stopped ourselves all the while. */
static int has_vanished(const zks_core *core, const struct flow *flow)
{
    const struct tcp_pcb *pcb = flow->pcb;
    if (core->now_ms - flow->since_ms <= SILENT_MOST_MS)
        return 0;
    return flow->state == FLOW_LINGER ||
           (core->config.keepalive_ms && (pcb->nrtx >= TRIED_LEAST || pcb->persist_probe >= TRIED_LEAST));
}

void flow_tick(zks_core *core)
{
    struct flow *flow, *next;
    for (flow = core->lists[LIST_HELD].first; flow; flow = next) {
        next = flow->next;
        if (given_up(core, flow))
            flow_died(core, flow, ZKS_EV_RESET);
    }
    for (flow = core->lists[LIST_BUSY].first; flow; flow = next) {
        next = flow->next;
        /* After two TCP_MSL of silence lwIP would forget it, with bytes that the peer has not read yet. */
        if (flow->pcb->state == LAST_ACK)
            flow->pcb->tmr = tcp_ticks;
        if (has_vanished(core, flow)) {
            flow_isolate(core, flow);
            tcp_abandon(flow->pcb, 1);
            flow_settle(core, flow);
        } else if (flow->pcb->persist_backoff) {
            flow_isolate(core, flow);
            flow_unstick(flow->pcb);
            flow_settle(core, flow);
        }
    }
    flow_keepalive(core);
    core->current = NULL;
    tcp_listen_pcbs.listen_pcbs = NULL;
    link_list(&core->lists[LIST_BUSY], &tcp_active_pcbs);
    link_list(&core->lists[LIST_WAIT], &tcp_tw_pcbs);
    tcp_fasttmr();
    core->half_tick ^= 1;
    if (core->half_tick)
        tcp_slowtmr();
    sweep(core, LIST_WAIT, tcp_tw_pcbs);
    sweep(core, LIST_BUSY, tcp_active_pcbs);
    tcp_active_pcbs = tcp_tw_pcbs = NULL;
    for (flow = core->lists[LIST_DEAD].first; flow; flow = next) {
        next = flow->next;
        flow_reap(core, flow);
    }
}

/* The MSS of the flow that an outgoing segment belongs to. */
uint16_t flow_mss(const zks_core *core, const struct zks_packet *reply)
{
    const struct flow *flow = core->current;
    if (!flow)
        flow = flow_find(core, reply, core_hash(core, &reply->source, reply->source_port, &reply->destination,
                                                 reply->destination_port));
    return flow && flow->mss ? flow->mss : 536;
}
