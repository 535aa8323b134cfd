/* The life of a core and its ticks: the top, which knows all that is made, advanced and freed with it. */
#include "core.h"

#include "lwip/init.h"
#include "lwip/ip4.h"

#include "association.h"
#include "datagram.h"
#include "device_out.h"
#include "flow_keepalive.h"
#include "flow_life.h"
#include "flow_rx.h"
#include "flow_timer.h"
#include "packet_cache.h"
#include "platform.h"
#include "reassembly.h"

#define ALERT_MS 1000u /* so long after a packet the pump ticks by itself, and needs no kick for a timer */

static int lwip_started;

const char *zks_lwip_version(void) { return LWIP_VERSION_STRING; }

/* ---- time ---- */
int64_t core_wait(const zks_core *core)
{
    uint64_t next = core->last_tick_ms + ZKS_TICK_MS, due;
    if (!core_wants_ticks(core)) {
        if (!flow_keepalive_due(core, &due))
            return -1;
        if (due > next)
            next = due;
    }
    return (int64_t)(next - core->now_ms);
}

void core_sleep(zks_core *core, int64_t *wait, int moved, uint64_t *alert_ms)
{
    if (moved)
        *alert_ms = core->now_ms + ALERT_MS;
    if ((*wait < 0 || *wait > (int64_t)ZKS_TICK_MS) && core->now_ms < *alert_ms)
        *wait = ZKS_TICK_MS;
    core->pump_sleeps = *wait < 0 || *wait > (int64_t)ZKS_TICK_MS;
}

static void tick(zks_core *core)
{
    flow_tick(core); /* the slow half advances tcp_ticks */
    reassembly_expire(core);
}

void core_advance(zks_core *core, uint64_t now_ms)
{
    uint64_t due;
    if (now_ms < core->now_ms)
        now_ms = core->now_ms;
    core->now_ms = now_ms;
    due = (now_ms - core->last_tick_ms) / ZKS_TICK_MS;
    if (!due)
        return;
    core->last_tick_ms += due * ZKS_TICK_MS;
    if (due > 8 && !core_wants_ticks(core)) {
        tcp_ticks += (u32_t)(due / 2); /* no flow has missed anything */
        due = 1;
    }
    /* After a suspend, or a scheduler's hiccup, time passes for the peer as for us: a few ticks are enough. */
    if (due > 8)
        due = 8;
    while (due--)
        tick(core);
}

int64_t zks_tick(zks_core *core, uint64_t now_ms)
{
    int64_t wait;
    if (!core)
        return -1;
    core_enter(core);
    core_advance(core, now_ms);
    wait = core_wait(core);
    core_leave(core);
    return wait;
}

/* ---- life ---- */
static err_t netif_init_cb(struct netif *netif)
{
    zks_core *core = netif->state;
    netif->name[0] = 'z';
    netif->name[1] = 'k';
    netif->output = device_output4;
    netif->output_ip6 = device_output6;
    netif->mtu = (u16_t)core->config.mtu;
    netif->flags = NETIF_FLAG_UP | NETIF_FLAG_LINK_UP;
    return ERR_OK;
}

zks_core *zks_core_new(const struct zks_config *config)
{
    zks_core *core;
    ip4_addr_t address, mask;
    int ok;
    if (config->mtu < 576 || config->mtu > 65535 || !config->max_flows || config->max_flows > 1u << 20 ||
        (config->keepalive_ms && (config->keepalive_ms < 1000 || config->keepalive_ms > 86400000)))
        return NULL;
    core = calloc(1, sizeof *core);
    if (!core)
        return NULL;
    core->config = *config;
    core->fd = -1;
    core->pump_pipe[0] = core->pump_pipe[1] = -1;
    core->scratch = malloc(ZKS_MAX_PACKET + 64);
    core->ident = zks_get32(config->seed); /* where the numbers of datagrams begin */

    zks_lock_acquire();
    core_current = core_newest = core;
    if (!lwip_started) {
        lwip_init();
        lwip_started = 1;
    }
    /* Any address that routes: lwIP refuses to send from an interface without one. */
    IP4_ADDR(&address, 198, 18, 0, 2);
    IP4_ADDR(&mask, 255, 255, 255, 255);
    netif_default = NULL;
    ok = core->scratch && netif_add(&core->netif, &address, &mask, &address, core, netif_init_cb, ip4_input);
    if (ok) {
        netif_default = &core->netif;
        netif_ip6_addr_set_state(&core->netif, 1, IP6_ADDR_PREFERRED);
        ok = flow_setup(core) == 0;
    }
    netif_default = NULL;
    core_current = NULL;
    zks_lock_release();
    if (!ok) {
        zks_core_free(core);
        return NULL;
    }
    return core;
}

void zks_core_free(zks_core *core)
{
    if (!core)
        return;
    core_enter(core);
    flow_teardown(core);
    reassembly_teardown(core);
    datagram_teardown(core);
    association_teardown(core);
    packet_cache_teardown(core);
    device_teardown(core);
    rx_trim(core);
    netif_default = NULL;
    core_current = NULL;
    if (core_newest == core)
        core_newest = NULL;
    zks_lock_release();
    free(core->scratch);
    free(core);
}
