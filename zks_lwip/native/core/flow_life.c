/* What a core makes and frees for its flows, and what a flow's owner leaves behind. */
#include "flow_life.h"

#include "flow_held.h"
#include "flow_lwip.h"
#include "flow_table.h"

void flow_detach(zks_core *core, struct flow *flow)
{
    flow->ended = 1;
    if (flow->state == FLOW_HELD) {
        flow_refuse(core, flow, ZKS_REJECT_RST);
        flow_died(core, flow, 0);
    }
    flow_release(core, flow);
    flow_isolate(core, flow);
}

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
        flow_detach(core, flow);
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
