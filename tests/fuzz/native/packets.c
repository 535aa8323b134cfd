/* Applications, the network between and the caller, all driven by one input: packets (sound, mutated, arbitrary),
 * calls, time, lost output and failing allocations, on a core with a queue or with a device for output.
 *
 * After every step model.h must hold; what a flow hands out must be what its sequence numbers stand for, what it
 * sends what was pushed; and in the end nothing may be left. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "env.h"
#include "model.h"
#include "wire.h"
#include "zks_hot.h"

#define PEERS 6
#define RECORDS 200
#define STEPS 400
#define PUSH_MOST (1u << 20)
#define DATA_MOST (1u << 17)

/* An application's end of a connection. */
struct peer {
    struct wire_tuple tuple;
    uint32_t seq, ack; /* what it sends next, and what it has from the stack */
    uint32_t asked;    /* where the stack wants its next segment */
    uint16_t window;
    uint8_t news; /* something has come that it would acknowledge */
};

/* A flow, as its holder knows it. */
struct record {
    uint64_t id, pushed, pulled;
    struct wire_tuple tuple;
    uint32_t iss, base, edge;
    uint8_t shift;
    uint8_t synced, based; /* iss, base are known */
    uint8_t released, ended, eof, shut, edged;
};

static struct {
    const uint8_t *at, *end;
    zks_core *core;
    struct peer peers[PEERS];
    struct record records[RECORDS];
    int count;
    uint32_t mtu;
    uint64_t pushed, inputs, sent, taken;
    uint8_t device;    /* output goes to a descriptor: with a header of so many bytes; 0: to the queue */
    uint8_t offloaded; /* and the device has offloads */
    uint8_t loss;      /* of output: every so many-th packet does not reach its peer; 0: none */
    uint8_t answers;   /* peers acknowledge what comes */
    uint8_t gone;      /* peers know of no connection: whatever comes is answered by RST */
    uint8_t dirty;     /* a datagram was mutated: its contents are not known */
    uint8_t reset_sent;
    uint8_t starved;   /* an allocation was to fail */
    uint32_t delivered, key, burst;
    struct { uint32_t ident, next; uint8_t open, error; } fragments;
    uint8_t last[WIRE_MOST];
    uint32_t last_length;
} run;

static int device[2];
static long baseline;
static uint8_t *big;
static int trace; /* ZKS_FUZZ_TRACE is set: tell every step, and every segment that comes out */

/* ---- the input ---- */
static uint8_t u8(void) { return run.at < run.end ? *run.at++ : 0; }
static uint16_t u16(void) { uint16_t a = u8(); return (uint16_t)(a << 8 | u8()); }
static uint32_t u32(void) { uint32_t a = u16(); return a << 16 | u16(); }

static uint32_t some_size(void)
{
    static const uint32_t sizes[] = {0, 1, 2, 7, 8, 100, 536, 1400, 1460, 4095, 4096, 16384, 20000, 65495, 65535};
    uint8_t a = u8();
    return a < 240 ? sizes[a % (sizeof sizes / sizeof *sizes)] : u16();
}

static struct peer *some_peer(void) { return &run.peers[u8() % PEERS]; }

static struct record *some_record(void)
{
    uint8_t a = u8();
    return run.count ? &run.records[run.count - 1 - a % (run.count < 8 ? run.count : 8)] : NULL;
}

static uint8_t pushed_byte(const struct record *r, uint64_t place)
{
    return wire_datagram_byte((uint32_t)(r - run.records) << 24 ^ (uint32_t)place);
}

/* ---- what the core sends ---- */
static int matches(struct record *r, const struct wire_segment *s)
{
    uint32_t place = s->seq - r->iss - 1, i;
    if (!r->synced || memcmp(&r->tuple, &s->tuple, sizeof r->tuple))
        return 0;
    if (s->flags & WIRE_SYN)
        return s->seq == r->iss && (!(s->flags & WIRE_ACK) || !r->based || (int32_t)(s->ack - r->base) >= 0);
    if (place == 0xffffffffu)
        return s->length == 0; /* an ACK before our SYN was acknowledged */
    if (place + (uint64_t)s->length > r->pushed + (s->length == 0))
        return 0;
    for (i = 0; i < s->length; i++)
        if (s->data[i] != pushed_byte(r, place + i))
            return 0;
    return !(s->flags & WIRE_FIN) || ((r->shut || r->released) && place + s->length == r->pushed);
}

static void check_edge(struct record *r, const struct wire_segment *s)
{
    uint32_t edge = s->ack + (s->window << (s->flags & WIRE_SYN ? 0 : r->shift));
    if (!(s->flags & WIRE_ACK) || !r->based)
        return;
    /* A window never shrinks (RFC 9293 §3.8.6), but for what its scale cannot say. */
    CHECK(!r->edged || (s->flags & WIRE_SYN) || (int32_t)(edge + 16 - r->edge) > 0);
    if (!r->edged || (int32_t)(edge - r->edge) > 0)
        r->edge = edge;
    r->edged = 1;
}

static void tcp_out(const struct wire_segment *s, int lost)
{
    struct peer *p;
    int i;
    if (s->flags & WIRE_RST) {
        CHECK(!run.reset_sent); /* never in answer to one */
    } else {
        for (i = run.count; i-- > 0;)
            if (matches(&run.records[i], s))
                break;
        CHECK(i >= 0);
        check_edge(&run.records[i], s);
    }
    for (p = run.peers; p < run.peers + PEERS && !lost; p++) {
        uint32_t end = s->seq + s->length + ((s->flags & WIRE_FIN) != 0);
        if (memcmp(&p->tuple, &s->tuple, sizeof p->tuple))
            continue;
        p->asked = s->ack;
        p->news |= run.gone && !(s->flags & WIRE_RST);
        if (s->flags & WIRE_SYN) {
            p->ack = s->seq + 1;
            if (s->flags & WIRE_ACK)
                p->seq = s->ack;
        } else if (!(s->flags & WIRE_RST) && end != s->seq) {
            p->news = 1;
            if ((int32_t)(s->seq - p->ack) <= 0 && (int32_t)(end - p->ack) > 0)
                p->ack = end;
        }
    }
}

static void datagram_out(const struct wire_segment *s)
{
    const uint8_t *data = s->data;
    uint32_t i, length = s->length, place = s->offset;
    if (s->fragment && !run.starved && !run.core->counters[ZKS_C_OUTPUT_DROPPED]) {
        CHECK(run.fragments.open == (s->offset != 0));
        CHECK(!s->offset || (run.fragments.ident == s->ident && run.fragments.next == s->offset));
        run.fragments.ident = s->ident;
        run.fragments.next = s->offset + s->length;
        run.fragments.open = (uint8_t)s->more;
    }
    if (place == 0)
        run.fragments.error = s->protocol != ZKS_PROTO_UDP && data[0] != 0 && data[0] != 129;
    if (run.fragments.error)
        return; /* it quotes */
    if (place == 0) {
        CHECK(length >= 8);
        CHECK(s->fragment || s->protocol != ZKS_PROTO_UDP || wire_get16(data + 4) == length);
        data += 8;
        length -= 8;
    } else {
        place -= 8;
    }
    for (i = 0; i < length && !run.dirty; i++)
        CHECK(data[i] == wire_datagram_byte(place + i));
}

static void tell(const uint8_t *packet, uint32_t length)
{
    const uint8_t *t = packet + (packet[0] >> 4 == 4 ? 20 : 40);
    if ((packet[0] >> 4 == 4 ? packet[9] : packet[6]) == ZKS_PROTO_TCP && length >= 40)
        fprintf(stderr, "  out: TCP %u to %u, flags %02x, seq %u, ack %u, %u bytes\n", wire_get16(t), wire_get16(t + 2),
                t[13], wire_get32(t + 4), wire_get32(t + 8), length);
    else
        fprintf(stderr, "  out: %u bytes\n", length);
}

static void packet_out(const uint8_t *packet, uint32_t length, const uint8_t *vnet)
{
    struct wire_segment s;
    int lost = run.loss && ++run.delivered % run.loss == 0;
    if (trace)
        tell(packet, length);
    wire_read(&s, packet, length, vnet ? 0 : run.mtu, vnet != NULL);
    if (vnet && s.protocol == ZKS_PROTO_TCP) {
        uint32_t header = length - s.length;
        uint16_t field[4]; /* hdr_len, gso_size, csum_start, csum_offset */
        memcpy(field, vnet + 2, 8);
        CHECK(vnet[0] == 1 && field[3] == 16);
        CHECK(field[2] == (s.tuple.family == 4 ? 20 : 40));
        CHECK(vnet[1] == 0 || (vnet[1] == (s.tuple.family == 4 ? 1 : 4) && field[0] == header));
        CHECK(vnet[1] == 0 || (field[1] > 0 && field[1] < s.length));
    } else if (vnet) {
        CHECK(vnet[0] == 0 && vnet[1] == 0);
        CHECK(length <= (s.tuple.family == 6 && run.mtu < 1280 ? 1280 : run.mtu)); /* RFC 8200 §5 */
    }
    if (s.protocol == ZKS_PROTO_TCP && !s.fragment)
        tcp_out(&s, lost);
    else
        datagram_out(&s);
}

static int take_output(void)
{
    uint32_t lengths[64], used = 0;
    int i, n;
    if (run.device) {
        ssize_t got = recv(device[1], big, WIRE_MOST + 10, MSG_DONTWAIT);
        if (got <= 0)
            return 0;
        CHECK(got > run.device);
        CHECK(run.offloaded || big[3] == (big[4] >> 4 == 4 ? 2 : 30));
        packet_out(big + run.device, (uint32_t)got - run.device, run.offloaded ? big : NULL);
        return 1;
    }
    n = zks_packet_output(run.core, big, 1 << 18, lengths, 64);
    for (i = 0; i < n; i++) {
        packet_out(big + used, lengths[i], NULL);
        used += lengths[i];
    }
    return n;
}

/* ---- what the core gets ---- */
static void free_buffer(struct pbuf *p) { zks_mem_free(p); }

static void input(const uint8_t *packet, uint32_t length, int trusted)
{
    run.inputs++;
    if (run.device) {
        struct pbuf_custom *buffer = malloc(sizeof *buffer + length);
        uint8_t *bytes = (uint8_t *)(buffer + 1);
        buffer->custom_free_function = free_buffer;
        env_live++; /* the core frees it, by env_free, or we do */
        if (length)
            memcpy(bytes, packet, length);
        core_enter(run.core);
        if (!device_input(run.core, bytes, length, trusted && run.offloaded, buffer))
            zks_mem_free(buffer);
        core_leave(run.core);
    } else {
        uint8_t *exact = malloc(length ? length : 1); /* so that reading past it shows */
        if (length)
            memcpy(exact, packet, length);
        CHECK(zks_packet_input(run.core, exact, length) == ZKS_OK);
        free(exact);
    }
}

static void send_packet(const uint8_t *packet, uint32_t length)
{
    if (packet != run.last)
        memcpy(run.last, packet, length);
    run.last_length = length;
    input(packet, length, u8() & 1);
}

static void drain(void)
{
    int rounds, i;
    for (rounds = 0; rounds < 50; rounds++) {
        core_enter(run.core);
        flow_acknowledge(run.core); /* the end of a batch of packets, with a device */
        core_leave(run.core);
        while (take_output())
            ;
        for (i = 0; i < PEERS; i++) {
            struct peer *p = &run.peers[i];
            uint32_t length;
            if (!p->news || !run.answers)
                continue;
            p->news = 0;
            length = run.gone ? wire_tcp(big, &p->tuple, WIRE_RST, p->asked, 0, 0, NULL, 0, 0)
                              : wire_tcp(big, &p->tuple, WIRE_ACK, p->seq, p->ack, p->window, NULL, 0, 0);
            input(big, length, 0);
            rounds += rounds > 40;
            break;
        }
        if (i == PEERS)
            return;
    }
}

static void send_segment(struct peer *p, uint8_t flags, uint32_t seq, uint32_t ack, const uint8_t *options,
                         uint32_t options_length, uint32_t length)
{
    static uint8_t packet[WIRE_MOST];
    uint32_t n, room = (run.offloaded ? WIRE_MOST : run.mtu) - (p->tuple.family == 4 ? 20u : 40u) - 60;
    n = wire_tcp(packet, &p->tuple, flags, seq, ack, p->window, options, options_length,
                 length < room ? length : room);
    if (flags & WIRE_RST) {
        drain();
        run.reset_sent = 1;
    }
    send_packet(packet, n);
    while ((flags & WIRE_RST) && take_output())
        ;
    run.reset_sent = 0;
}

static uint32_t advance(struct peer *p, uint32_t length)
{
    uint32_t seq = p->seq, room = (run.offloaded ? WIRE_MOST : run.mtu) - (p->tuple.family == 4 ? 20u : 40u) - 60;
    p->seq += length < room ? length : room;
    return seq;
}

static void send_syn(struct peer *p)
{
    static const uint8_t options[][12] = {
        {0}, {2, 4, 5, 180}, {2, 4, 5, 180, 1, 3, 3, 7}, {2, 4, 255, 215, 1, 3, 3, 14, 4, 2, 1, 1},
        {2, 4, 0, 1}, {2, 4, 0, 88, 4, 2, 3, 3, 0}, {8, 10, 1, 2, 3, 4, 0, 0, 0, 0},
    };
    static const uint32_t sizes[] = {0, 4, 8, 12, 4, 12, 12};
    uint8_t kind = u8(), flags = u8() & 1 ? WIRE_SYN | 0xc0 : WIRE_SYN;
    uint32_t data = kind & 0x80 ? u8() : 0;
    kind = (kind & 0x7f) % 7;
    p->seq = u8() & 1 ? u32() : p->seq + 100000;
    p->window = u16();
    send_segment(p, flags, p->seq++, 0, options[kind], sizes[kind], data);
}

/* ---- the holder's side ---- */
static struct record *record_of(uint64_t id)
{
    int i;
    for (i = run.count; i-- > 0;)
        if (run.records[i].id == id)
            return &run.records[i];
    return NULL;
}

static struct record *new_record(uint64_t id, const struct zks_flow_info *info)
{
    struct record *r = &run.records[run.count++];
    memset(r, 0, sizeof *r);
    r->id = id;
    r->tuple.family = info->family;
    memcpy(r->tuple.app, info->source, 16);
    memcpy(r->tuple.far, info->destination, 16);
    r->tuple.app_port = info->source_port;
    r->tuple.far_port = info->destination_port;
    return r;
}

static void note_numbers(struct record *r)
{
    struct flow *flow = model_flow(run.core, r->id);
    if (!flow || !flow->pcb)
        return;
    if (!r->synced) {
        r->iss = flow->pcb->lastack;
        r->synced = 1;
    }
    if (!r->based && flow->pcb->state >= SYN_RCVD) {
        CHECK(!r->pulled);
        r->base = flow->pcb->rcv_nxt - flow->rx_bytes - flow->rx_eof;
        r->shift = flow->pcb->flags & TF_WND_SCALE ? TCP_RCV_SCALE : 0;
        r->based = 1;
    }
    if (r->based && !flow->rx_eof)
        CHECK(flow->pcb->rcv_nxt == r->base + (uint32_t)r->pulled + flow->rx_bytes);
    CHECK(zks_flow_unacked(run.core, r->id) <= (int64_t)r->pushed);
}

static void accept_flow(struct record *r)
{
    struct flow *flow = model_flow(run.core, r->id);
    int held = flow && flow->state == FLOW_HELD;
    int result = zks_flow_accept(run.core, r->id);
    CHECK(held ? result == ZKS_OK || result == ZKS_NOMEM : result == ZKS_GONE);
    note_numbers(r);
}

static void take_events(int most)
{
    struct zks_event events[16];
    struct zks_flow_info info;
    int i, n = zks_events(run.core, events, most < 16 ? most : 16);
    for (i = 0; i < n; i++) {
        struct record *r = record_of(events[i].flow);
        uint32_t mask = events[i].mask;
        CHECK(mask);
        if (!events[i].flow) {
            CHECK(mask == ZKS_EV_DATAGRAM);
            continue;
        }
        CHECK(zks_flow_info(run.core, events[i].flow, &info) == ZKS_OK);
        CHECK(!r == ((mask & ZKS_EV_SYN) != 0)); /* first of all, and once */
        if (!r)
            r = new_record(events[i].flow, &info);
        CHECK(!r->released && !r->ended);
        r->ended = (mask & (ZKS_EV_RESET | ZKS_EV_CLOSED)) != 0;
        CHECK((mask & (ZKS_EV_RESET | ZKS_EV_CLOSED)) != (ZKS_EV_RESET | ZKS_EV_CLOSED));
        if (run.count == RECORDS)
            run.at = run.end;
        if (run.count == RECORDS)
            break;
    }
}

static void pull(struct record *r, uint32_t size)
{
    uint64_t i;
    struct flow *flow = model_flow(run.core, r->id);
    uint32_t waiting = flow ? flow->rx_bytes : 0;
    uint8_t *buffer = malloc(size ? size : 1);
    int64_t n;
    n = zks_flow_pull(run.core, r->id, buffer, size);
    CHECK(n <= (int64_t)size && n >= ZKS_GONE && (n <= 0 || n == (int64_t)(waiting < size ? waiting : size)));
    CHECK(!r->eof || n <= 0);
    CHECK(n != ZKS_EOF || !waiting);
    for (i = 0; n > 0 && i < (uint64_t)n; i++)
        CHECK(buffer[i] == wire_tcp_byte(r->base + (uint32_t)(r->pulled + i)));
    if (n > 0)
        r->pulled += (uint64_t)n;
    r->eof |= n == ZKS_EOF;
    free(buffer);
}

static void push(struct record *r, uint32_t size)
{
    uint8_t *data;
    uint64_t i;
    int64_t n;
    if (run.pushed + size > PUSH_MOST)
        size = 0;
    data = malloc(size ? size : 1);
    for (i = 0; i < size; i++)
        data[i] = pushed_byte(r, r->pushed + i);
    n = zks_flow_push(run.core, r->id, data, size);
    CHECK(n <= (int64_t)size && (n >= 0 || n == ZKS_GONE || n == ZKS_NOMEM));
    CHECK(!(r->shut || r->released) || n == ZKS_GONE);
    if (n > 0) {
        r->pushed += (uint64_t)n;
        run.pushed += (uint64_t)n;
    }
    free(data);
}

/* Output is looked at when it is taken, maybe only now: what was pushed is known by then, since r comes first. */
static void connect_flow(struct peer *p)
{
    struct zks_flow_info info;
    uint16_t far_port = p->tuple.far_port;
    uint64_t id = zks_flow_connect(run.core, p->tuple.family, p->tuple.far, far_port, p->tuple.app, p->tuple.app_port);
    if (!id)
        return;
    CHECK(zks_flow_info(run.core, id, &info) == ZKS_OK);
    note_numbers(new_record(id, &info));
}

static void set_datagram(struct zks_datagram *d, const struct wire_tuple *tuple, uint32_t length)
{
    memset(d, 0, sizeof *d);
    memcpy(d->source, tuple->far, 16);
    memcpy(d->destination, tuple->app, 16);
    d->source_port = tuple->far_port;
    d->destination_port = tuple->app_port;
    d->family = tuple->family;
    d->kind = u8() & 1;
    d->hop_limit = u8();
    d->traffic_class = u8();
    d->length = length;
}

static void take_datagrams(int most, uint32_t size)
{
    struct zks_datagram d[8], reject;
    uint8_t *buffer = malloc(size ? size : 1);
    int i, n = zks_datagram_take(run.core, d, most < 8 ? most : 8, buffer, size);
    uint32_t j;
    for (i = 0; i < n; i++) {
        CHECK(d[i].offset + d[i].length <= size && d[i].length <= 65507);
        for (j = 0; j < d[i].length && !run.dirty; j++)
            CHECK(buffer[d[i].offset + j] == wire_datagram_byte(j));
        reject = d[i];
        if (u8() & 1)
            zks_datagram_reject(run.core, &reject, buffer + d[i].offset, u8() % 9, u16());
    }
    run.taken += (uint64_t)n;
    free(buffer);
}

static void send_datagram(const struct wire_tuple *tuple, uint32_t length)
{
    struct zks_datagram d;
    uint8_t *payload = malloc(length ? length : 1);
    uint32_t i;
    int result;
    for (i = 0; i < length; i++)
        payload[i] = wire_datagram_byte(i);
    set_datagram(&d, tuple, length);
    result = zks_datagram_send(run.core, &d, payload);
    CHECK(result == ZKS_OK || result == ZKS_NOMEM || result == ZKS_INVALID);
    free(payload);
}

/* DNS of a kind: both question and answer are what a datagram holds at that place, so the check of output fits. */
static void remember_answer(uint32_t key, uint32_t answer)
{
    static uint8_t bytes[2 * WIRE_MOST];
    uint16_t ttls[64] = {0};
    uint32_t i, count = u8() & 1 ? u8() % 65 : 0;
    for (i = 0; i < sizeof bytes; i++)
        bytes[i] = wire_datagram_byte(2 + i);
    for (i = 0; i < count; i++)
        ttls[i] = u16();
    run.key = key;
    if (zks_hot_put(run.core, bytes, key, bytes, answer, ttls, count, u16(), u16()) && count)
        run.dirty = 1; /* its TTLs count down */
    if (u8() == 255)
        zks_hot_clear(run.core);
}

static void ask(const struct peer *p, uint32_t length)
{
    struct wire_tuple tuple = p->tuple;
    tuple.far_port = 53;
    send_packet(big, wire_udp(big, &tuple, length));
}

/* ---- odd packets ---- */
static void send_mutated(void)
{
    uint8_t *packet = run.last;
    uint32_t n = run.last_length, i, changes = u8() % 8;
    uint8_t how = u8();
    if (how & 2)
        n = (uint32_t)(n * (u8() + 1u) / 256);
    for (i = 0; i < changes && n; i++) {
        uint32_t at = u8();
        if (at >= 200)
            at = at << 8 | u8();
        packet[at % n] ^= u8();
    }
    if (n && (how & 4))
        wire_put16(packet + (packet[0] >> 4 == 4 ? 2 : 4) % n, packet[0] >> 4 == 4 ? n : n - 40);
    run.last_length = n;
    if ((how & 1) || run.offloaded)
        wire_repair(packet, n);
    else if (wire_is_sound(packet, n))
        return; /* what is in it is not known, but would be believed */
    if (n < 10 || packet[packet[0] >> 4 == 4 ? 9 : 6] != ZKS_PROTO_TCP)
        run.dirty = 1;
    input(packet, n, how & 8);
}

static void send_raw(void)
{
    uint32_t n = u8(), i;
    for (i = 0; i < n; i++)
        run.last[i] = u8();
    run.last_length = n;
    send_mutated();
}

static void send_fragments(void)
{
    static uint8_t whole[WIRE_MOST], part[WIRE_MOST];
    struct peer *p = some_peer();
    uint32_t length = some_size(), size = (u8() + 1u) * 8, ident = u8() % 4, start, n, header, count, i;
    uint8_t how = u8(), skip = u8();
    n = how & 1 ? wire_echo(whole, &p->tuple, length) : wire_udp(whole, &p->tuple, length);
    header = p->tuple.family == 4 ? 20 : 40;
    if (size * 200 < n)
        size = (n / 200 + 8) & ~7u;
    count = (n - header + size - 1) / size;
    for (i = 0; i < count; i++) {
        uint32_t which = how & 2 ? count - 1 - i : how & 4 ? i ^ 1 : i;
        if (which >= count || (how & 8 && which == skip % count))
            continue;
        start = which * size;
        input(part, wire_fragment(part, whole, n, start, size + (how & 16 ? 8 : 0), which + 1 < count, ident), 0);
        if (how & 32 && which == skip % count)
            input(part, wire_fragment(part, whole, n, start, size, which + 1 < count, ident), 0);
    }
    if (u8() & 1) { /* and one that the next mutation may start from */
        run.last_length = wire_fragment(run.last, whole, n, 0, size, 1, ident);
    }
}

/* ---- steps ---- */
static void step(uint8_t op)
{
    struct peer *p;
    struct record *r;
    uint32_t n;
    op %= 36;
    if (trace)
        fprintf(stderr, "step %u at %lu ms\n", op, (unsigned long)env_now_ms);
    switch (op) {
    case 0:
        send_syn(some_peer());
        break;
    case 1: /* a whole handshake */
        p = some_peer();
        send_syn(p);
        take_events(16);
        for (r = run.records + run.count; r-- > run.records;)
            if (!memcmp(&r->tuple, &p->tuple, sizeof r->tuple)) {
                accept_flow(r);
                drain();
                send_segment(p, WIRE_ACK, p->seq, p->ack, NULL, 0, 0);
                break;
            }
        break;
    case 2:
        if ((r = some_record()))
            accept_flow(r);
        break;
    case 3:
        if ((r = some_record()) && zks_flow_reject(run.core, r->id, u8() % 8) == ZKS_OK)
            r->released = 1;
        break;
    case 4: /* data, in order */
        p = some_peer();
        n = some_size();
        send_segment(p, WIRE_ACK | WIRE_PSH, advance(p, n), p->ack, NULL, 0, n);
        break;
    case 5: /* data, anywhere */
        p = some_peer();
        n = some_size();
        send_segment(p, WIRE_ACK, p->seq + (u8() & 1 ? (uint32_t)(int16_t)u16() : u8() * 1400u), p->ack, NULL, 0, n);
        break;
    case 6: /* acknowledge, with another window */
        p = some_peer();
        p->window = u8() & 1 ? u16() : 0;
        send_segment(p, WIRE_ACK, p->seq, p->ack - (u8() & 1 ? u8() * 100u : 0), NULL, 0, 0);
        break;
    case 7:
        p = some_peer();
        n = some_size();
        send_segment(p, WIRE_FIN | WIRE_ACK, advance(p, n), p->ack, NULL, 0, n);
        p->seq += u8() & 1;
        break;
    case 8:
        p = some_peer();
        n = u8() & 1 ? (uint32_t)(int16_t)u16() : 0;
        send_segment(p, WIRE_RST | (u8() & WIRE_ACK), p->seq + n, p->ack, NULL, 0, 0);
        break;
    case 9: { /* any flags, numbers and options */
        uint8_t options[40], flags;
        p = some_peer();
        flags = u8();
        n = u8() % 41;
        for (op = 0; op < n; op++)
            options[op] = u8();
        send_segment(p, flags & ~WIRE_RST, p->seq + (uint32_t)(int8_t)u8(), p->ack + (uint32_t)(int8_t)u8(), options,
                     n, u8());
        break;
    }
    case 10:
        p = some_peer();
        send_segment(p, WIRE_SYN | WIRE_ACK, p->seq++, p->ack, NULL, 0, 0);
        break;
    case 11:
    case 12:
        send_mutated();
        break;
    case 13:
        send_raw();
        break;
    case 14:
        p = some_peer();
        n = u8() & 1 ? wire_udp(big, &p->tuple, some_size()) : wire_echo(big, &p->tuple, some_size());
        send_packet(big, n);
        break;
    case 15:
        send_fragments();
        break;
    case 16:
        env_now_ms += 250u * (u8() % 16);
        zks_tick(run.core, env_now_ms);
        break;
    case 17:
        for (n = u8(); n; n--)
            zks_tick(run.core, env_now_ms += 500);
        break;
    case 18:
    case 19:
        if ((r = some_record()))
            pull(r, some_size());
        break;
    case 20:
    case 21:
        if ((r = some_record()))
            push(r, op == 20 ? some_size() : some_size() * 4);
        break;
    case 22:
        if ((r = some_record())) {
            n = zks_flow_shutdown(run.core, r->id) == ZKS_OK;
            r->shut |= (uint8_t)n;
        }
        break;
    case 23:
        if ((r = some_record())) {
            CHECK((zks_flow_close(run.core, r->id) == ZKS_OK) == !r->released);
            r->released = 1;
        }
        break;
    case 24:
        if ((r = some_record())) {
            CHECK((zks_flow_abort(run.core, r->id) == ZKS_OK) == !r->released);
            r->released = 1;
        }
        break;
    case 25:
        take_events(1 + u8() % 16);
        break;
    case 26:
        connect_flow(some_peer());
        break;
    case 27:
        send_datagram(&some_peer()->tuple, some_size());
        break;
    case 28:
        take_datagrams(1 + u8() % 8, u8() & 1 ? 1u << 17 : u8());
        break;
    case 29: /* how the network is from here on */
        op = u8();
        run.answers = op & 1;
        run.loss = op >> 1 & 7;
        break;
    case 30:
        run.starved = 1;
        env_fail_in = u8() % 32;
        break;
    case 31: /* answers that are repeated without asking */
        if (u8() & 1)
            remember_answer(some_size(), some_size());
        else
            ask(some_peer(), u8() & 1 ? some_size() : run.key + 2);
        break;
    case 33: /* many connections, from a port each */
        for (n = u8(), p = some_peer(); n; n--) {
            struct wire_tuple tuple = p->tuple;
            tuple.app_port = (uint16_t)(2000 + run.burst++);
            input(big, wire_tcp(big, &tuple, WIRE_SYN, n, 0, 100, NULL, 0, 0), 0);
        }
        break;
    case 34: /* data until the window is full, and more */
        p = some_peer();
        for (n = 1 + u8() % 80; n; n--)
            send_segment(p, WIRE_ACK, advance(p, WIRE_MOST), p->ack, NULL, 0, WIRE_MOST);
        break;
    case 35:
        if ((r = some_record()))
            pull(r, DATA_MOST * 8);
        break;
    default: { /* ids that are no flow's */
        uint64_t id = (uint64_t)u8() << 32 | u8();
        if (!record_of(id) && !model_flow(run.core, id)) {
            CHECK(zks_flow_accept(run.core, id) == ZKS_GONE && zks_flow_abort(run.core, id) == ZKS_GONE);
            CHECK(zks_flow_close(run.core, id) == ZKS_GONE && zks_flow_push(run.core, id, big, 1) == ZKS_GONE);
        }
    }
    }
}

static void check_all(void)
{
    uint64_t values[ZKS_C_TOTAL], dropped = 0, waiting = 0;
    const struct queued_datagram *d;
    int i;
    model_check(run.core);
    for (i = 0; i < run.count; i++)
        if (!run.records[i].released)
            note_numbers(&run.records[i]);
    CHECK(zks_counters(run.core, values, ZKS_C_TOTAL) == ZKS_C_TOTAL);
    for (i = ZKS_C_DROP_FIRST; i < ZKS_C_TOTAL; i++)
        dropped += values[i];
    for (d = run.core->datagram_first; d; d = d->next)
        waiting++;
    CHECK(values[ZKS_C_PACKETS_IN] == run.inputs && dropped <= run.inputs);
    waiting += values[ZKS_C_DATAGRAMS_DROPPED] + run.taken;
    CHECK(values[ZKS_C_DATAGRAMS_IN] >= waiting);
    CHECK(values[ZKS_C_DATAGRAMS_IN] <= waiting + zks_hot_hits(run.core));
}

/* ---- a run ---- */
static int start(void)
{
    static const uint32_t mtus[] = {1500, 576, 1280, 9000, 65535}, limits[] = {16, 1, 2, 600};
    static const uint32_t datagrams[] = {4 << 20, 0, 300, 20000}, outputs[] = {4 << 20, 3000, 100000};
    struct zks_config config;
    uint8_t a = u8(), b = u8(), i;
    memset(&config, 0, sizeof config);
    memset(config.seed, a, sizeof config.seed);
    config.mtu = run.mtu = mtus[a % 5];
    config.max_flows = limits[b & 3];
    config.max_held = limits[b >> 2 & 3];
    config.max_datagrams = datagrams[b >> 4 & 3];
    config.max_output = outputs[a / 5 % 3];
    config.icmp = a / 15 % 3;
    config.wake_fd = -1;
    config.own4[0] = 198, config.own4[1] = 18, config.own4[3] = 2;
    run.answers = b >> 6 & 1;
    run.device = b >> 7 ? a & 1 ? 10 : 4 : 0;
    run.offloaded = run.device == 10;
    for (i = 0; i < PEERS; i++) {
        struct wire_tuple *t = &run.peers[i].tuple;
        t->family = i & 1 ? 6 : 4;
        t->app[0] = i & 1 ? 0xfd : 198, t->app[1] = 18, t->app[3] = 1;
        t->far[0] = i & 1 ? 0x20 : 203, t->far[1] = 1, t->far[3] = 7;
        t->app_port = (uint16_t)(1000 + i);
        t->far_port = 80;
        run.peers[i].window = 65535;
    }
    if (a >= 250)
        env_fail_in = u8() % 16;
    run.core = zks_core_new(&config);
    CHECK(run.core || a >= 250);
    env_fail_in = -1;
    if (run.core && run.device)
        CHECK(zks_device_attach(run.core, device[0], run.offloaded ? ZKS_FRAMING_VNET : ZKS_FRAMING_UTUN) == ZKS_OK);
    return run.core != NULL;
}

static void let_go(int how)
{
    int i, left;
    for (left = 16; left == 16;)
        for (left = 0; run.core->ready_first && left < 16 && run.count < RECORDS - 16; left++)
            take_events(1);
    for (i = 0; i < run.count; i++) {
        struct record *r = &run.records[i];
        if (r->released)
            continue;
        CHECK((how ? zks_flow_abort(run.core, r->id) : zks_flow_close(run.core, r->id)) == ZKS_OK);
        r->released = 1;
    }
}

/* Nothing outlives its time: what was let go ends by itself, with a peer that has vanished too. */
static void expire(void)
{
    uint32_t ticks;
    for (ticks = 0; ticks < 4 * 900 && core_wants_ticks(run.core); ticks++) {
        run.gone = run.answers && ticks > 200; /* a peer that never reads may keep a flow as long as it is there */
        zks_tick(run.core, env_now_ms += ZKS_TICK_MS);
        drain();
    }
    CHECK(!core_wants_ticks(run.core));
    CHECK(!run.core->flow_count || run.count >= RECORDS - 16);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct zks_config config;
    (void)argc, (void)argv;
    trace = getenv("ZKS_FUZZ_TRACE") != NULL;
    memset(&config, 0, sizeof config);
    config.mtu = 1500;
    config.max_flows = 1;
    config.wake_fd = -1;
    big = malloc(1 << 18);
    CHECK(big && socketpair(AF_UNIX, SOCK_SEQPACKET, 0, device) == 0);
    zks_core_free(zks_core_new(&config));
    baseline = env_live; /* what lwIP and the glue keep for the process */
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int steps, how;
    memset(&run, 0, sizeof run);
    run.at = data;
    run.end = data + size;
    env_fail_in = -1;
    env_looks = 0;
    how = u8();
    if (start()) {
        for (steps = 0; steps < STEPS && run.at < run.end; steps++) {
            step(u8());
            if (!(how & 4))
                drain();
            check_all();
        }
        env_fail_in = -1;
        run.answers = how >> 3 & 1;
        run.loss = 0;
        if ((how & 3) || run.core->fragments_seen) {
            let_go(how & 1);
            expire();
        }
        zks_core_free(run.core);
    }
    while (recv(device[1], big, WIRE_MOST + 10, MSG_DONTWAIT) > 0)
        ;
    CHECK(env_live == baseline);
    CHECK(!env_locked);
    return 0;
}
