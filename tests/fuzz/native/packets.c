/* Applications, the network between and the caller, all driven by one input: packets (sound, mutated, arbitrary),
 * calls, time, lost output and failing allocations, on a core with a queue or with a device for output.
 *
 * After every step model.h must hold; what a flow hands out must be what its sequence numbers stand for, what it
 * sends what was pushed; and in the end nothing may be left. */
#include "run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "core/zks_datagram_frames.h"
#include "core/zks_packet_cache.h"
#include "env.h"

#define STEPS 400

struct run run;
int run_device[2];
uint8_t *run_big;
int run_trace;
static long baseline;

/* ---- the input ---- */
uint8_t u8(void) { return run.at < run.end ? *run.at++ : 0; }
uint16_t u16(void)
{
    uint16_t a = u8();
    return (uint16_t)(a << 8 | u8());
}
uint32_t u32(void)
{
    uint32_t a = u16();
    return a << 16 | u16();
}

uint32_t some_size(void)
{
    static const uint32_t sizes[] = {0, 1, 2, 7, 8, 100, 536, 1400, 1460, 4095, 4096, 16384, 20000, 65495, 65535};
    uint8_t a = u8();
    return a < 240 ? sizes[a % (sizeof sizes / sizeof *sizes)] : u16();
}

struct peer *some_peer(void) { return &run.peers[u8() % PEERS]; }

struct record *some_record(void)
{
    uint8_t a = u8();
    return run.count ? &run.records[run.count - 1 - a % (run.count < 8 ? run.count : 8)] : NULL;
}

/* ---- steps ---- */
static void step(uint8_t op)
{
    struct peer *p;
    struct record *r;
    uint32_t n;
    op %= 36;
    if (run_trace)
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
        send_segment(p, flags & ~WIRE_RST, p->seq + (uint32_t)(int8_t)u8(), p->ack + (uint32_t)(int8_t)u8(), options, n,
                     u8());
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
        n = u8() & 1 ? wire_udp(run_big, &p->tuple, some_size()) : wire_echo(run_big, &p->tuple, some_size());
        send_packet(run_big, n);
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
            input(run_big, wire_tcp(run_big, &tuple, WIRE_SYN, n, 0, 100, NULL, 0, 0), 0);
        }
        break;
    case 34: /* data until the window is full, and more */
        p = some_peer();
        for (n = 1 + u8() % 80; n; n--)
            send_segment(p, WIRE_ACK, advance(p, WIRE_MAX), p->ack, NULL, 0, WIRE_MAX);
        break;
    case 35:
        if ((r = some_record()))
            pull(r, MAX_DATA * 8);
        break;
    default: { /* datagrams as frames; ids that are no flow's */
        uint64_t id;
        switch (u8() % 8) {
        case 1:
        case 2:
            bind_peer(some_peer());
            return;
        case 3:
        case 4:
            take_frames();
            return;
        case 5:
        case 6:
            deliver_frames();
            return;
        case 7: /* several that the kernel has not cut */
            n = u8() & 1 ? wire_udp(run_big, &some_peer()->tuple, some_size())
                         : wire_echo(run_big, &some_peer()->tuple, some_size());
            input_uncut(run_big, n, u16() >> u8() % 16);
            return;
        default:
            break;
        }
        id = (uint64_t)u8() << 32 | u8();
        if (!record_of(id) && !model_flow(run.core, id)) {
            CHECK(zks_flow_accept(run.core, id, 0) == ZKS_GONE && zks_flow_abort(run.core, id) == ZKS_GONE);
            CHECK(zks_flow_close(run.core, id) == ZKS_GONE && zks_flow_push(run.core, id, run_big, 1) == ZKS_GONE);
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
    CHECK(values[ZKS_C_DATAGRAMS_IN] <= waiting + zks_packet_cache_hits(run.core));
}

/* ---- a run ---- */
static int start(void)
{
    static const uint32_t mtus[] = {1500, 576, 1280, 9000, 65535}, limits[] = {16, 1, 2, 600};
    static const uint32_t keepalives[] = {0, 2000, 70000};
    static const uint32_t datagrams[] = {4 << 20, 0, 300, 20000}, outputs[] = {4 << 20, 3000, 100000};
    static const uint32_t memories[] = {128 << 20, 0, 1 << 20};
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
    config.keepalive_ms = keepalives[a / 45 % 3];
    config.max_memory = memories[a / 85 % 3];
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
        CHECK(zks_device_attach(run.core, run_device[0], run.offloaded ? ZKS_FRAMING_VNET : ZKS_FRAMING_UTUN) ==
              ZKS_OK);
    if (run.core)
        zks_device_cuts_datagrams(run.core, run.offloaded);
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
    run_trace = getenv("ZKS_FUZZ_TRACE") != NULL;
    memset(&config, 0, sizeof config);
    config.mtu = 1500;
    config.max_flows = 1;
    config.wake_fd = -1;
    run_big = malloc(1 << 18);
    CHECK(run_big && socketpair(AF_UNIX, SOCK_SEQPACKET, 0, run_device) == 0);
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
    while (recv(run_device[1], run_big, WIRE_MAX + 10, MSG_DONTWAIT) > 0)
        ;
    CHECK(env_live == baseline);
    CHECK(!env_locked);
    return 0;
}
