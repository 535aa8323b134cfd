#include "model.h"

#include "env.h"
#include "lwip/tcp.h"

struct flow *model_flow(const zks_core *core, uint64_t id)
{
    struct flow *flow = (uint32_t)id < core->slot_count ? core->slots[(uint32_t)id] : NULL;
    return flow && flow->id == id && flow->owned ? flow : NULL;
}

/* A pcb that lwIP's timers have to see: without them nothing is sent again, and nothing ends. */
static int needs_timers(const struct tcp_pcb *pcb)
{
    return pcb->unacked || pcb->unsent || pcb->ooseq || pcb->persist_backoff || pcb->state == SYN_SENT ||
           pcb->state == SYN_RCVD || pcb->state == FIN_WAIT_1 || pcb->state == CLOSING || pcb->state == LAST_ACK;
}

/* What lwIP has to send is in order, and before that what it has sent: to the last one it adds bytes and FIN. */
static void check_sending(const struct tcp_pcb *pcb)
{
    const struct tcp_seg *segment, *before = NULL;
    int sent;
    for (sent = 1; sent >= 0; sent--)
        for (segment = sent ? pcb->unacked : pcb->unsent; segment; before = segment, segment = segment->next)
            CHECK(!before ||
                  lwip_ntohl(before->tcphdr->seqno) + TCP_TCPLEN(before) == lwip_ntohl(segment->tcphdr->seqno));
}

static void check_received(const struct flow *flow)
{
    const struct chunk *chunk, *last = NULL;
    uint64_t bytes = 0;
    uint32_t window;
    for (chunk = flow->rx_head; chunk; chunk = chunk->next) {
        CHECK(chunk->start < chunk->end && chunk->end <= chunk->size);
        bytes += chunk->end - chunk->start;
        last = chunk;
    }
    CHECK(last == flow->rx_tail);
    CHECK(bytes == flow->rx_bytes);
    if (flow->state != FLOW_OPEN || flow->pcb->state < ESTABLISHED)
        return;
    /* The window is what the queue leaves of at least 16 KiB; lwIP gives back the place that FIN took. */
    window = flow->pcb->flags & TF_WND_SCALE ? TCP_WND : 0xffff;
    CHECK(flow->rx_bytes <= window);
    CHECK(flow->pcb->rcv_wnd + flow->rx_bytes <= window);
    CHECK(flow->pcb->rcv_wnd + flow->rx_bytes + 1 >= 16384);
}

static void check_flow(const zks_core *core, const struct flow *flow)
{
    CHECK(core->slots[(uint32_t)flow->id] == flow);
    CHECK(!flow->ready || flow->events);
    CHECK(flow->owned || !flow->ready);
    switch (flow->state) {
    case FLOW_HELD:
        CHECK(flow->syn && !flow->pcb && flow->owned && flow->list == LIST_HELD);
        break;
    case FLOW_OPEN:
    case FLOW_LINGER:
        CHECK(flow->pcb && flow->pcb->callback_arg == flow && !flow->syn);
        CHECK(flow->owned == (flow->state == FLOW_OPEN));
        CHECK(flow->list == LIST_BUSY || flow->list == LIST_IDLE || flow->list == LIST_ASKED);
        CHECK(flow->list == LIST_BUSY || !needs_timers(flow->pcb));
        CHECK(flow->list != LIST_ASKED || flow->pcb->keep_cnt_sent);
        CHECK(flow->list == LIST_BUSY || !flow->prev || flow->prev->since_ms <= flow->since_ms);
        CHECK(flow->pcb->state != TIME_WAIT && flow->pcb->state != CLOSED);
        check_sending(flow->pcb);
        CHECK(flow->state == FLOW_OPEN || !flow->rx_head);
        break;
    case FLOW_WAIT:
        CHECK(flow->pcb && flow->pcb->state == TIME_WAIT && flow->list == LIST_WAIT);
        break;
    case FLOW_DEAD:
        CHECK(!flow->pcb && flow->list == LIST_DEAD && flow->owned);
        break;
    default:
        CHECK(!"a state of a flow");
    }
    check_received(flow);
}

static void check_queues(const zks_core *core)
{
    const struct queued_datagram *d, *last_datagram = NULL;
    const struct queued_packet *q, *last_packet = NULL;
    const struct flow *flow, *last = NULL;
    uint64_t bytes = 0, packets = 0;
    uint32_t waiting = 0;
    for (d = core->datagram_first; d; d = d->next, waiting++) {
        bytes += sizeof *d + d->meta.length;
        last_datagram = d;
    }
    CHECK(bytes == core->datagram_bytes);
    CHECK(bytes <= core->config.max_datagrams || waiting == 1);
    CHECK(!waiting || last_datagram == core->datagram_last);
    for (q = core->output_first; q; q = q->next) {
        packets += q->length;
        last_packet = q;
    }
    CHECK(packets == core->output_bytes && packets <= core->config.max_output);
    CHECK(!packets || last_packet == core->output_last);
    for (flow = core->ready_first; flow; flow = flow->ready_next) {
        CHECK(flow->ready);
        last = flow;
    }
    CHECK(last == core->ready_last);
    for (flow = core->ack_first; flow; flow = flow->ack_next)
        CHECK(flow->ack_due);
}

void model_check(const zks_core *core)
{
    uint64_t charged = 0;
    uint32_t i, flows = 0, ids = 0, ready = 0, acks = 0, listed[LIST_COUNT] = {0};
    const struct flow *flow;
    CHECK(!env_locked && !core_current);
    CHECK(!tcp_active_pcbs && !tcp_tw_pcbs && !tcp_bound_pcbs);
    for (i = 0; i <= core->table_mask; i++)
        for (flow = core->table[i]; flow; flow = flow->hash_next) {
            CHECK((flow->hash & core->table_mask) == i);
            check_flow(core, flow);
            listed[flow->list]++;
            ready += flow->ready;
            acks += flow->ack_due;
            charged += flow->charge;
            flows++;
        }
    CHECK(flows == core->flow_count);
    CHECK(charged == core->charged);
    for (i = 0; i < core->slot_count; i++)
        ids += core->slots[i] != NULL;
    CHECK(ids == flows);
    for (i = LIST_HELD; i < LIST_COUNT; i++) {
        uint32_t n = 0;
        for (flow = core->lists[i].first; flow; flow = flow->next, n++)
            CHECK(flow->list == i && (flow->next ? flow->next->prev == flow : core->lists[i].last == flow));
        CHECK(n == core->lists[i].count && n == listed[i]);
    }
    for (flow = core->ready_first; flow; flow = flow->ready_next)
        CHECK(ready-- > 0);
    for (flow = core->ack_first; flow; flow = flow->ack_next)
        CHECK(acks-- > 0);
    CHECK(ready == 0 && acks == 0);
    CHECK(core->lists[LIST_HELD].count <= core->config.max_held);
    CHECK(flows - core->lists[LIST_WAIT].count - core->lists[LIST_DEAD].count <= core->config.max_flows);
    CHECK(core->lists[LIST_WAIT].count <= core->config.max_flows + 1u + core->config.max_flows);
    check_queues(core);
}
