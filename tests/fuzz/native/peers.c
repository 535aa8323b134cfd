/* Packets of applications: sound, mutated and arbitrary ones, and answers to what comes. */
#include "run.h"

#include <stdlib.h>
#include <string.h>

#include "env.h"

static void free_buffer(struct pbuf *p) { zks_mem_free(p); }

void input(const uint8_t *packet, uint32_t length, int trusted)
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

void input_uncut(const uint8_t *packet, uint32_t length, uint32_t each)
{
    uint8_t *exact = malloc(length ? length : 1);
    memcpy(exact, packet, length);
    run.inputs++;
    run.dirty = 1;
    core_enter(run.core);
    device_input_uncut(run.core, exact, length, each);
    core_leave(run.core);
    free(exact);
}

void send_packet(const uint8_t *packet, uint32_t length)
{
    if (packet != run.last)
        memcpy(run.last, packet, length);
    run.last_length = length;
    input(packet, length, u8() & 1);
}

void drain(void)
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
            length = run.gone ? wire_tcp(run_big, &p->tuple, WIRE_RST, p->asked, 0, 0, NULL, 0, 0)
                              : wire_tcp(run_big, &p->tuple, WIRE_ACK, p->seq, p->ack, p->window, NULL, 0, 0);
            input(run_big, length, 0);
            rounds += rounds > 40;
            break;
        }
        if (i == PEERS)
            return;
    }
}

void send_segment(struct peer *p, uint8_t flags, uint32_t seq, uint32_t ack, const uint8_t *options,
                  uint32_t options_length, uint32_t length)
{
    static uint8_t packet[WIRE_MAX];
    uint32_t n, room = (run.offloaded ? WIRE_MAX : run.mtu) - (p->tuple.family == 4 ? 20u : 40u) - 60;
    n = wire_tcp(packet, &p->tuple, flags, seq, ack, p->window, options, options_length, length < room ? length : room);
    if (flags & WIRE_RST) {
        drain();
        run.reset_sent = 1;
    }
    send_packet(packet, n);
    while ((flags & WIRE_RST) && take_output())
        ;
    run.reset_sent = 0;
}

uint32_t advance(struct peer *p, uint32_t length)
{
    uint32_t seq = p->seq, room = (run.offloaded ? WIRE_MAX : run.mtu) - (p->tuple.family == 4 ? 20u : 40u) - 60;
    p->seq += length < room ? length : room;
    return seq;
}

void send_syn(struct peer *p)
{
    static const uint8_t options[][12] = {
        {0},
        {2, 4, 5, 180},
        {2, 4, 5, 180, 1, 3, 3, 7},
        {2, 4, 255, 215, 1, 3, 3, 14, 4, 2, 1, 1},
        {2, 4, 0, 1},
        {2, 4, 0, 88, 4, 2, 3, 3, 0},
        {8, 10, 1, 2, 3, 4, 0, 0, 0, 0},
    };
    static const uint32_t sizes[] = {0, 4, 8, 12, 4, 12, 12};
    uint8_t kind = u8(), flags = u8() & 1 ? WIRE_SYN | 0xc0 : WIRE_SYN;
    uint32_t data = kind & 0x80 ? u8() : 0;
    kind = (kind & 0x7f) % 7;
    p->seq = u8() & 1 ? u32() : p->seq + 100000;
    p->window = u16();
    send_segment(p, flags, p->seq++, 0, options[kind], sizes[kind], data);
}

/* ---- odd packets ---- */
void send_mutated(void)
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

void send_raw(void)
{
    uint32_t n = u8(), i;
    for (i = 0; i < n; i++)
        run.last[i] = u8();
    run.last_length = n;
    send_mutated();
}

void send_fragments(void)
{
    static uint8_t whole[WIRE_MAX], part[WIRE_MAX];
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
