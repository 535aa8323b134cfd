/* A core: its lock, its clock, its events; and how many of them share lwIP's globals. */
#include "internal.h"

#include <stdio.h>
#include <string.h>

#include "lwip/init.h"
#include "lwip/ip4.h"
#include "lwip/ip6.h"
#include "zks_hooks.h"

#if defined(_WIN32)
#include <winsock2.h>
#else
#include <sys/socket.h>
#endif

zks_core *core_current;
static int lwip_started, cores;
static zks_core *last_core; /* for the hooks that lwIP calls without a context */

const char *zks_lwip_version(void) { return LWIP_VERSION_STRING; }

void zks_assert_failed(const char *message, const char *file, int line)
{
    fprintf(stderr, "zks_lwip: lwIP's assertion failed: %s (%s:%d)\n", message, file, line);
    abort();
}

/* ---- keyed hashing: SipHash-2-4 of at most 40 bytes ---- */
static uint64_t rotate(uint64_t x, int b) { return x << b | x >> (64 - b); }

static uint64_t siphash(const uint8_t *key, const uint8_t *in, size_t length)
{
    uint64_t k0, k1, v0, v1, v2, v3, m;
    size_t i;
    int round, rounds;
    memcpy(&k0, key, 8);
    memcpy(&k1, key + 8, 8);
    v0 = k0 ^ 0x736f6d6570736575ull;
    v1 = k1 ^ 0x646f72616e646f6dull;
    v2 = k0 ^ 0x6c7967656e657261ull;
    v3 = k1 ^ 0x7465646279746573ull;
    for (i = 0; i <= length / 8 + 1; i++) {
        rounds = 2;
        if (i < length / 8) {
            memcpy(&m, in + i * 8, 8);
        } else if (i == length / 8) {
            m = (uint64_t)length << 56;
            memcpy(&m, in + i * 8, length % 8);
        } else {
            m = 0;
            v2 ^= 0xff;
            rounds = 4;
        }
        v3 ^= m;
        for (round = 0; round < rounds; round++) {
            v0 += v1, v1 = rotate(v1, 13) ^ v0, v0 = rotate(v0, 32);
            v2 += v3, v3 = rotate(v3, 16) ^ v2;
            v0 += v3, v3 = rotate(v3, 21) ^ v0;
            v2 += v1, v1 = rotate(v1, 17) ^ v2, v2 = rotate(v2, 32);
        }
        v0 ^= m;
    }
    return v0 ^ v1 ^ v2 ^ v3;
}

static uint64_t hash_tuple(const uint8_t *key, const uint8_t *source, uint16_t source_port,
                           const uint8_t *destination, uint16_t destination_port)
{
    uint8_t tuple[36];
    memcpy(tuple, source, 16);
    memcpy(tuple + 16, destination, 16);
    zks_put16(tuple + 32, source_port);
    zks_put16(tuple + 34, destination_port);
    return siphash(key, tuple, sizeof tuple);
}

uint32_t core_hash(const zks_core *core, const struct zks_address *source, uint16_t source_port,
                   const struct zks_address *destination, uint16_t destination_port)
{
    return (uint32_t)hash_tuple(core->config.seed, source->bytes, source_port, destination->bytes,
                                destination_port);
}

static void address_bytes(uint8_t *out, const ip_addr_t *ip)
{
    memset(out, 0, 16);
    if (IP_IS_V4(ip))
        memcpy(out, ip_2_ip4(ip), 4);
    else
        memcpy(out, ip_2_ip6(ip)->addr, 16);
}

/* RFC 6528: a keyed hash of the four-tuple, and a clock that moves on between incarnations of it. */
u32_t zks_tcp_isn(const ip_addr_t *local_ip, u16_t local_port, const ip_addr_t *remote_ip, u16_t remote_port)
{
    uint8_t local[16], remote[16], key[16];
    zks_core *core = core_current ? core_current : last_core;
    size_t i;
    address_bytes(local, local_ip);
    address_bytes(remote, remote_ip);
    for (i = 0; i < sizeof key; i++)
        key[i] = core->config.seed[i] ^ 0x5a; /* not the table's key: sequence numbers are seen outside */
    return (u32_t)hash_tuple(key, local, local_port, remote, remote_port) + (u32_t)(zks_now_ms() * 250u);
}

uint32_t zks_rand32(void)
{
    static uint64_t counter;
    zks_core *core = core_current ? core_current : last_core;
    uint64_t in[2];
    in[0] = ++counter;
    in[1] = zks_now_ms();
    return (uint32_t)siphash(core ? core->config.seed : (const uint8_t *)"zks_lwip........", (uint8_t *)in,
                             sizeof in);
}

/* lwIP's clock, in ms; it asks within our calls only. */
u32_t sys_now(void)
{
    return (u32_t)(core_current ? core_current->now_ms : zks_now_ms());
}

/* ---- the lock ---- */
void core_enter(zks_core *core)
{
    zks_lock_acquire();
    core_current = core;
    netif_default = &core->netif;
    tcp_ticks = core->tcp_ticks;
}

void core_leave(zks_core *core)
{
    int wake = 0, kick = 0;
    core->tcp_ticks = tcp_ticks;
    netif_default = NULL;
    core_current = NULL;
    if ((core->ready_first || core->datagram_event) && !core->wake_sent && core->config.wake_fd >= 0)
        wake = core->wake_sent = 1;
    if (core->pump_sleeps && core_wants_ticks(core)) {
        kick = 1; /* the pump sleeps for longer than a tick: it has a timer to run now */
        core->pump_sleeps = 0;
    }
    zks_lock_release();
    if (wake)
        core_wake_reader(core);
    if (kick)
        core_kick_pump(core);
}

/* Full or broken: the reader is awake already, or gone. Either way there is nothing to do about it here. */
void core_wake_reader(zks_core *core)
{
    int flags = 0;
#if defined(MSG_DONTWAIT)
    flags |= MSG_DONTWAIT;
#endif
#if defined(MSG_NOSIGNAL)
    flags |= MSG_NOSIGNAL;
#endif
    (void)!send(core->config.wake_fd, "", 1, flags);
}

void core_count(zks_core *core, int counter) { core->counters[counter]++; }

/* ---- events ---- */
void core_ready(zks_core *core, struct flow *flow, uint8_t events)
{
    if (!flow->held_id)
        return;
    flow->events |= events;
    if (flow->ready)
        return;
    flow->ready = 1;
    flow->ready_next = NULL;
    if (core->ready_last)
        core->ready_last->ready_next = flow;
    else
        core->ready_first = flow;
    core->ready_last = flow;
}

int zks_events(zks_core *core, struct zks_event *events, int most)
{
    int n = 0;
    if (!core)
        return 0;
    core_enter(core);
    if (core->datagram_event && n < most) {
        events[n].flow = 0;
        events[n].mask = ZKS_EV_DATAGRAM;
        events[n++].reserved = 0;
        core->datagram_event = 0;
    }
    while (core->ready_first && n < most) {
        struct flow *flow = core->ready_first;
        core->ready_first = flow->ready_next;
        if (!core->ready_first)
            core->ready_last = NULL;
        flow->ready = 0;
        flow->ready_next = NULL;
        events[n].flow = flow->id;
        events[n].mask = flow->events;
        events[n++].reserved = 0;
        flow->events = 0;
    }
    if (!core->ready_first && !core->datagram_event)
        core->wake_sent = 0;
    core_leave(core);
    return n;
}

/* ---- packets to lwIP ---- */
void core_inject(zks_core *core, struct pbuf *p, const struct zks_packet *packet)
{
    /* The packet is for us, whoever "us" is: written directly, since netif_set_ipaddr would abort the pcbs that
     * are bound to the address before. */
    if (packet->source.family == 4) {
        memcpy(ip_2_ip4(&core->netif.ip_addr), packet->destination.bytes, 4);
        ip4_input(p, &core->netif);
    } else {
        memcpy(ip_2_ip6(&core->netif.ip6_addr[1])->addr, packet->destination.bytes, 16);
        ip6_input(p, &core->netif);
    }
}

/* ---- time ---- */
int core_wants_ticks(const zks_core *core)
{
    return core->lists[LIST_BUSY].count || core->lists[LIST_WAIT].count || core->lists[LIST_HELD].count ||
           core->fragments_seen;
}

/* Milliseconds until a tick has something to do, or -1: not before an event. */
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
        tcp_ticks += (u32_t)(due / 2); /* nobody slept through anything */
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
    core->stop_pipe[0] = core->stop_pipe[1] = -1;
    core->scratch = malloc(ZKS_PACKET_MAX + 64);
    core->ident = zks_get32(config->seed); /* where the numbers of fragmented datagrams begin */

    zks_lock_acquire();
    core_current = last_core = core;
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
    cores++;
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
    device_teardown(core);
    rx_trim(core);
    netif_default = NULL;
    core_current = NULL;
    if (last_core == core)
        last_core = NULL;
    cores--;
    zks_lock_release();
    free(core->scratch);
    free(core);
}

/* ---- counters ---- */
#define X(upper, lower) #lower,
static const char *const names[] = {ZKS_COUNTERS(X)};
static const char *const drop_names[] = {ZKS_DROPS(X)};
#undef X

const char *zks_counter_name(int index)
{
    if (index >= 0 && index < ZKS_C_DROP_FIRST)
        return names[index];
    if (index >= ZKS_C_DROP_FIRST && index < ZKS_C_TOTAL)
        return drop_names[index - ZKS_C_DROP_FIRST];
    return NULL;
}

int zks_counters(zks_core *core, uint64_t *values, int most)
{
    int n = most < ZKS_C_TOTAL ? most : ZKS_C_TOTAL;
    if (!core)
        return 0;
    core_enter(core);
    core->counters[ZKS_C_FLOWS] = core->flow_count;
    core->counters[ZKS_C_FLOWS_HELD] = core->lists[LIST_HELD].count;
    core->counters[ZKS_C_FLOWS_TIME_WAIT] = core->lists[LIST_WAIT].count;
    core->counters[ZKS_C_MEMORY] = core->charged;
    memcpy(values, core->counters, (size_t)n * sizeof *values);
    core_leave(core);
    return n;
}
