/* The public calls on one flow: lock, look up, act, settle, unlock. */
#include <string.h>

#include "flow_budget.h"
#include "flow_held.h"
#include "flow_life.h"
#include "flow_lwip.h"
#include "flow_rx.h"
#include "flow_table.h"
#include "platform.h"

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

/* Begins a public call on one flow: locks the core and defines `flow`; ZKS_GONE if there is none of that id. Between
 * the two flow_isolate and flow_settle stand around what calls lwIP. */
#define FLOW_BEGIN(core, id)   \
    struct flow *flow;         \
    if (!(core))               \
        return ZKS_GONE;       \
    core_enter(core);          \
    flow = flow_get(core, id); \
    if (!flow) {               \
        core_leave(core);      \
        return ZKS_GONE;       \
    }
/* Ends it: unlocks the core and returns the result. */
#define FLOW_END(core, result) \
    core_leave(core);          \
    return (result)

int zks_flow_info(zks_core *core, uint64_t id, struct zks_flow_info *info)
{
    memset(info, 0, sizeof *info);
    FLOW_BEGIN(core, id);
    memcpy(info->source, flow->source.bytes, 16);
    memcpy(info->destination, flow->destination.bytes, 16);
    info->source_port = flow->source_port;
    info->destination_port = flow->destination_port;
    info->pulled = flow->pulled;
    info->pushed = flow->pushed;
    info->family = flow->source.family;
    info->held = flow->state == FLOW_HELD;
    FLOW_END(core, ZKS_OK);
}

int zks_flow_accept(zks_core *core, uint64_t id, int quiet)
{
    int result = ZKS_GONE;
    FLOW_BEGIN(core, id);
    if (flow->state == FLOW_HELD) {
        uint8_t *syn = flow->syn;
        struct tcp_pcb *pcb;
        flow->syn = NULL;
        flow->quiet = quiet != 0;
        flow_list_move(core, flow, LIST_NONE);
        flow_listen(core, flow);
        flow->first_window = budget_first_window(core);
        flow_inject_bytes(core, syn, flow->syn_length);
        free(syn);
        pcb = tcp_active_pcbs;
        if (pcb) {
            flow_adopt(flow, pcb);
            flow_size_segments(core, flow, pcb);
            budget_set_window(pcb, flow->first_window);
            /* Bytes and FIN may be pushed before the handshake's ACK has come. lwIP opens its congestion window, of
             * one byte so far, only on the way from SYN_RCVD to ESTABLISHED, which FIN cuts short: nothing would go. */
            pcb->cwnd = pcb->ssthresh = TCP_SND_BUF;
            core_count(core, ZKS_C_FLOWS_OPENED);
            flow_settle(core, flow);
            result = ZKS_OK;
        } else {
            core_count(core, ZKS_C_NO_MEMORY);
            flow_died(core, flow, ZKS_EV_RESET);
            result = ZKS_NOMEM;
        }
    }
    FLOW_END(core, result);
}

int zks_flow_reject(zks_core *core, uint64_t id, int how)
{
    int result = ZKS_GONE;
    FLOW_BEGIN(core, id);
    if (flow->state == FLOW_HELD || flow->state == FLOW_DEAD) {
        if (flow->state == FLOW_HELD) {
            flow_refuse(core, flow, how);
            flow->ended = 1;
            flow_died(core, flow, 0);
        }
        flow_release(core, flow);
        flow_reap(core, flow);
        result = ZKS_OK;
    }
    FLOW_END(core, result);
}

uint64_t zks_flow_connect(zks_core *core, int family, const uint8_t *from, uint16_t from_port, const uint8_t *to,
                          uint16_t to_port)
{
    struct zks_packet key;
    struct flow *flow = NULL;
    struct tcp_pcb *pcb;
    ip_addr_t remote;
    uint64_t id = 0;
    if ((family != 4 && family != 6) || !from_port || !to_port)
        return 0;
    /* A flow is found by the packets of its application, so their source is where this one connects to. */
    memset(&key, 0, sizeof key);
    address_set(&key.source, family, to);
    address_set(&key.destination, family, from);
    key.source_port = to_port;
    key.destination_port = from_port;
    if (!core)
        return 0;
    core_enter(core);
    if (core->flow_count < core->config.max_flows &&
        !flow_find(core, &key, flow_hash_of(core, &key.source, to_port, &key.destination, from_port)))
        flow = flow_new(core, &key.source, to_port, &key.destination, from_port);
    if (flow) {
        flow_isolate(core, NULL);
        core->current = flow;
        pcb = tcp_new_ip_type(family == 4 ? IPADDR_TYPE_V4 : IPADDR_TYPE_V6);
        if (pcb) {
            address_to_lwip(&pcb->local_ip, &key.destination);
            address_to_lwip(&remote, &key.source);
            pcb->local_port = from_port;
            flow_adopt(flow, pcb);
            if (tcp_connect(pcb, &remote, to_port, flow_on_connected) == ERR_OK) {
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
        flow_settle(core, flow);
    }
    core_leave(core);
    return id;
}

int zks_flow_why(zks_core *core, uint64_t id)
{
    int result;
    FLOW_BEGIN(core, id);
    result = flow->why;
    FLOW_END(core, result);
}

static int64_t pull(zks_core *core, struct flow *flow, uint8_t *buffer, size_t size)
{
    size_t n;
    if (flow->state == FLOW_HELD)
        return ZKS_GONE;
    n = rx_take(core, flow, buffer, size > 1u << 30 ? 1u << 30 : size);
    if (n) {
        flow->pulled += n;
        flow_isolate(core, flow);
        if (flow->pcb && flow->state == FLOW_OPEN)
            budget_open_window(core, flow, (uint32_t)n);
        flow_settle(core, flow);
        return (int64_t)n;
    }
    if (size == 0 && flow->rx_head)
        return 0;
    if (flow->rx_eof)
        return ZKS_EOF;
    return flow->pcb ? 0 : ZKS_GONE;
}

static int64_t push(zks_core *core, struct flow *flow, const uint8_t *data, size_t length)
{
    struct tcp_pcb *pcb = flow->pcb;
    size_t done = 0, room, taken;
    int64_t result = ZKS_GONE;
    err_t err = ERR_OK;
    if (pcb && pcb->state == SYN_SENT && !flow->fin_sent) {
        /* lwIP would take it, and when it sends the SYN again put it into segments without any flag. */
        flow->want_write = 1;
        return 0;
    }
    if (!pcb || flow->state != FLOW_OPEN || flow->fin_sent)
        return ZKS_GONE;
    room = budget_send_room(core, pcb);
    taken = length < room ? length : room;
    flow_isolate(core, flow);
    while (done < taken && err == ERR_OK) {
        size_t part = taken - done;
        if (part > 0xffff)
            part = 0xffff;
        err = tcp_write(pcb, data + done, (u16_t)part, TCP_WRITE_FLAG_COPY);
        if (err == ERR_OK)
            done += part;
    }
    if (err == ERR_OK || err == ERR_MEM) {
        result = (int64_t)done;
        flow->pushed += done;
        flow->want_write = done < length || (!length && pcb->snd_buf < TCP_SND_BUF / 2);
        tcp_output(pcb);
        flow_unstick(pcb);
        if (err == ERR_MEM && !pcb->unsent && !pcb->unacked)
            result = ZKS_NOMEM; /* nothing under way whose ACK could make room */
    }
    flow_settle(core, flow);
    return result;
}

int64_t zks_flow_pull(zks_core *core, uint64_t id, uint8_t *buffer, size_t size)
{
    int64_t result;
    FLOW_BEGIN(core, id);
    result = pull(core, flow, buffer, size);
    FLOW_END(core, result);
}

int64_t zks_flow_push(zks_core *core, uint64_t id, const uint8_t *data, size_t length)
{
    int64_t result;
    FLOW_BEGIN(core, id);
    result = push(core, flow, data, length);
    FLOW_END(core, result);
}

/* ---- of many flows, with the lock taken once ---- */
void zks_flows_enter(void *core) { core_enter(core); }

void zks_flows_leave(void *core) { core_leave(core); }

/* Lets the pump have its turn between two flows. */
static void take_turns(zks_core *core)
{
    if (zks_lock_due()) {
        core_leave(core);
        core_enter(core);
    }
}

int64_t zks_flows_pull(void *core, uint64_t id, uint8_t *buffer, size_t size)
{
    struct flow *flow;
    take_turns(core);
    flow = flow_get(core, id);
    return flow ? pull(core, flow, buffer, size) : ZKS_GONE;
}

int64_t zks_flows_push(void *core, uint64_t id, const uint8_t *data, size_t length)
{
    struct flow *flow;
    take_turns(core);
    flow = flow_get(core, id);
    return flow ? push(core, flow, data, length) : ZKS_GONE;
}

int64_t zks_flow_unacked(zks_core *core, uint64_t id)
{
    int64_t result = ZKS_GONE;
    FLOW_BEGIN(core, id);
    if (flow->pcb)
        result = (int64_t)(TCP_SND_BUF - flow->pcb->snd_buf);
    FLOW_END(core, result);
}

int zks_flow_shutdown(zks_core *core, uint64_t id)
{
    int result = ZKS_GONE;
    FLOW_BEGIN(core, id);
    if (flow->pcb && flow->state == FLOW_OPEN) {
        if (!flow->fin_sent) {
            flow->fin_sent = 1;
            if (flow->pcb->state != SYN_SENT) { /* else with the end of the handshake */
                flow_isolate(core, flow);
                tcp_shutdown(flow->pcb, 0, 1);
                flow_settle(core, flow);
            }
        }
        result = ZKS_OK;
    }
    FLOW_END(core, result);
}

int zks_flow_abort(zks_core *core, uint64_t id)
{
    FLOW_BEGIN(core, id);
    flow_detach(core, flow);
    if (flow->pcb && flow->state != FLOW_WAIT)
        tcp_abandon(flow->pcb, 1);
    flow_settle(core, flow);
    FLOW_END(core, ZKS_OK);
}

int zks_flow_close(zks_core *core, uint64_t id)
{
    uint32_t unread;
    FLOW_BEGIN(core, id);
    unread = flow->rx_bytes;
    flow_detach(core, flow);
    if (flow->pcb && flow->state != FLOW_WAIT) {
        if (unread) {
            tcp_abandon(flow->pcb, 1); /* as a kernel does: the peer must learn that bytes were lost */
        } else {
            /* lwIP takes a window that is not open wholly for bytes that have not been read, and sends RST. */
            flow->pcb->rcv_wnd = TCP_WND_MAX(flow->pcb);
            tcp_close(flow->pcb);
        }
    }
    flow_settle(core, flow);
    FLOW_END(core, ZKS_OK);
}
