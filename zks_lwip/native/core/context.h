/* What every part of the core stands on: the core itself, its lock, its events and its counters. */
#ifndef ZKS_CONTEXT_H
#define ZKS_CONTEXT_H
#include "lwip/netif.h"
#include "lwip/pbuf.h"
#include "lwip/priv/tcp_priv.h"

#include "flow.h"
#include "packet.h"
#include "zks_core.h"
#include "zks_wintun.h"

/* ---- counters: one list makes the enum, the names and the array ---- */
#define ZKS_COUNTERS(X)                     \
    X(PACKETS_IN, packets_in)               \
    X(BYTES_IN, bytes_in)                   \
    X(PACKETS_OUT, packets_out)             \
    X(PACKETS_BORROWED, packets_borrowed)   \
    X(BYTES_OUT, bytes_out)                 \
    X(FLOWS, flows)                         \
    X(FLOWS_HELD, flows_held)               \
    X(FLOWS_OPENED, flows_opened)           \
    X(FLOWS_REFUSED, flows_refused)         \
    X(FLOWS_OVER_LIMIT, flows_over_limit)   \
    X(FLOWS_TIME_WAIT, flows_time_wait)     \
    X(MEMORY, memory)                       \
    X(SYN_JOINED, syn_joined)               \
    X(STRAY_SEGMENTS, stray_segments)       \
    X(DATAGRAMS_IN, datagrams_in)           \
    X(DATAGRAMS_OUT, datagrams_out)         \
    X(DATAGRAMS_DROPPED, datagrams_dropped) \
    X(ECHO_ANSWERED, echo_answered)         \
    X(KEEPALIVE_PROBES, keepalive_probes)   \
    X(KEEPALIVE_ENDED, keepalive_ended)     \
    X(OUTPUT_DROPPED, output_dropped)       \
    X(NO_MEMORY, no_memory)                 \
    X(DROP_FIRST, drop_short)

enum {
#define X(upper, lower) ZKS_C_##upper,
    ZKS_COUNTERS(X)
#undef X
};
#define ZKS_C_TOTAL (ZKS_C_DROP_FIRST + ZKS_DROP_REASONS)

#define ZKS_MAX_PACKET 65535u
#define ZKS_MAX_DATAGRAM 65507u /* bytes in a datagram of UDP or an echo, of either family */
#define ZKS_TICK_MS 250u
#define ZKS_BATCH 16 /* packets that are read from a device at a time, at most */

struct associations;
struct queued_datagram;
struct queued_packet;
struct reassembly;
struct rx_buffer;

struct zks_core {
    struct zks_config config;
    struct netif netif;
    struct tcp_pcb_listen *listener;
    uint32_t tcp_ticks; /* lwIP's clock (500 ms), kept for each core */
    uint8_t half_tick;  /* every second tick runs the slow timer */
    uint64_t now_ms, last_tick_ms;

    struct flow **table;
    uint32_t table_mask, flow_count;
    struct flow **slots; /* by the low half of an id */
    uint32_t *generations;
    uint32_t slot_count, slot_hint;
    struct flow_list lists[LIST_COUNT];
    struct flow *current; /* whose segments are being made */
    struct flow *ready_first, *ready_last;
    struct flow *ack_first;
    uint64_t charged; /* the charges of all flows */

    struct queued_datagram *datagram_first, *datagram_last;
    uint32_t datagram_bytes;
    struct associations *associations; /* of applications' UDP sockets; NULL: there has been none */
    uint8_t cuts_datagrams;            /* the device does: USO */
    struct queued_packet *output_first, *output_last;
    uint32_t output_bytes;
    struct reassembly *fragments; /* datagrams that wait for the rest of their fragments, oldest first */
    uint32_t fragments_seen;      /* how many */
    uint32_t fragments_bytes;
    uint32_t ident;         /* IPv4 identification of the next datagram, IPv6 of the next that is fragmented */
    uint64_t icmp_since_ms; /* in this second ... */
    uint32_t icmp_sent;     /* ... so many errors about unknown protocols */
    uint8_t datagram_event;
    uint8_t wake_sent;
    uint8_t errors_wanted; /* ICMP errors about datagrams are queued */

    int fd, framing, device_errno;
    int pump_pipe[2];                        /* a byte in it ends the pump's poll: to stop, or to run a timer */
    uint8_t pump_sleeps;                     /* it waits for longer than until the next tick */
    uint8_t lends;                           /* the owner takes packets itself where the device is lent to it */
    uint8_t lent;                            /* it is; changed by the pump alone */
    uint8_t device_event;                    /* the owner is to be told */
    struct rx_buffer *rx_buffers[ZKS_BATCH]; /* of who reads the device */
    struct zks_wintun wintun;                /* session: NULL where the device is another */
    struct chunk *spare[2];
    uint32_t spare_count[2];
    uint8_t *scratch; /* for a packet that must be in one piece */
    uint64_t counters[ZKS_C_TOTAL];
};

/* The core that lwIP works for, while the lock is held; NULL without it. core_newest: the one made last, or NULL. */
extern zks_core *core_current, *core_newest;

/* The lock of all cores, and lwIP's globals set for this one. core_leave wakes the reader of events, and the pump, if
 * there is something for them. */
void core_enter(zks_core *core);
void core_leave(zks_core *core);
/* Adds one to a counter (ZKS_C_*). */
void core_count(zks_core *core, int counter);
/* Queues events (ZKS_EV_*) of a flow for zks_events, if it has an owner. */
void core_ready(zks_core *core, struct flow *flow, uint8_t events);
/* Whether a flow or a fragment waits for a tick. */
int core_wants_ticks(const zks_core *core);

#endif
