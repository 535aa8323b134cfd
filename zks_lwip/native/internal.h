/* What the files of the C core share. */
#ifndef ZKS_INTERNAL_H
#define ZKS_INTERNAL_H

#include "lwip/netif.h"
#include "lwip/pbuf.h"
#include "lwip/priv/tcp_priv.h"

#include "packet.h"
#include "platform.h"
#include "zks_core.h"

/* ---- counters: one list makes the enum, the names and the array ---- */
#define ZKS_COUNTERS(X)                                                                                  \
    X(PACKETS_IN, packets_in)                                                                            \
    X(BYTES_IN, bytes_in)                                                                                \
    X(PACKETS_OUT, packets_out)                                                                          \
    X(BYTES_OUT, bytes_out)                                                                              \
    X(FLOWS, flows)                                                                                      \
    X(FLOWS_HELD, flows_held)                                                                            \
    X(FLOWS_OPENED, flows_opened)                                                                        \
    X(FLOWS_REFUSED, flows_refused)                                                                      \
    X(FLOWS_OVER_LIMIT, flows_over_limit)                                                                \
    X(FLOWS_TIME_WAIT, flows_time_wait)                                                                  \
    X(MEMORY, memory)                                                                                    \
    X(SYN_JOINED, syn_joined)                                                                            \
    X(STRAY_SEGMENTS, stray_segments)                                                                    \
    X(DATAGRAMS_IN, datagrams_in)                                                                        \
    X(DATAGRAMS_OUT, datagrams_out)                                                                      \
    X(DATAGRAMS_DROPPED, datagrams_dropped)                                                              \
    X(ECHO_ANSWERED, echo_answered)                                                                      \
    X(KEEPALIVE_PROBES, keepalive_probes)                                                                \
    X(KEEPALIVE_ENDED, keepalive_ended)                                                                  \
    X(OUTPUT_DROPPED, output_dropped)                                                                    \
    X(NO_MEMORY, no_memory)                                                                              \
    X(DROP_FIRST, drop_short)

enum {
#define X(upper, lower) ZKS_C_##upper,
    ZKS_COUNTERS(X)
#undef X
};
#define ZKS_C_TOTAL (ZKS_C_DROP_FIRST + ZKS_DROP_REASONS)

/* ---- received bytes that the application's side has not taken ---- */
struct chunk {
    struct chunk *next;
    struct pbuf *pbuf; /* data lies in this pbuf, which we own; NULL: in the chunk itself */
    const uint8_t *data;
    uint32_t start, end, size;
};

enum flow_state {
    FLOW_HELD,   /* the SYN waits for accept */
    FLOW_OPEN,   /* a pcb lives */
    FLOW_LINGER, /* a pcb lives, but nobody holds the id any more */
    FLOW_WAIT,   /* the pcb is in TIME_WAIT */
    FLOW_DEAD    /* no pcb: waits for the id's holder to let go */
};

struct flow {
    struct flow *hash_next;
    struct flow *prev, *next;           /* in one of the core's lists */
    struct flow *ready_next;            /* in the queue of flows with events */
    struct flow *ack_next;              /* in the list of flows that owe an ACK */
    struct tcp_pcb *pcb;
    struct chunk *rx_head, *rx_tail;
    uint8_t *syn;                       /* the held packet */
    uint64_t id;
    uint64_t since_ms;                  /* it is held, was let go or last heard, or asked (LIST_ASKED) since */
    uint64_t syn_ms;                    /* when a held SYN was last seen */
    struct zks_address source, destination;
    uint32_t rx_bytes;
    uint32_t acked;                     /* by the last segment that was sent */
    uint64_t drain_ms;                  /* since when a window's worth is being taken from rx */
    uint32_t drained;                   /* how much of it has been */
    uint32_t charge;                    /* bytes of the core's memory that it may hold */
    uint32_t hash;
    uint16_t source_port, destination_port;
    uint16_t syn_length;
    uint16_t mss;                       /* what one segment on the wire may hold */
    uint16_t first_window;              /* most that its SYN's answer may say; 0: whatever lwIP does */
    uint8_t events;                     /* not yet reported */
    uint8_t state;
    uint8_t syn_count;                  /* its retransmissions */
    uint8_t list;                       /* LIST_*: which list prev and next belong to */
    uint8_t ready : 1;                  /* queued for an event */
    uint8_t rx_eof : 1;                 /* FIN has come */
    uint8_t want_write : 1;             /* a push was cut short */
    uint8_t held_id : 1;                /* the other side still holds the id */
    uint8_t fin_sent : 1;
    uint8_t ended : 1;                  /* RESET or CLOSED has been reported */
    uint8_t ack_due : 1;                /* in that list */
    uint8_t fresh : 1;                  /* the handshake has just ended */
    uint8_t linked : 1;                 /* survived the timers */
};

struct flow_list {
    struct flow *first, *last;
    uint32_t count;
};
enum {
    LIST_NONE,
    LIST_HELD,
    LIST_BUSY,  /* lwIP's timers have something to do for it */
    LIST_IDLE,  /* quiet: the longest unheard of first */
    LIST_ASKED, /* quiet, and sent a keepalive probe that has not been answered: the longest ago first */
    LIST_WAIT,
    LIST_DEAD,
    LIST_COUNT
};

struct queued_datagram {
    struct queued_datagram *next;
    struct zks_datagram meta;
    uint8_t payload[];
};

struct queued_packet {
    struct queued_packet *next;
    uint32_t length;
    uint8_t data[];
};

struct zks_core {
    struct zks_config config;
    struct netif netif;
    struct tcp_pcb_listen *listener;
    uint32_t tcp_ticks; /* lwIP's clock (500 ms), kept for each core */
    uint8_t half_tick;
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
    struct queued_packet *output_first, *output_last;
    uint32_t output_bytes;
    struct reassembly *fragments; /* datagrams that wait for the rest of their fragments, oldest first */
    uint32_t fragments_seen;      /* how many */
    uint32_t fragments_bytes;
    uint32_t ident; /* of the next datagram that is fragmented */
    uint64_t icmp_since_ms; /* in this second ... */
    uint32_t icmp_sent;     /* ... so many errors about unknown protocols */
    uint8_t datagram_event;
    uint8_t wake_sent;

    int fd, framing, device_errno;
    int stop_pipe[2];
    uint8_t pump_sleeps; /* in poll beyond the next tick */
    struct chunk *spare[2];
    uint32_t spare_count[2];
    uint8_t *scratch; /* 64 KiB and a header, for what must be in one piece */
    uint64_t counters[ZKS_C_TOTAL];
};

#define ZKS_PACKET_MAX 65535u
#define ZKS_DATAGRAM_MOST 65507u /* bytes in a datagram of UDP or an echo, of either family */
#define ZKS_TICK_MS 250u

/* core.c: the lock, and which core lwIP works for. */
void core_enter(zks_core *core);
void core_leave(zks_core *core);
extern zks_core *core_current;
void core_count(zks_core *core, int counter);
void core_ready(zks_core *core, struct flow *flow, uint8_t events);
void core_wake_reader(zks_core *core);
void core_kick_pump(zks_core *core);
void core_advance(zks_core *core, uint64_t now_ms);
int core_wants_ticks(const zks_core *core);
int64_t core_wait(const zks_core *core);
void core_inject(zks_core *core, struct pbuf *p, const struct zks_packet *packet);
uint32_t core_hash(const zks_core *core, const struct zks_address *source, uint16_t source_port,
                   const struct zks_address *destination, uint16_t destination_port);

/* flow.c */
void flow_segment(zks_core *core, struct pbuf *p, struct zks_packet *packet); /* takes p over */
void flow_acknowledge(zks_core *core);
void flow_tick(zks_core *core);
int flow_keepalive_due(const zks_core *core, uint64_t *due_ms);
uint16_t flow_mss(const zks_core *core, const struct zks_packet *reply);
int flow_setup(zks_core *core);
void flow_teardown(zks_core *core);

/* rx.c */
int rx_append(zks_core *core, struct flow *flow, struct pbuf *p);
size_t rx_take(zks_core *core, struct flow *flow, uint8_t *buffer, size_t size);
void rx_clear(zks_core *core, struct flow *flow);
void rx_trim(zks_core *core);

/* budget.c */
#define BUDGET_FIRST_WINDOW 65520u /* the most that a SYN can say (RFC 7323 §2.2), less what the scale cuts off */
void budget_charge(zks_core *core, struct flow *flow);
uint32_t budget_send_room(const zks_core *core, const struct tcp_pcb *pcb);
int budget_has_room(const zks_core *core, const struct tcp_pcb *pcb);
uint16_t budget_first_window(const zks_core *core);
void budget_set_window(struct tcp_pcb *pcb, uint16_t window);
void budget_open_window(zks_core *core, struct flow *flow, uint32_t taken);

/* datagram.c: t is the transport's header, of which packet tells; verify: nobody has looked at its checksum yet. */
void datagram_input(zks_core *core, const struct zks_packet *packet, const uint8_t *t, uint32_t length, int verify);
void datagram_teardown(zks_core *core);

/* datagram_out.c: head is the eight bytes of a UDP or ICMP header, whose checksum is put in. */
int datagram_output(zks_core *core, int family, const uint8_t *source, const uint8_t *destination, uint8_t protocol,
                    uint8_t traffic_class, uint8_t *head, const uint8_t *payload, uint32_t length);
void icmp_error(zks_core *core, const uint8_t *packet, uint32_t length, int how, uint32_t mtu);
void icmp_unknown_protocol(zks_core *core, const struct zks_packet *packet, const uint8_t *bytes);
void icmp_time_exceeded(zks_core *core, const struct zks_packet *packet, const uint8_t *t, uint32_t length);
int icmp_echo_reply(zks_core *core, const struct zks_datagram *d, const uint8_t *payload);

/* reassembly.c */
void reassemble(zks_core *core, const struct zks_packet *packet, const uint8_t *bytes);
void reassembly_expire(zks_core *core);
void reassembly_teardown(zks_core *core);

/* device.c */
err_t device_output(zks_core *core, struct pbuf *p);
err_t device_output4(struct netif *netif, struct pbuf *p, const ip4_addr_t *to);
err_t device_output6(struct netif *netif, struct pbuf *p, const ip6_addr_t *to);
int device_input(zks_core *core, const uint8_t *bytes, uint32_t length, int trusted, struct pbuf_custom *owner);
void device_teardown(zks_core *core);

#endif
