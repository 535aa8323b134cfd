/* Keepalive (RFC 9293 §3.8.4): the peers of quiet flows are asked whether they still have them.
 *
 * A kernel does not tell us when it forgets a half-closed connection, when its RST gets lost, or when it goes away with
 * its container. A probe of such a flow is answered by RST; that of a flow whose application lives, even stopped, by
 * an ACK of its kernel, without waking it.
 *
 * Two lists hold the quiet flows, each in the order of time: LIST_IDLE by when the peer was last heard, LIST_ASKED by
 * when it was last asked. A tick looks at their heads, so it costs what is due and not what is there. */
#include "flow_keepalive.h"

#include "flow_lwip.h"
#include "flow_table.h"

/* Probes a tick from each list: 512 a second, 20,000 quiet flows in 40 s, and never more answers at a time than a
 * device's queue holds. */
#define MAX_PROBES_A_TICK 128u
/* A peer that does not answer is asked again after a quarter of the period, at most 15 s: the answer got lost, or a
 * machine behind this one is asleep. 20 probes in vain are five minutes, as with flows without an owner. */
#define MAX_RETRY_MS 15000u
#define MAX_PROBES 20u

static uint32_t retry_ms(const zks_core *core)
{
    uint32_t quarter = core->config.keepalive_ms / 4;
    return quarter < MAX_RETRY_MS ? quarter : MAX_RETRY_MS;
}

int flow_keepalive_due(const zks_core *core, uint64_t *due_ms)
{
    const struct flow *idle = core->lists[LIST_IDLE].first, *asked = core->lists[LIST_ASKED].first;
    uint64_t due = UINT64_MAX;
    if (!core->config.keepalive_ms)
        return 0;
    if (idle)
        due = idle->since_ms + core->config.keepalive_ms;
    if (asked && asked->since_ms + retry_ms(core) < due)
        due = asked->since_ms + retry_ms(core);
    *due_ms = due;
    return idle || asked;
}

static void ask(zks_core *core, struct flow *flow)
{
    flow_isolate(core, flow);
    if (tcp_keepalive(flow->pcb) != ERR_OK)
        core_count(core, ZKS_C_NO_MEMORY); /* as if it had been lost */
    flow->pcb->keep_cnt_sent++;            /* lwIP clears it when the peer is heard */
    core_count(core, ZKS_C_KEEPALIVE_PROBES);
    flow->since_ms = core->now_ms;
    flow_list_move(core, flow, LIST_NONE);
    flow_list_move(core, flow, LIST_ASKED);
    flow_settle(core, flow);
}

static void give_up(zks_core *core, struct flow *flow)
{
    core_count(core, ZKS_C_KEEPALIVE_ENDED);
    flow_abandon(core, flow, 1);
}

void flow_keepalive(zks_core *core)
{
    uint64_t early = core->config.keepalive_ms - core->config.keepalive_ms / 16;
    struct flow *flow;
    uint32_t n;
    if (!core->config.keepalive_ms)
        return;
    for (n = 0; n < MAX_PROBES_A_TICK; n++) {
        flow = core->lists[LIST_ASKED].first;
        if (!flow || core->now_ms - flow->since_ms < retry_ms(core))
            break;
        if (flow->pcb->keep_cnt_sent < MAX_PROBES)
            ask(core, flow);
        else
            give_up(core, flow);
    }
    flow = core->lists[LIST_IDLE].first;
    if (!flow || core->now_ms - flow->since_ms < core->config.keepalive_ms)
        return;
    /* Those that are due soon come along, so that the machine need not wake for each of them. */
    for (n = 0; n < MAX_PROBES_A_TICK; n++) {
        flow = core->lists[LIST_IDLE].first;
        if (!flow || core->now_ms - flow->since_ms < early)
            break;
        ask(core, flow);
    }
}
