/* TCP segments from the device: which flow they belong to, and what lwIP may see of them. */
#include "flow_input.h"

#include <string.h>

#include "flow_held.h"
#include "flow_lwip.h"
#include "flow_table.h"

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

/* lwIP answers an empty ACK beyond the window with an ACK: at a window of zero also the one that comes next, although
 * that is acceptable (RFC 9293 §3.4), and the one that follows a refused probe, which has moved its sender's sequence
 * number. Two stacks of its kind with closed windows would do so for ever. A window that reaches there, for this call,
 * prevents it, and the ACK and the window in the segment count. Returns by how many bytes it was opened. */
static uint32_t lend_window(struct tcp_pcb *pcb, const struct zks_packet *packet)
{
    uint32_t ahead = packet->sequence - pcb->rcv_nxt, lent;
    if (packet->flags & (ZKS_TCP_SYN | ZKS_TCP_FIN | ZKS_TCP_RST) || packet->data || pcb->state == TIME_WAIT ||
        pcb->state == SYN_SENT || ahead < pcb->rcv_wnd || ahead >= TCP_WND_MAX(pcb))
        return 0;
    lent = ahead + 1 - pcb->rcv_wnd;
    pcb->rcv_wnd += (tcpwnd_size_t)lent;
    return lent;
}

/* lwIP (2.2.1) takes a smaller window only from a segment that brings something new. A kernel that has no memory for
 * what we sent takes its window back by the ACK that it has sent before, which counts, too (RFC 9293 §3.10.7.4:
 * SND.WL2 =< SEG.ACK). See zks_tcp_out. */
static void heed_window(struct tcp_pcb *pcb, const struct pbuf *p, const struct zks_packet *packet)
{
    const uint8_t *header = (const uint8_t *)p->payload + packet->payload;
    if ((packet->flags & (ZKS_TCP_SYN | ZKS_TCP_RST | ZKS_TCP_ACK)) == ZKS_TCP_ACK &&
        packet->sequence == pcb->snd_wl1 && zks_get32(header + 8) == pcb->snd_wl2 &&
        SND_WND_SCALE(pcb, (tcpwnd_size_t)zks_get16(header + 14)) < pcb->snd_wnd)
        pcb->snd_wl2--;
}

/* Whether the window ends before the end of what was sent first and is not acknowledged: it was taken back. */
static int is_taken_back(const struct tcp_pcb *pcb)
{
    const struct tcp_seg *sent = pcb->unacked;
    return sent && TCP_SEQ_GT(lwip_ntohl(sent->tcphdr->seqno) + sent->len, pcb->lastack + pcb->snd_wnd);
}

/* A kernel that has taken its window back has dropped what was sent into it. When it opens the window again, beyond
 * where it ended, all from there is sent again. lwIP (2.2.1) would wait for its timer, for seconds: no duplicate ACK
 * says that something is missing. */
static void send_again(struct tcp_pcb *pcb, uint32_t first, uint32_t end)
{
    if (pcb->unacked && pcb->unacked->tcphdr->seqno == first && TCP_SEQ_GT(pcb->lastack + pcb->snd_wnd, end) &&
        tcp_rexmit_rto_prepare(pcb) == ERR_OK) {
        pcb->rtime = 0;
        tcp_output(pcb);
    }
}

void flow_segment(zks_core *core, struct pbuf *p, struct zks_packet *packet)
{
    uint32_t hash =
        flow_hash_of(core, &packet->source, packet->source_port, &packet->destination, packet->destination_port);
    struct flow *flow = flow_find(core, packet, hash);
    int syn = (packet->flags & (ZKS_TCP_SYN | ZKS_TCP_ACK)) == ZKS_TCP_SYN;

    if (flow && flow->state == FLOW_WAIT && syn) {
        /* A new connection on an old four-tuple: the old one is over (RFC 6191, with the kernel as the judge). */
        flow_abandon(core, flow, 0);
        flow = flow_find(core, packet, hash);
    }
    if (flow && flow->state == FLOW_DEAD) {
        /* Its owner has not let go of the id, but the four-tuple is free. */
        if (syn) {
            flow_table_remove(core, flow);
            flow->hash = ~flow->hash; /* out of the way of the new one */
            flow_table_add(core, flow);
        }
        flow = NULL;
    }
    if (syn && packet->data && (!flow || flow->state == FLOW_HELD))
        cut_data(p, packet);
    if (flow && flow->state == FLOW_HELD) {
        flow_held_segment(core, flow, packet, p->payload);
        pbuf_free(p);
    } else if (flow) {
        uint32_t lent = lend_window(flow->pcb, packet), first = 0, end = 0;
        int taken_back = 0;
        if (flow->state == FLOW_LINGER || (flow->list == LIST_BUSY && !(packet->flags & ZKS_TCP_RST)))
            flow->since_ms = core->now_ms;
        if (flow->pcb->state != SYN_SENT) {
            hide_options(p, packet);
            clip(p, packet, flow->pcb);
            heed_window(flow->pcb, p, packet);
            taken_back = is_taken_back(flow->pcb);
            end = flow->pcb->lastack + flow->pcb->snd_wnd;
            first = taken_back ? flow->pcb->unacked->tcphdr->seqno : 0; /* in the order of the network */
        }
        if (!(packet->flags & ZKS_TCP_RST))
            flow_heard(core, flow);
        flow_isolate(core, flow);
        flow_inject(core, p, packet);
        if (flow->pcb && flow->pcb == tcp_active_pcbs) {
            flow->pcb->rcv_wnd -= (tcpwnd_size_t)lent;
            flow_put_back(flow->pcb);
            if (taken_back)
                send_again(flow->pcb, first, end);
            if (flow->fresh)
                flow_open_window(flow, flow->pcb);
            flow_unstick(flow->pcb);
        }
        flow_settle(core, flow);
    } else if (syn) {
        flow_hold(core, packet, p->payload);
        pbuf_free(p);
    } else {
        core_count(core, ZKS_C_STRAY_SEGMENTS);
        flow_isolate(core, NULL); /* RST, by lwIP */
        flow_inject(core, p, packet);
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
