/* What every part of the core stands on: the lock and which core lwIP works for, wake-ups, events and counters. */
#include "context.h"

#include <string.h>

#include "platform.h"

#if defined(_WIN32)
#include <winsock2.h>
#else
#include <sys/socket.h>
#include <unistd.h>
#endif

zks_core *core_current, *core_newest;

/* ---- wake-ups ---- */
/* Sends one byte to wake_fd; a full or closed socket needs none. */
static void wake_reader(zks_core *core)
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

static void kick_pump(zks_core *core)
{
    if (core->wintun.session)
        core->wintun.set(core->wintun.kick);
#if !defined(_WIN32)
    else if (core->pump_pipe[1] >= 0)
        (void)!write(core->pump_pipe[1], "k", 1);
#endif
}

int core_wants_ticks(const zks_core *core)
{
    return core->lists[LIST_BUSY].count || core->lists[LIST_WAIT].count || core->lists[LIST_HELD].count ||
           core->fragments_seen;
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
    if ((core->ready_first || core->datagram_event || core->device_event) && !core->wake_sent &&
        core->config.wake_fd >= 0)
        wake = core->wake_sent = 1;
    if (core->pump_sleeps && core_wants_ticks(core)) {
        kick = 1; /* the pump sleeps for longer than a tick: it has a timer to run now */
        core->pump_sleeps = 0;
    }
    zks_lock_release();
    if (wake)
        wake_reader(core);
    if (kick)
        kick_pump(core);
}

/* ---- events ---- */
void core_ready(zks_core *core, struct flow *flow, uint8_t events)
{
    if (!flow->owned)
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
    if (core->device_event && n < most) {
        events[n].flow = 0;
        events[n].mask = ZKS_EV_DEVICE;
        events[n++].reserved = 0;
        core->device_event = 0;
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
    if (!core->ready_first && !core->datagram_event && !core->device_event)
        core->wake_sent = 0;
    core_leave(core);
    return n;
}

/* ---- counters ---- */
void core_count(zks_core *core, int counter) { core->counters[counter]++; }

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
