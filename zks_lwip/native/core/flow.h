/* A TCP flow: its states, and the lists that it may be in. Types alone. */
#ifndef ZKS_FLOW_H
#define ZKS_FLOW_H
#include <stdint.h>

#include "packet.h"

struct chunk;
struct tcp_pcb;

enum flow_state {
    FLOW_HELD,   /* its SYN is held: zks_flow_accept or zks_flow_reject decides */
    FLOW_OPEN,   /* a pcb lives */
    FLOW_LINGER, /* a pcb lives, but its owner has let go of the id */
    FLOW_WAIT,   /* the pcb is in TIME_WAIT */
    FLOW_DEAD    /* no pcb: waits for its owner to let go of the id */
};

struct flow {
    struct flow *hash_next;
    struct flow *prev, *next; /* in one of the core's lists */
    struct flow *ready_next;  /* in the queue of flows with events */
    struct flow *ack_next;    /* in the list of flows that owe an ACK */
    struct tcp_pcb *pcb;
    struct chunk *rx_head, *rx_tail;
    uint8_t *syn; /* the held packet */
    uint64_t id;
    uint64_t since_ms; /* since when it is held, let go, heard of last, or asked (LIST_ASKED) */
    union {
        uint64_t syn_ms;   /* when a held SYN was last seen */
        uint64_t drain_ms; /* since when a window's worth is being taken from rx */
    };
    uint64_t pulled; /* bytes of its application that its owner took */
    uint64_t pushed; /* bytes for it that its owner gave */
    struct zks_address source, destination;
    uint32_t rx_bytes;
    uint32_t acked;   /* by the last segment that was sent */
    uint32_t drained; /* of a window's worth, since drain_ms */
    uint32_t charge;  /* bytes of the core's memory that it may hold */
    uint32_t hash;
    uint16_t source_port, destination_port;
    uint16_t syn_length;
    uint16_t mss;           /* what one segment on the wire may hold */
    uint16_t first_window;  /* most that its SYN's answer may say; 0: whatever lwIP does */
    uint8_t events;         /* not yet reported */
    uint8_t syn_count;      /* its retransmissions */
    uint8_t why;            /* it has ended: ZKS_WHY_* */
    uint8_t state : 3;      /* FLOW_* */
    uint8_t list : 3;       /* LIST_*: which list prev and next belong to */
    uint8_t ready : 1;      /* queued for an event */
    uint8_t rx_eof : 1;     /* FIN has come */
    uint8_t want_write : 1; /* a push was cut short */
    uint8_t owned : 1;      /* its owner, who opens flows and takes events, has the id and has not let go of it */
    uint8_t fin_sent : 1;
    uint8_t ended : 1;   /* RESET or CLOSED has been reported */
    uint8_t ack_due : 1; /* in that list */
    uint8_t fresh : 1;   /* the handshake has just ended */
    uint8_t quiet : 1;   /* its owner does not wait for that */
    uint8_t linked : 1;  /* survived the timers */
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

#endif
