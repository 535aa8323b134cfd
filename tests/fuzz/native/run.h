/* One run of the target packets: the applications, the flows' owner, and how the input is read. */
#ifndef ZKS_FUZZ_RUN_H
#define ZKS_FUZZ_RUN_H
#include "model.h"
#include "wire.h"

#define PEERS 6
#define RECORDS 200
#define MAX_PUSH (1u << 20)
#define MAX_DATA (1u << 17)

/* An application's end of a connection. */
struct peer {
    struct wire_tuple tuple;
    uint32_t seq, ack; /* what it sends next, and what it has from the stack */
    uint32_t asked;    /* where the stack wants its next segment */
    uint16_t window;
    uint8_t news; /* something has come that it would acknowledge */
};

/* A flow, as its owner knows it. */
struct record {
    uint64_t id, pushed, pulled;
    struct wire_tuple tuple;
    uint32_t iss, base, edge;
    uint8_t shift;
    uint8_t synced, based; /* iss, base are known */
    uint8_t released, ended, eof, shut, edged;
};

struct run {
    const uint8_t *at, *end;
    zks_core *core;
    struct peer peers[PEERS];
    struct record records[RECORDS];
    int count;
    uint32_t mtu;
    uint64_t pushed, inputs, taken;
    uint8_t device;    /* output goes to a descriptor: with a header of so many bytes; 0: to the queue */
    uint8_t offloaded; /* and the device has offloads */
    uint8_t loss;      /* of output: every so many-th packet does not reach its peer; 0: none */
    uint8_t answers;   /* peers acknowledge what comes */
    uint8_t gone;      /* peers know of no connection: whatever comes is answered by RST */
    uint8_t dirty;     /* a datagram was mutated: its contents are not known */
    uint8_t reset_sent;
    uint8_t starved; /* an allocation was to fail */
    uint32_t delivered, key, burst;
    struct {
        uint32_t ident, next;
        uint8_t open, unknown;
    } fragments;
    uint8_t last[WIRE_MAX];
    uint32_t last_length;
};

extern struct run run;
extern int run_device[2]; /* a socket pair in place of a TUN: the core has the first */
extern uint8_t *run_big;  /* 256 KiB of scratch */
extern int run_trace;     /* ZKS_FUZZ_TRACE is set: tell every step, and every segment that comes out */

/* packets.c: the input, from which everything is read. */
uint8_t u8(void);
uint16_t u16(void);
uint32_t u32(void);
uint32_t some_size(void);
struct peer *some_peer(void);
struct record *some_record(void);
/* output.c: what the core sends. Takes some of it, if there is any, and checks it. */
int take_output(void);
/* peers.c: what the core gets. */
void input(const uint8_t *packet, uint32_t length, int trusted);
void input_uncut(const uint8_t *packet, uint32_t length, uint32_t each);
void send_packet(const uint8_t *packet, uint32_t length);
void drain(void);
void send_segment(struct peer *p, uint8_t flags, uint32_t seq, uint32_t ack, const uint8_t *options,
                  uint32_t options_length, uint32_t length);
uint32_t advance(struct peer *p, uint32_t length);
void send_syn(struct peer *p);
void send_mutated(void);
void send_raw(void);
void send_fragments(void);
/* owner.c: the flows' owner. */
uint8_t pushed_byte(const struct record *r, uint64_t place);
struct record *record_of(uint64_t id);
struct record *new_record(uint64_t id, const struct zks_flow_info *info);
void note_numbers(struct record *r);
void accept_flow(struct record *r);
void take_events(int most);
void pull(struct record *r, uint32_t size);
void push(struct record *r, uint32_t size);
void connect_flow(struct peer *p);
void take_datagrams(int most, uint32_t size);
void send_datagram(const struct wire_tuple *tuple, uint32_t length);
void remember_answer(uint32_t key, uint32_t answer);
void ask(const struct peer *p, uint32_t length);
void bind_peer(struct peer *p);
void take_frames(void);
void deliver_frames(void);
#endif
