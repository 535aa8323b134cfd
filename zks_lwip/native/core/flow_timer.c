/* The time of the flows: what lwIP's timers see, and what of the flows ends because of it. */
#include "flow_timer.h"

#include "flow_held.h"
#include "flow_keepalive.h"
#include "flow_lwip.h"
#include "flow_table.h"

#define MAX_SILENT_MS 300000u
#define MIN_TRIES 6u /* times that bytes, or a probe of the window, have been sent in vain: over a minute of them */

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
 * 40 minutes and more. A peer that is there answers at least every probe of its window. Where the flow has an owner,
 * the peer must have had several chances to answer, too: we may have been stopped ourselves all the while. */
static int has_vanished(const zks_core *core, const struct flow *flow)
{
    const struct tcp_pcb *pcb = flow->pcb;
    if (core->now_ms - flow->since_ms <= MAX_SILENT_MS)
        return 0;
    return flow->state == FLOW_LINGER ||
           (core->config.keepalive_ms && (pcb->nrtx >= MIN_TRIES || pcb->persist_probe >= MIN_TRIES));
}

void flow_tick(zks_core *core)
{
    struct flow *flow, *next;
    for (flow = core->lists[LIST_HELD].first; flow; flow = next) {
        next = flow->next;
        if (flow_given_up(core, flow))
            flow_died(core, flow, ZKS_EV_RESET);
    }
    for (flow = core->lists[LIST_BUSY].first; flow; flow = next) {
        next = flow->next;
        /* After two TCP_MSL of silence lwIP would forget it, with bytes that the peer has not read yet. */
        if (flow->pcb->state == LAST_ACK)
            flow->pcb->tmr = tcp_ticks;
        if (has_vanished(core, flow)) {
            flow_abandon(core, flow, 1);
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
