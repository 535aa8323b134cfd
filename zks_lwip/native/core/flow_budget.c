/* How much the flows of a core may hold, together and each.
 *
 * Charged to a flow are: the window that its peer may still fill, what has come and not been taken, and what lwIP
 * keeps until the peer acknowledges it. A flow may grow to as much as is left for all the others, so there is always
 * something left, and many flows get equal shares (dynamic thresholds: Choudhury and Hahne, 1998). Each keeps the
 * least that lets it move. A window is never taken back (RFC 9293 §3.8.6): it shrinks by not being opened again. */
#include "flow_budget.h"

#include "platform.h"

#define MIN_WINDOW 16384u /* what a peer may always send: some segments of an MTU of 1500 */
#define MIN_SEND 16384u   /* what lwIP always takes for a peer */
#define QUICK_MS 50u      /* what a busy reader may need to come round again */
#define QUEUED_COST 256u  /* bytes of a pbuf, a tcp_seg and their headers, for each piece that is written */

static uint64_t left(const zks_core *core)
{
    return core->config.max_memory > core->charged ? core->config.max_memory - core->charged : 0;
}

static uint32_t send_cost(const struct tcp_pcb *pcb)
{
    return (uint32_t)(TCP_SND_BUF - pcb->snd_buf) + QUEUED_COST * pcb->snd_queuelen;
}

void budget_charge(zks_core *core, struct flow *flow)
{
    uint32_t charge = flow->rx_bytes;
    if (flow->pcb && flow->state != FLOW_WAIT)
        charge += send_cost(flow->pcb);
    if (flow->pcb && flow->state == FLOW_OPEN && !flow->rx_eof)
        charge += flow->pcb->rcv_wnd;
    core->charged += charge;
    core->charged -= flow->charge;
    flow->charge = charge;
}

uint32_t budget_send_room(const zks_core *core, const struct tcp_pcb *pcb)
{
    uint32_t own = send_cost(pcb), room = 0;
    uint64_t rest = left(core);
    if (rest > own)
        room = (uint32_t)((rest - own) / 2 < TCP_SND_BUF ? (rest - own) / 2 : TCP_SND_BUF);
    if (own < MIN_SEND && room < MIN_SEND - own)
        room = MIN_SEND - own;
    return room < pcb->snd_buf ? room : pcb->snd_buf;
}

int budget_has_room(const zks_core *core, const struct tcp_pcb *pcb)
{
    return pcb->snd_buf >= TCP_SND_BUF / 2 && tcp_sndqueuelen(pcb) < TCP_SND_QUEUELEN / 2 &&
           budget_send_room(core, pcb) >= send_cost(pcb);
}

uint16_t budget_first_window(const zks_core *core)
{
    uint64_t rest = left(core) / 256; /* most flows need little, and keep what they got: not all is given to them */
    if (rest < MIN_WINDOW)
        rest = MIN_WINDOW;
    return (uint16_t)(rest < BUDGET_FIRST_WINDOW ? rest : BUDGET_FIRST_WINDOW);
}

void budget_set_window(struct tcp_pcb *pcb, uint16_t window)
{
    pcb->rcv_wnd = pcb->rcv_ann_wnd = window;
    pcb->rcv_ann_right_edge = pcb->rcv_nxt + window;
}

/* Whether the window is what limits the flow: half of it is drained at a stroke, or all of it in so short a time that
 * the reader may have had to wait for the peer. */
static int is_narrow(struct flow *flow, uint32_t taken, uint32_t size)
{
    uint64_t now = zks_now_ms();
    int quick = 0;
    if (!flow->drained)
        flow->drain_ms = now;
    flow->drained += taken;
    if (flow->drained >= size) {
        quick = now - flow->drain_ms < QUICK_MS;
        flow->drained = 0;
    }
    return quick || taken >= size / 2;
}

/* taken bytes have left the ring: opens the window by as much; by more where it is too narrow, by less where it has
 * become too large. Tells the peer, if that is worth it (RFC 9293 §3.8.6.2.2). */
void budget_open_window(zks_core *core, struct flow *flow, uint32_t taken)
{
    struct tcp_pcb *pcb = flow->pcb;
    uint32_t most = TCP_WND_MAX(pcb), size = pcb->rcv_wnd + flow->rx_bytes + taken, open = taken;
    uint64_t rest = left(core);
    if (size > MIN_WINDOW && size > rest) {
        uint64_t less = (size - rest) / 2;
        if (less > size - MIN_WINDOW)
            less = size - MIN_WINDOW;
        open -= less < taken ? (uint32_t)less : taken;
    } else if (size < most && is_narrow(flow, taken, size) && size < rest) {
        uint64_t more = (rest - size) / 2;
        if (more > size)
            more = size;
        open += more < most - size ? (uint32_t)more : most - size;
    }
    pcb->rcv_wnd += open;
    if (pcb->rcv_wnd > most)
        pcb->rcv_wnd = (tcpwnd_size_t)most;
    if (flow->rx_eof)
        return;
    size = pcb->rcv_wnd + flow->rx_bytes;
    if ((int32_t)(pcb->rcv_nxt + pcb->rcv_wnd - pcb->rcv_ann_right_edge) >= (int32_t)(size / 2)) {
        pcb->rcv_ann_wnd = pcb->rcv_wnd;
        tcp_ack_now(pcb);
        tcp_output(pcb);
    }
}

uint64_t zks_core_memory(zks_core *core)
{
    uint64_t charged = 0;
    if (core) {
        core_enter(core);
        charged = core->charged;
        core_leave(core);
    }
    return charged;
}
