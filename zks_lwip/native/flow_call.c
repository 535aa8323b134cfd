/* What the other side asks of a flow: one call, one flow. */
#include "flow.h"

#include <string.h>

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
        flow_list_move(core, flow, LIST_NONE);
        flow_isolate(core, flow);
        core->listener->local_port = flow->destination_port;
        core->listener->callback_arg = flow;
        core->listener->next = NULL;
        tcp_listen_pcbs.listen_pcbs = core->listener;
        flow->first_window = budget_first_window(core);
        flow_inject(core, syn, flow->syn_length);
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
    if (flow && (flow->state == FLOW_HELD || flow->state == FLOW_DEAD)) {
        if (flow->state == FLOW_HELD) {
            flow_refuse(core, flow, how);
            flow->ended = 1;
            flow_died(core, flow, 0);
        }
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
        !flow_find(core, &key, core_hash(core, &key.source, to_port, &key.destination, from_port)))
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

int64_t zks_flow_pull(zks_core *core, uint64_t id, uint8_t *buffer, size_t size)
{
    struct flow *flow;
    int64_t result = ZKS_GONE;
    if (!core)
        return ZKS_GONE;
    core_enter(core);
    flow = flow_get(core, id);
    if (flow && flow->state != FLOW_HELD) {
        size_t n = rx_take(core, flow, buffer, size > 1u << 30 ? 1u << 30 : size);
        if (n) {
            result = (int64_t)n;
            flow_isolate(core, flow);
            if (flow->pcb && flow->state == FLOW_OPEN)
                budget_open_window(core, flow, (uint32_t)n);
            flow_settle(core, flow);
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
    if (flow && flow->pcb && flow->pcb->state == SYN_SENT && !flow->fin_sent) {
        /* lwIP would take it, and when it sends the SYN again put it into segments without any flag. */
        flow->want_write = 1;
        result = 0;
    } else if (flow && flow->pcb && flow->state == FLOW_OPEN && !flow->fin_sent) {
        struct tcp_pcb *pcb = flow->pcb;
        size_t done = 0, room = budget_send_room(core, pcb), taken = length < room ? length : room;
        err_t err = ERR_OK;
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
            flow->want_write = done < length || (!length && pcb->snd_buf < TCP_SND_BUF / 2);
            tcp_output(pcb);
            flow_unstick(pcb);
            if (err == ERR_MEM && !pcb->unsent && !pcb->unacked)
                result = ZKS_NOMEM; /* nothing under way whose ACK could make room */
        }
        flow_settle(core, flow);
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
            if (flow->pcb->state != SYN_SENT) { /* else with the end of the handshake */
                flow_isolate(core, flow);
                tcp_shutdown(flow->pcb, 0, 1);
                flow_settle(core, flow);
            }
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
            flow_refuse(core, flow, ZKS_REJECT_RST);
            flow_died(core, flow, 0);
        }
        flow_release(core, flow);
        flow_isolate(core, flow);
        if (flow->pcb && flow->state != FLOW_WAIT)
            tcp_abandon(flow->pcb, 1);
        flow_settle(core, flow);
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
            flow_refuse(core, flow, ZKS_REJECT_RST);
            flow_died(core, flow, 0);
        }
        flow_release(core, flow);
        flow_isolate(core, flow);
        if (flow->pcb && flow->state != FLOW_WAIT) {
            if (unread) {
                tcp_abandon(flow->pcb, 1); /* as a kernel does: the peer must learn that bytes were lost */
            } else {
                /* lwIP takes a window that is not open wholly for bytes that nobody has read, and sends RST. */
                flow->pcb->rcv_wnd = TCP_WND_MAX(flow->pcb);
                tcp_close(flow->pcb);
            }
        }
        flow_settle(core, flow);
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
    tcp_accept((struct tcp_pcb *)core->listener, flow_on_accept);
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
            flow_refuse(core, flow, ZKS_REJECT_RST);
            flow_died(core, flow, 0);
        }
        flow_release(core, flow);
        flow_isolate(core, flow);
        if (flow->pcb)
            tcp_abandon(flow->pcb, 1);
        flow_settle(core, flow);
    }
    if (core->listener) {
        flow_isolate(core, NULL);
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
