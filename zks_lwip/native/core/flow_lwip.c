/* Flows around lwIP's pcbs: what happens before and after every call into lwIP, and what lwIP calls back. */
#include "flow_lwip.h"

#include <string.h>

#include "lwip/ip4.h"
#include "lwip/ip6.h"

#include "flow_budget.h"
#include "flow_rx.h"
#include "flow_table.h"

#define SUPER_SEGMENT 64000u /* bytes of one segment to a device that cuts it itself */
#define MIN_MSS 48u          /* that of Linux (tcp_min_snd_mss): no peer shall get a packet for each byte */
#define MIN_HALF_WINDOW 536u

/* ---- around lwIP ---- */
void flow_isolate(zks_core *core, struct flow *flow)
{
    struct tcp_pcb *pcb = flow ? flow->pcb : NULL;
    core->current = flow;
    tcp_active_pcbs = tcp_tw_pcbs = tcp_bound_pcbs = NULL;
    tcp_listen_pcbs.listen_pcbs = NULL;
    if (pcb) {
        pcb->next = NULL;
        *(pcb->state == TIME_WAIT ? &tcp_tw_pcbs : &tcp_active_pcbs) = pcb;
    }
}

void flow_listen(zks_core *core, struct flow *flow)
{
    flow_isolate(core, flow);
    core->listener->local_port = flow->destination_port;
    core->listener->callback_arg = flow;
    core->listener->next = NULL;
    tcp_listen_pcbs.listen_pcbs = core->listener;
}

int flow_is_busy(const struct tcp_pcb *pcb)
{
    switch (pcb->state) {
    case ESTABLISHED:
    case CLOSE_WAIT:
        break;
    case FIN_WAIT_2: /* the peer may take its time, unless we have closed for good */
        if (pcb->flags & TF_RXCLOSED)
            return 1;
        break;
    default:
        return 1;
    }
    return pcb->unacked || pcb->unsent || pcb->ooseq || pcb->refused_data || pcb->persist_backoff ||
           (pcb->flags & (TF_ACK_DELAY | TF_CLOSEPEND | TF_NAGLEMEMERR));
}

void flow_settle(zks_core *core, struct flow *flow)
{
    struct tcp_pcb *pcb = flow->pcb;
    core->current = NULL;
    if (!pcb) {
        /* The error callback has said so already. */
    } else if (tcp_active_pcbs == pcb) {
        if (flow_is_busy(pcb))
            flow_list_move(core, flow, LIST_BUSY);
        else
            flow_rest(core, flow);
    } else if (tcp_tw_pcbs == pcb) {
        if (flow->state != FLOW_WAIT) {
            flow->state = FLOW_WAIT;
            flow_list_move(core, flow, LIST_WAIT);
            if (!flow->ended) {
                flow->ended = 1;
                core_ready(core, flow, ZKS_EV_CLOSED);
            }
        }
    } else {
        flow_died(core, flow, ZKS_EV_CLOSED);
    }
    tcp_active_pcbs = tcp_tw_pcbs = tcp_bound_pcbs = NULL;
    tcp_listen_pcbs.listen_pcbs = NULL;
    budget_charge(core, flow);
    flow_reap(core, flow);
}

void flow_inject(zks_core *core, struct pbuf *p, const struct zks_packet *packet)
{
    /* Every packet is for us, so its destination becomes our address: written directly, since netif_set_ipaddr would
     * abort the pcbs that are bound to the address before. */
    if (packet->source.family == 4) {
        memcpy(ip_2_ip4(&core->netif.ip_addr), packet->destination.bytes, 4);
        ip4_input(p, &core->netif);
    } else {
        memcpy(ip_2_ip6(&core->netif.ip6_addr[1])->addr, packet->destination.bytes, 16);
        ip6_input(p, &core->netif);
    }
}

void flow_inject_bytes(zks_core *core, const uint8_t *bytes, uint32_t length)
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
    flow_inject(core, p, &packet);
}

void flow_abandon(zks_core *core, struct flow *flow, int reset)
{
    flow_isolate(core, flow);
    tcp_abandon(flow->pcb, reset);
    flow_settle(core, flow);
}

/* Three duplicate ACKs at a closed window: lwIP (2.2.1, tcp_rexmit) moves the segment to be repeated to what is unsent,
 * where the window keeps it behind those that were sent after it. At the next timeout it would be taken for the last
 * one, FIN and later bytes be added to it, and the peer find them in the midst of the stream. It is sent again by the
 * timer, in its place. */
void flow_put_back(struct tcp_pcb *pcb)
{
    struct tcp_seg *segment = pcb->unsent, *sent = pcb->unacked;
    if (!segment || !sent || !TCP_SEQ_LT(lwip_ntohl(segment->tcphdr->seqno), lwip_ntohl(sent->tcphdr->seqno)))
        return;
    pcb->unsent = segment->next;
    segment->next = sent;
    pcb->unacked = segment;
}

/* A segment that waits whole for more window than the peer will offer is cut, at once: lwIP's persist timer would
 * do so after half a second and more. It would also leave FIN on the first part (2.2.1: tcp_split_unsent_seg), and
 * the peer would take the rest for data after the end; so the timer must not find anything to cut.
 * The window begins at what has been acknowledged. That may be in the midst of the segment: the peer has taken a part
 * of it, or a probe's byte, before a timeout moved it back. A first part that ends before there never leaves lwIP. */
void flow_unstick(struct tcp_pcb *pcb)
{
    uint32_t taken, split;
    if (!pcb->unsent)
        pcb->persist_backoff = 0; /* the last byte went as a probe of the window; lwIP asserts that there is more */
    if (!pcb->unsent || pcb->unacked || !pcb->snd_wnd)
        return;
    taken = pcb->lastack - lwip_ntohl(pcb->unsent->tcphdr->seqno);
    split = taken + pcb->snd_wnd;
    if (taken >= pcb->unsent->len || split >= pcb->unsent->len)
        return;
    if (tcp_split_unsent_seg(pcb, (u16_t)split) != ERR_OK) {
        pcb->persist_cnt = 0; /* out of memory: not yet, then */
        return;
    }
    TCPH_UNSET_FLAG(pcb->unsent->tcphdr, TCP_FIN | TCP_PSH);
    tcp_output(pcb);
}

/* ---- lwIP's callbacks: the argument is the flow ---- */
static err_t on_recv(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t err)
{
    struct flow *flow = arg;
    (void)err;
    if (!p) {
        flow->rx_eof = 1;
        core_ready(core_current, flow, ZKS_EV_READABLE);
        return ERR_OK;
    }
    if (!flow->owned) {
        /* The owner has closed the flow. TF_RXCLOSED makes lwIP answer later data with RST; this came with the close.
         */
        pbuf_free(p);
        tcp_abort(pcb);
        return ERR_ABRT;
    }
    if (rx_append(core_current, flow, p) != 0) {
        core_count(core_current, ZKS_C_NO_MEMORY);
        pbuf_free(p);
        tcp_abort(pcb);
        return ERR_ABRT;
    }
    /* One ACK for all that this batch of packets brings, and that at its end: lwIP's own delayed ACK takes 250 ms,
     * and the peer may be waiting under Nagle. */
    tcp_clear_flags(pcb, TF_ACK_DELAY | TF_ACK_NOW);
    if (!flow->ack_due) {
        flow->ack_due = 1;
        flow->ack_next = core_current->ack_first;
        core_current->ack_first = flow;
    }
    core_ready(core_current, flow, ZKS_EV_READABLE);
    return ERR_OK;
}

static err_t on_sent(void *arg, struct tcp_pcb *pcb, u16_t length)
{
    struct flow *flow = arg;
    (void)length;
    if (flow->want_write && budget_has_room(core_current, pcb)) {
        flow->want_write = 0;
        core_ready(core_current, flow, ZKS_EV_WRITABLE);
    }
    return ERR_OK;
}

static void on_error(void *arg, err_t err)
{
    struct flow *flow = arg;
    int in_order = err == ERR_CLSD;
    if (!flow)
        return;
    /* A probe has found a peer that had sent FIN and then forgotten the flow: nothing of what it sent is taken back. */
    if (flow->list == LIST_ASKED && flow->rx_eof)
        in_order = 1;
    if (!flow->why)
        flow->why = err == ERR_RST ? ZKS_WHY_RESET : ZKS_WHY_TIMEOUT;
    flow_died(core_current, flow, in_order ? ZKS_EV_CLOSED : ZKS_EV_RESET);
}

/* How long segments are, decided once, before the first byte. With offloads, as long as the device takes them; the
 * device cuts them to flow->mss. */
void flow_size_segments(const zks_core *core, struct flow *flow, struct tcp_pcb *pcb)
{
    if (pcb->mss < MIN_MSS)
        pcb->mss = MIN_MSS;
    flow->mss = pcb->mss;
    if (core->framing == ZKS_FRAMING_VNET && pcb->mss < SUPER_SEGMENT)
        pcb->mss = (u16_t)(SUPER_SEGMENT / pcb->mss * pcb->mss);
    /* lwIP makes segments of at most half the largest window so far; but of any length while that is 0, and at the
     * next write it asserts that none is longer than it would be now. */
    if (pcb->snd_wnd_max < 2 * MIN_HALF_WINDOW)
        pcb->snd_wnd_max = 2 * MIN_HALF_WINDOW;
}

/* The peer is this machine's kernel: no network between, no congestion to feel for. Called when lwIP is done with
 * the segment that ended the handshake, since it sets its own initial window after the callback. */
void flow_open_window(struct flow *flow, struct tcp_pcb *pcb)
{
    flow->fresh = 0;
    pcb->cwnd = TCP_SND_BUF;
    if (flow->fin_sent && pcb->state == ESTABLISHED)
        tcp_shutdown(pcb, 0, 1); /* asked for while our SYN was on its way */
    tcp_output(pcb);
}

static void established(struct flow *flow)
{
    flow->fresh = 1;
    if (flow->quiet && !flow->want_write)
        flow->events |= ZKS_EV_ESTABLISHED;
    else
        core_ready(core_current, flow, flow->want_write ? ZKS_EV_ESTABLISHED | ZKS_EV_WRITABLE : ZKS_EV_ESTABLISHED);
    flow->want_write = 0;
}

err_t flow_on_accept(void *arg, struct tcp_pcb *pcb, err_t err)
{
    if (err != ERR_OK || !pcb)
        return ERR_VAL;
    established(arg);
    return ERR_OK;
}

err_t flow_on_connected(void *arg, struct tcp_pcb *pcb, err_t err)
{
    (void)err;
    pcb->rttest = 0; /* lwIP would take all the time until the first byte is acknowledged for the round trip */
    flow_size_segments(core_current, arg, pcb);
    budget_set_window(pcb, BUDGET_FIRST_WINDOW);
    established(arg);
    return ERR_OK;
}

void flow_adopt(struct flow *flow, struct tcp_pcb *pcb)
{
    flow->pcb = pcb;
    flow->state = FLOW_OPEN;
    tcp_arg(pcb, flow);
    tcp_recv(pcb, on_recv);
    tcp_sent(pcb, on_sent);
    tcp_err(pcb, on_error);
    tcp_nagle_disable(pcb); /* what comes has been batched already */
}
