/* TCP flows: our own table in front of lwIP's pcbs.
 *
 * lwIP finds a pcb by walking lists. Here a hash table owns the pcbs: around every call into lwIP its lists hold
 * only the pcb of the flow at hand, and what is left in them afterwards says what became of it (settle). The timers
 * get the pcbs that have something to wait for.
 *
 * A SYN of a new flow is held until the other side says accept (then lwIP sees it) or reject. */
#include "internal.h"

#include <string.h>

#define HELD_MOST_MS 150000u /* longer than any connect: the other side has forgotten */
#define SUPER_SEGMENT 64000u /* bytes of one segment to a device that cuts it itself */

/* ---- lists ---- */
static void list_remove(zks_core *core, struct flow *flow)
{
    struct flow_list *list = &core->lists[flow->list];
    if (flow->list == LIST_NONE)
        return;
    *(flow->prev ? &flow->prev->next : &list->first) = flow->next;
    *(flow->next ? &flow->next->prev : &list->last) = flow->prev;
    list->count--;
    flow->prev = flow->next = NULL;
    flow->list = LIST_NONE;
}

static void list_move(zks_core *core, struct flow *flow, uint8_t to)
{
    struct flow_list *list = &core->lists[to];
    if (flow->list == to)
        return;
    list_remove(core, flow);
    if (to == LIST_NONE)
        return;
    flow->list = to;
    flow->prev = list->last;
    *(list->last ? &list->last->next : &list->first) = flow;
    list->last = flow;
    list->count++;
}

/* ---- the table ---- */
static struct flow *table_find(const zks_core *core, const struct zks_packet *packet, uint32_t hash)
{
    struct flow *flow = core->table[hash & core->table_mask];
    for (; flow; flow = flow->hash_next)
        if (flow->hash == hash && flow->source_port == packet->source_port &&
            flow->destination_port == packet->destination_port &&
            flow->source.family == packet->source.family &&
            !memcmp(flow->source.bytes, packet->source.bytes, 16) &&
            !memcmp(flow->destination.bytes, packet->destination.bytes, 16))
            return flow;
    return NULL;
}

static void table_remove(zks_core *core, struct flow *flow)
{
    struct flow **at = &core->table[flow->hash & core->table_mask];
    while (*at && *at != flow)
        at = &(*at)->hash_next;
    if (*at) {
        *at = flow->hash_next;
        core->flow_count--;
    }
}

static void table_grow(zks_core *core)
{
    uint32_t size = (core->table_mask + 1) * 2, i;
    struct flow **table = calloc(size, sizeof *table);
    if (!table)
        return; /* longer chains, until memory comes back */
    for (i = 0; i <= core->table_mask; i++) {
        struct flow *flow = core->table[i], *next;
        for (; flow; flow = next) {
            next = flow->hash_next;
            flow->hash_next = table[flow->hash & (size - 1)];
            table[flow->hash & (size - 1)] = flow;
        }
    }
    free(core->table);
    core->table = table;
    core->table_mask = size - 1;
}

static void table_add(zks_core *core, struct flow *flow)
{
    struct flow **at;
    if (core->flow_count > core->table_mask)
        table_grow(core);
    at = &core->table[flow->hash & core->table_mask];
    flow->hash_next = *at;
    *at = flow;
    core->flow_count++;
}

/* ---- ids: a slot in the low half, how often it has been used in the high half ---- */
static int slot_take(zks_core *core, struct flow *flow)
{
    uint32_t slot, count = core->slot_count;
    if (core->flow_count * 2 >= count) {
        /* Half of them stay free, so that the search below is short. */
        struct flow **slots;
        uint32_t *generations;
        count = count ? count * 2 : 64;
        slots = realloc(core->slots, count * sizeof *slots);
        if (!slots)
            return -1;
        core->slots = slots;
        generations = realloc(core->generations, count * sizeof *generations);
        if (!generations)
            return -1;
        core->generations = generations;
        memset(slots + core->slot_count, 0, (count - core->slot_count) * sizeof *slots);
        memset(generations + core->slot_count, 0, (count - core->slot_count) * sizeof *generations);
        core->slot_count = count;
    }
    slot = core->slot_hint & (count - 1);
    while (core->slots[slot])
        slot = (slot + 1) & (count - 1);
    core->slot_hint = slot + 1;
    core->slots[slot] = flow;
    flow->id = (uint64_t)++core->generations[slot] << 32 | slot;
    return 0;
}

static struct flow *flow_get(const zks_core *core, uint64_t id)
{
    uint32_t slot = (uint32_t)id;
    struct flow *flow;
    if (slot >= core->slot_count)
        return NULL;
    flow = core->slots[slot];
    return flow && flow->id == id && flow->held_id ? flow : NULL;
}

/* ---- life of a flow ---- */
static struct flow *flow_new(zks_core *core, const struct zks_address *source, uint16_t source_port,
                             const struct zks_address *destination, uint16_t destination_port)
{
    struct flow *flow = calloc(1, sizeof *flow);
    if (!flow)
        return NULL;
    flow->source = *source;
    flow->destination = *destination;
    flow->source_port = source_port;
    flow->destination_port = destination_port;
    flow->hash = core_hash(core, source, source_port, destination, destination_port);
    flow->since_ms = core->now_ms;
    if (slot_take(core, flow) != 0) {
        free(flow);
        return NULL;
    }
    flow->held_id = 1;
    table_add(core, flow);
    return flow;
}

static void ready_remove(zks_core *core, struct flow *flow)
{
    struct flow **at = &core->ready_first, *before = NULL;
    if (!flow->ready)
        return;
    while (*at != flow) {
        before = *at;
        at = &(*at)->ready_next;
    }
    *at = flow->ready_next;
    if (core->ready_last == flow)
        core->ready_last = before;
    flow->ready = 0;
}

static void ack_remove(zks_core *core, struct flow *flow)
{
    struct flow **at = &core->ack_first;
    if (!flow->ack_due)
        return;
    while (*at != flow)
        at = &(*at)->ack_next;
    *at = flow->ack_next;
    flow->ack_due = 0;
}

/* Frees what neither a pcb nor the id's holder needs. */
static void flow_reap(zks_core *core, struct flow *flow)
{
    if (flow->state == FLOW_DEAD && !flow->held_id) {
        ack_remove(core, flow);
        list_remove(core, flow);
        table_remove(core, flow);
        core->slots[(uint32_t)flow->id] = NULL;
        free(flow->syn);
        free(flow);
    }
}

static void flow_release(zks_core *core, struct flow *flow)
{
    if (flow->held_id) {
        ready_remove(core, flow);
        flow->held_id = 0;
        rx_clear(core, flow);
    }
    if (flow->state == FLOW_OPEN)
        flow->state = FLOW_LINGER;
}

static void flow_died(zks_core *core, struct flow *flow, uint8_t event)
{
    flow->pcb = NULL;
    flow->state = FLOW_DEAD;
    list_move(core, flow, LIST_DEAD);
    if (!flow->ended) {
        flow->ended = 1;
        if (event)
            core_ready(core, flow, event);
    }
}

/* ---- around lwIP ---- */
static void isolate(zks_core *core, struct flow *flow)
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

static int is_busy(const struct tcp_pcb *pcb)
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

/* Reads from lwIP's lists what has become of the flow's pcb. */
static void settle(zks_core *core, struct flow *flow)
{
    struct tcp_pcb *pcb = flow->pcb;
    core->current = NULL;
    if (!pcb) {
        /* The error callback has said so already. */
    } else if (tcp_active_pcbs == pcb) {
        list_move(core, flow, is_busy(pcb) ? LIST_BUSY : LIST_NONE);
    } else if (tcp_tw_pcbs == pcb) {
        if (flow->state != FLOW_WAIT) {
            flow->state = FLOW_WAIT;
            list_move(core, flow, LIST_WAIT);
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
    flow_reap(core, flow);
}

/* A segment that waits whole for more window than the peer will offer is cut, at once: lwIP's persist timer would
 * do so after half a second and more. */
static void unstick(struct tcp_pcb *pcb)
{
    if (pcb->unsent && !pcb->unacked && pcb->snd_wnd && pcb->snd_wnd < pcb->unsent->len &&
        tcp_split_unsent_seg(pcb, (u16_t)pcb->snd_wnd) == ERR_OK)
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
    if (!flow->held_id) {
        /* Nobody will read it. TF_RXCLOSED makes lwIP answer later data with RST; this came with the close. */
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
    if (flow->want_write && pcb->snd_buf >= TCP_SND_BUF / 2 && tcp_sndqueuelen(pcb) < TCP_SND_QUEUELEN / 2) {
        flow->want_write = 0;
        core_ready(core_current, flow, ZKS_EV_WRITABLE);
    }
    return ERR_OK;
}

static void on_error(void *arg, err_t err)
{
    struct flow *flow = arg;
    if (flow)
        flow_died(core_current, flow, err == ERR_CLSD ? ZKS_EV_CLOSED : ZKS_EV_RESET);
}

/* With offloads a segment is as long as the device takes it; the device cuts it to flow->mss. */
static void enlarge_segments(const zks_core *core, struct flow *flow, struct tcp_pcb *pcb)
{
    flow->mss = pcb->mss;
    if (core->framing == ZKS_FRAMING_VNET && pcb->mss)
        pcb->mss = (u16_t)(SUPER_SEGMENT / pcb->mss * pcb->mss);
}

/* The peer is this machine's kernel: no network between, no congestion to feel for. Called when lwIP is done with
 * the segment that ended the handshake, since it sets its own initial window after the callback. */
static void open_window(struct flow *flow, struct tcp_pcb *pcb)
{
    flow->fresh = 0;
    pcb->cwnd = TCP_SND_BUF;
    tcp_output(pcb);
}

static void established(struct flow *flow)
{
    flow->fresh = 1;
    core_ready(core_current, flow, ZKS_EV_ESTABLISHED);
}

static err_t on_accept(void *arg, struct tcp_pcb *pcb, err_t err)
{
    if (err != ERR_OK || !pcb)
        return ERR_VAL;
    established(arg);
    return ERR_OK;
}

static err_t on_connected(void *arg, struct tcp_pcb *pcb, err_t err)
{
    (void)err;
    enlarge_segments(core_current, arg, pcb);
    established(arg);
    return ERR_OK;
}

static void adopt(struct flow *flow, struct tcp_pcb *pcb)
{
    flow->pcb = pcb;
    flow->state = FLOW_OPEN;
    tcp_arg(pcb, flow);
    tcp_recv(pcb, on_recv);
    tcp_sent(pcb, on_sent);
    tcp_err(pcb, on_error);
    tcp_nagle_disable(pcb); /* what comes has been batched already */
}

/* ---- the held SYN ---- */
static void inject_bytes(zks_core *core, const uint8_t *bytes, uint32_t length)
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

static void refuse(zks_core *core, struct flow *flow, int how)
{
    uint8_t *syn = flow->syn;
    flow->syn = NULL;
    core_count(core, ZKS_C_FLOWS_REFUSED);
    if (how == ZKS_REJECT_RST) {
        isolate(core, NULL); /* lwIP answers a SYN without a listener by RST */
        inject_bytes(core, syn, flow->syn_length);
    } else if (how != ZKS_REJECT_SILENT) {
        icmp_error(core, syn, flow->syn_length, how, 0);
    }
    free(syn);
}

static void drop_oldest_wait(zks_core *core)
{
    struct flow *flow = core->lists[LIST_WAIT].first;
    isolate(core, flow);
    tcp_abandon(flow->pcb, 0);
    settle(core, flow);
}

static void hold(zks_core *core, const struct zks_packet *packet, const uint8_t *bytes)
{
    struct flow *flow;
    uint32_t live = core->flow_count - core->lists[LIST_WAIT].count;
    if (packet->length > 256) {
        core_count(core, ZKS_C_DROP_FIRST + ZKS_DROP_TCP_HEADER); /* data in a SYN (TFO) is not ours to keep */
        return;
    }
    if (live >= core->config.max_flows || core->lists[LIST_HELD].count >= core->config.max_held) {
        core_count(core, ZKS_C_FLOWS_OVER_LIMIT);
        flow = core->lists[LIST_HELD].first;
        if (!flow) {
            isolate(core, NULL);
            inject_bytes(core, bytes, packet->length);
            return;
        }
        refuse(core, flow, ZKS_REJECT_RST);
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
    flow->state = FLOW_HELD;
    list_move(core, flow, LIST_HELD);
    core_ready(core, flow, ZKS_EV_SYN);
}

/* A segment for a flow whose SYN is held: the same SYN joins it, RST cancels it, another SYN replaces it. */
static void held_segment(zks_core *core, struct flow *flow, const struct zks_packet *packet, const uint8_t *bytes)
{
    if (packet->flags & ZKS_TCP_RST) {
        flow_died(core, flow, ZKS_EV_RESET);
        flow_reap(core, flow);
    } else if ((packet->flags & (ZKS_TCP_SYN | ZKS_TCP_ACK)) == ZKS_TCP_SYN && packet->length <= 256) {
        core_count(core, ZKS_C_SYN_JOINED);
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

/* ---- segments from the device ---- */
void flow_segment(zks_core *core, struct pbuf *p, const struct zks_packet *packet, const uint8_t *bytes)
{
    uint32_t hash = core_hash(core, &packet->source, packet->source_port, &packet->destination,
                              packet->destination_port);
    struct flow *flow = table_find(core, packet, hash);
    int syn = (packet->flags & (ZKS_TCP_SYN | ZKS_TCP_ACK)) == ZKS_TCP_SYN;

    if (flow && flow->state == FLOW_WAIT && syn) {
        /* A new connection on an old four-tuple: the old one is over (RFC 6191, with the kernel as the judge). */
        isolate(core, flow);
        tcp_abandon(flow->pcb, 0);
        settle(core, flow);
        flow = table_find(core, packet, hash);
    }
    if (flow && flow->state == FLOW_DEAD) {
        /* Its holder has not let go of the id, but the four-tuple is free. */
        if (syn) {
            table_remove(core, flow);
            flow->hash = ~flow->hash; /* out of the way of the new one */
            table_add(core, flow);
        }
        flow = NULL;
    }
    if (flow && flow->state == FLOW_HELD) {
        held_segment(core, flow, packet, bytes);
        pbuf_free(p);
    } else if (flow) {
        /* At a window of zero lwIP answers an empty ACK with an ACK, although its sequence number is acceptable
         * (RFC 9293 §3.4); two of its kind would do so for ever. A window of one byte, for this call, prevents it. */
        int ajar = !(packet->flags & (ZKS_TCP_SYN | ZKS_TCP_FIN | ZKS_TCP_RST)) && !packet->data &&
                   flow->pcb->state != TIME_WAIT && flow->pcb->rcv_wnd == 0 &&
                   packet->sequence == flow->pcb->rcv_nxt;
        if (ajar)
            flow->pcb->rcv_wnd = 1;
        isolate(core, flow);
        core_inject(core, p, packet);
        if (flow->pcb && flow->pcb == tcp_active_pcbs) {
            if (ajar)
                flow->pcb->rcv_wnd--;
            if (flow->fresh)
                open_window(flow, flow->pcb);
            unstick(flow->pcb);
        }
        settle(core, flow);
    } else if (syn) {
        hold(core, packet, bytes);
        pbuf_free(p);
    } else {
        core_count(core, ZKS_C_STRAY_SEGMENTS);
        isolate(core, NULL); /* RST, by lwIP */
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
            isolate(core, flow);
            tcp_ack_now(flow->pcb);
            tcp_output(flow->pcb);
            settle(core, flow);
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
        else if (which == LIST_BUSY && !is_busy(flow->pcb))
            list_move(core, flow, LIST_NONE);
    }
}

void flow_tick(zks_core *core)
{
    struct flow *flow, *next;
    for (flow = core->lists[LIST_HELD].first; flow; flow = next) {
        next = flow->next;
        if (core->now_ms - flow->since_ms < HELD_MOST_MS)
            break; /* the oldest come first */
        flow_died(core, flow, ZKS_EV_RESET);
    }
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
        flow = table_find(core, reply, core_hash(core, &reply->source, reply->source_port, &reply->destination,
                                                 reply->destination_port));
    return flow && flow->mss ? flow->mss : 536;
}

/* ---- the other side: one call, one flow ---- */
static void address_set(struct zks_address *address, int family, const uint8_t *bytes)
{
    memset(address, 0, sizeof *address);
    memcpy(address->bytes, bytes, family == 4 ? 4 : 16);
    address->family = (uint8_t)family;
}

static void address_to_lwip(ip_addr_t *ip, const struct zks_address *address)
{
    if (address->family == 4) {
        ip_addr_set_zero_ip4(ip);
        memcpy(ip_2_ip4(ip), address->bytes, 4);
    } else {
        ip_addr_set_zero_ip6(ip);
        memcpy(ip_2_ip6(ip)->addr, address->bytes, 16);
    }
}

int zks_flow_info(zks_core *core, uint64_t id, struct zks_flow_info *info)
{
    struct flow *flow;
    memset(info, 0, sizeof *info);
    if (!core)
        return ZKS_GONE;
    core_enter(core);
    flow = flow_get(core, id);
    if (flow) {
        memcpy(info->source, flow->source.bytes, 16);
        memcpy(info->destination, flow->destination.bytes, 16);
        info->source_port = flow->source_port;
        info->destination_port = flow->destination_port;
        info->family = flow->source.family;
        info->held = flow->state == FLOW_HELD;
    }
    core_leave(core);
    return flow ? ZKS_OK : ZKS_GONE;
}

int zks_flow_accept(zks_core *core, uint64_t id)
{
    struct flow *flow;
    struct tcp_pcb *pcb;
    int result = ZKS_GONE;
    if (!core)
        return ZKS_GONE;
    core_enter(core);
    flow = flow_get(core, id);
    if (flow && flow->state == FLOW_HELD) {
        uint8_t *syn = flow->syn;
        flow->syn = NULL;
        list_move(core, flow, LIST_NONE);
        isolate(core, flow);
        core->listener->local_port = flow->destination_port;
        core->listener->callback_arg = flow;
        core->listener->next = NULL;
        tcp_listen_pcbs.listen_pcbs = core->listener;
        inject_bytes(core, syn, flow->syn_length);
        free(syn);
        pcb = tcp_active_pcbs;
        if (pcb) {
            adopt(flow, pcb);
            enlarge_segments(core, flow, pcb);
            /* Bytes and FIN may be pushed before the handshake's ACK has come. lwIP opens its congestion window, of
             * one byte so far, only on the way from SYN_RCVD to ESTABLISHED, which FIN cuts short: nothing would go. */
            pcb->cwnd = pcb->ssthresh = TCP_SND_BUF;
            core_count(core, ZKS_C_FLOWS_OPENED);
            settle(core, flow);
            result = ZKS_OK;
        } else {
            core_count(core, ZKS_C_NO_MEMORY);
            flow_died(core, flow, ZKS_EV_RESET);
            result = ZKS_NOMEM;
        }
    }
    core_leave(core);
    return result;
}

int zks_flow_reject(zks_core *core, uint64_t id, int how)
{
    struct flow *flow;
    int result = ZKS_GONE;
    if (!core)
        return ZKS_GONE;
    core_enter(core);
    flow = flow_get(core, id);
    if (flow && flow->state == FLOW_HELD) {
        refuse(core, flow, how);
        flow->ended = 1;
        flow_died(core, flow, 0);
        flow_release(core, flow);
        flow_reap(core, flow);
        result = ZKS_OK;
    }
    core_leave(core);
    return result;
}

uint64_t zks_flow_connect(zks_core *core, int family, const uint8_t *from, uint16_t from_port,
                          const uint8_t *to, uint16_t to_port)
{
    struct zks_packet key;
    struct flow *flow = NULL;
    struct tcp_pcb *pcb;
    ip_addr_t remote;
    uint64_t id = 0;
    if ((family != 4 && family != 6) || !from_port || !to_port)
        return 0;
    memset(&key, 0, sizeof key);
    address_set(&key.source, family, to);
    address_set(&key.destination, family, from);
    key.source_port = to_port;
    key.destination_port = from_port;
    if (!core)
        return 0;
    core_enter(core);
    if (core->flow_count < core->config.max_flows &&
        !table_find(core, &key, core_hash(core, &key.source, to_port, &key.destination, from_port)))
        flow = flow_new(core, &key.source, to_port, &key.destination, from_port);
    if (flow) {
        isolate(core, NULL);
        core->current = flow;
        pcb = tcp_new_ip_type(family == 4 ? IPADDR_TYPE_V4 : IPADDR_TYPE_V6);
        if (pcb) {
            address_to_lwip(&pcb->local_ip, &key.destination);
            address_to_lwip(&remote, &key.source);
            pcb->local_port = from_port;
            adopt(flow, pcb);
            if (tcp_connect(pcb, &remote, to_port, on_connected) == ERR_OK) {
                core_count(core, ZKS_C_FLOWS_OPENED);
                id = flow->id;
            } else {
                tcp_abandon(pcb, 0);
            }
        }
        if (!id) {
            flow->ended = 1;
            flow_died(core, flow, 0);
            flow_release(core, flow);
        }
        settle(core, flow);
    }
    core_leave(core);
    return id;
}

int64_t zks_flow_pull(zks_core *core, uint64_t id, uint8_t *buffer, size_t size)
{
    struct flow *flow;
    int64_t result = ZKS_GONE;
    if (!core)
        return ZKS_GONE;
    core_enter(core);
    flow = flow_get(core, id);
    if (flow && flow->state != FLOW_HELD) {
        size_t n = rx_take(core, flow, buffer, size), left = n;
        if (n) {
            result = (int64_t)n;
            if (flow->pcb && flow->state == FLOW_OPEN) {
                isolate(core, flow);
                while (left) {
                    u16_t part = (u16_t)(left > 0xffff ? 0xffff : left);
                    tcp_recved(flow->pcb, part);
                    left -= part;
                }
                settle(core, flow);
            }
        } else if (size == 0 && flow->rx_head) {
            result = 0;
        } else if (flow->rx_eof) {
            result = ZKS_EOF;
        } else if (flow->pcb) {
            result = 0;
        }
    }
    core_leave(core);
    return result;
}

int64_t zks_flow_push(zks_core *core, uint64_t id, const uint8_t *data, size_t length)
{
    struct flow *flow;
    int64_t result = ZKS_GONE;
    if (!core)
        return ZKS_GONE;
    core_enter(core);
    flow = flow_get(core, id);
    if (flow && flow->pcb && flow->state == FLOW_OPEN && !flow->fin_sent) {
        struct tcp_pcb *pcb = flow->pcb;
        size_t done = 0;
        err_t err = ERR_OK;
        isolate(core, flow);
        while (done < length && err == ERR_OK) {
            size_t part = length - done, room = pcb->snd_buf;
            if (part > room)
                part = room;
            if (part > 0xffff)
                part = 0xffff;
            if (!part)
                break;
            err = tcp_write(pcb, data + done, (u16_t)part, TCP_WRITE_FLAG_COPY);
            if (err == ERR_OK)
                done += part;
        }
        if (err == ERR_OK || err == ERR_MEM) {
            result = (int64_t)done;
            flow->want_write = done < length || (!length && pcb->snd_buf < TCP_SND_BUF / 2);
            tcp_output(pcb);
            unstick(pcb);
            if (err == ERR_MEM && !pcb->unsent && !pcb->unacked)
                result = ZKS_NOMEM; /* nothing under way whose ACK could make room */
        }
        settle(core, flow);
    }
    core_leave(core);
    return result;
}

int64_t zks_flow_unacked(zks_core *core, uint64_t id)
{
    struct flow *flow;
    int64_t result = ZKS_GONE;
    if (!core)
        return ZKS_GONE;
    core_enter(core);
    flow = flow_get(core, id);
    if (flow && flow->pcb)
        result = (int64_t)(TCP_SND_BUF - flow->pcb->snd_buf);
    core_leave(core);
    return result;
}

int zks_flow_shutdown(zks_core *core, uint64_t id)
{
    struct flow *flow;
    int result = ZKS_GONE;
    if (!core)
        return ZKS_GONE;
    core_enter(core);
    flow = flow_get(core, id);
    if (flow && flow->pcb && flow->state == FLOW_OPEN) {
        if (!flow->fin_sent) {
            flow->fin_sent = 1;
            isolate(core, flow);
            tcp_shutdown(flow->pcb, 0, 1);
            settle(core, flow);
        }
        result = ZKS_OK;
    }
    core_leave(core);
    return result;
}

int zks_flow_abort(zks_core *core, uint64_t id)
{
    struct flow *flow;
    if (!core)
        return ZKS_GONE;
    core_enter(core);
    flow = flow_get(core, id);
    if (flow) {
        flow->ended = 1;
        if (flow->state == FLOW_HELD) {
            refuse(core, flow, ZKS_REJECT_RST);
            flow_died(core, flow, 0);
        }
        flow_release(core, flow);
        isolate(core, flow);
        if (flow->pcb && flow->state != FLOW_WAIT)
            tcp_abandon(flow->pcb, 1);
        settle(core, flow);
    }
    core_leave(core);
    return flow ? ZKS_OK : ZKS_GONE;
}

int zks_flow_close(zks_core *core, uint64_t id)
{
    struct flow *flow;
    uint32_t unread;
    if (!core)
        return ZKS_GONE;
    core_enter(core);
    flow = flow_get(core, id);
    if (flow) {
        flow->ended = 1;
        unread = flow->rx_bytes;
        if (flow->state == FLOW_HELD) {
            refuse(core, flow, ZKS_REJECT_RST);
            flow_died(core, flow, 0);
        }
        flow_release(core, flow);
        isolate(core, flow);
        if (flow->pcb && flow->state != FLOW_WAIT) {
            if (unread)
                tcp_abandon(flow->pcb, 1); /* as a kernel does: the peer must learn that bytes were lost */
            else
                tcp_close(flow->pcb);
        }
        settle(core, flow);
    }
    core_leave(core);
    return flow ? ZKS_OK : ZKS_GONE;
}

/* ---- a core's life ---- */
int flow_setup(zks_core *core)
{
    struct tcp_pcb *pcb;
    core->table_mask = 255;
    core->table = calloc(core->table_mask + 1, sizeof *core->table);
    if (!core->table)
        return -1;
    tcp_listen_pcbs.listen_pcbs = NULL;
    tcp_bound_pcbs = NULL;
    pcb = tcp_new_ip_type(IPADDR_TYPE_ANY);
    core->listener = pcb ? (struct tcp_pcb_listen *)tcp_listen_with_backlog(pcb, 1) : NULL;
    tcp_listen_pcbs.listen_pcbs = NULL;
    if (!core->listener) {
        if (pcb)
            tcp_abandon(pcb, 0);
        return -1;
    }
    tcp_accept((struct tcp_pcb *)core->listener, on_accept);
    return 0;
}

void flow_teardown(zks_core *core)
{
    uint32_t i;
    for (i = 0; i < core->slot_count; i++) {
        struct flow *flow = core->slots[i];
        if (!flow)
            continue;
        flow->ended = 1;
        if (flow->state == FLOW_HELD) {
            refuse(core, flow, ZKS_REJECT_RST);
            flow_died(core, flow, 0);
        }
        flow_release(core, flow);
        isolate(core, flow);
        if (flow->pcb)
            tcp_abandon(flow->pcb, 1);
        settle(core, flow);
    }
    if (core->listener) {
        isolate(core, NULL);
        tcp_listen_pcbs.listen_pcbs = core->listener;
        tcp_close((struct tcp_pcb *)core->listener);
        tcp_listen_pcbs.listen_pcbs = NULL;
    }
    free(core->slots);
    free(core->generations);
    free(core->table);
    core->slots = NULL;
    core->slot_count = 0;
}
