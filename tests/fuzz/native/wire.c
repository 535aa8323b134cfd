#include "wire.h"

#include <string.h>

#include "env.h"

#define HEADER(family) ((family) == 4 ? 20u : 40u)
enum { ICMP = 1, TCP = 6, UDP = 17, FRAGMENT = 44, ICMP6 = 58 };

static uint8_t mix(uint32_t x)
{
    x *= 0x9e3779b1u;
    x ^= x >> 15;
    x *= 0x85ebca6bu;
    return (uint8_t)(x >> 24);
}

uint8_t wire_tcp_byte(uint32_t sequence) { return mix(sequence); }
uint8_t wire_datagram_byte(uint32_t place) { return mix(place ^ 0xdada0000u); }

uint16_t wire_get16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
uint32_t wire_get32(const uint8_t *p) { return (uint32_t)wire_get16(p) << 16 | wire_get16(p + 2); }
void wire_put16(uint8_t *p, uint32_t v) { p[0] = (uint8_t)(v >> 8), p[1] = (uint8_t)v; }
void wire_put32(uint8_t *p, uint32_t v) { wire_put16(p, v >> 16), wire_put16(p + 2, v); }

static uint32_t sum(uint32_t start, const uint8_t *p, uint32_t length)
{
    uint64_t total = start;
    uint32_t i;
    for (i = 0; i + 1 < length; i += 2)
        total += wire_get16(p + i);
    if (length & 1)
        total += (uint32_t)p[length - 1] << 8;
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    return (uint32_t)total;
}

static uint32_t pseudo(const uint8_t *packet, uint8_t protocol, uint32_t length)
{
    if (packet[0] >> 4 == 4)
        return sum(protocol + length, packet + 12, 8);
    return sum(protocol + (length >> 16) + (length & 0xffff), packet + 8, 32);
}

/* Where an ICMP, TCP or UDP header has its checksum; 0: it has none here. */
static uint32_t checksum_at(uint8_t protocol) { return protocol == TCP ? 16 : protocol == UDP ? 6 : protocol ? 2 : 0; }

/* The transport header of a whole packet, with its length; NULL: there is none that could be repaired. */
static uint8_t *transport(uint8_t *packet, uint32_t length, uint8_t *protocol, uint32_t *size)
{
    uint32_t header, total;
    if (length < 1)
        return NULL;
    if (packet[0] >> 4 == 4) {
        header = (packet[0] & 15u) * 4;
        if (length < 20 || header < 20 || (wire_get16(packet + 6) & 0x3fff))
            return NULL;
        total = wire_get16(packet + 2);
        *protocol = packet[9];
    } else {
        header = 40;
        if (packet[0] >> 4 != 6 || length < 40)
            return NULL;
        total = 40u + wire_get16(packet + 4);
        *protocol = packet[6];
        if (*protocol == FRAGMENT && length >= 48 && !(wire_get16(packet + 42) & 0xfff9)) {
            *protocol = packet[40]; /* an atomic fragment */
            header = 48;
        }
    }
    if (*protocol != TCP && *protocol != UDP && *protocol != ICMP && *protocol != ICMP6)
        return NULL;
    if (total > length || total < header + (*protocol == TCP ? 20u : 8u))
        return NULL;
    *size = total - header;
    return packet + header;
}

static uint32_t start_sum(const uint8_t *packet, uint8_t protocol, uint32_t size)
{
    return protocol == ICMP ? 0 : pseudo(packet, protocol, size);
}

/* How many bytes of a UDP packet its checksum covers: what its own length says, if that makes sense. */
static uint32_t covered(const uint8_t *t, uint8_t protocol, uint32_t size)
{
    uint32_t said = protocol == UDP ? wire_get16(t + 4) : size;
    return said >= 8 && said <= size ? said : size;
}

void wire_repair(uint8_t *packet, uint32_t length)
{
    uint8_t protocol, *t;
    uint32_t size, start, i, sequence;
    if (length >= 20 && packet[0] >> 4 == 4 && (packet[0] & 15u) * 4 <= length) {
        wire_put16(packet + 10, 0);
        wire_put16(packet + 10, ~sum(0, packet, (packet[0] & 15u) * 4));
    }
    t = transport(packet, length, &protocol, &size);
    if (!t)
        return;
    size = covered(t, protocol, size);
    if (protocol == TCP) {
        start = (t[12] >> 4) * 4u;
        /* Data behind a SYN alone comes after it; behind SYN-ACK lwIP takes it for what the number says. */
        sequence = wire_get32(t + 4) + ((t[13] & (WIRE_SYN | WIRE_ACK)) == WIRE_SYN);
        for (i = start; start >= 20 && i < size; i++)
            t[i] = wire_tcp_byte(sequence + i - start);
    } else {
        for (i = 8; i < size; i++)
            t[i] = wire_datagram_byte(i - 8);
    }
    i = checksum_at(protocol);
    wire_put16(t + i, 0);
    wire_put16(t + i, ~sum(start_sum(packet, protocol, size), t, size));
    if (protocol == UDP && !wire_get16(t + i))
        wire_put16(t + i, 0xffff);
}

int wire_is_sound(const uint8_t *packet, uint32_t length)
{
    uint8_t protocol;
    uint32_t size;
    const uint8_t *t = transport((uint8_t *)(uintptr_t)packet, length, &protocol, &size);
    if (!t)
        return 0;
    if (protocol == UDP && !wire_get16(t + 6))
        return 1;
    size = covered(t, protocol, size);
    return sum(start_sum(packet, protocol, size), t, size) == 0xffff;
}

static uint32_t ip_header(uint8_t *out, const struct wire_tuple *tuple, uint8_t protocol, uint32_t size)
{
    uint32_t header = HEADER(tuple->family);
    memset(out, 0, header);
    if (tuple->family == 4) {
        out[0] = 0x45;
        wire_put16(out + 2, header + size);
        out[8] = 64;
        out[9] = protocol;
        memcpy(out + 12, tuple->app, 4);
        memcpy(out + 16, tuple->far, 4);
    } else {
        out[0] = 0x60;
        wire_put16(out + 4, size);
        out[6] = protocol;
        out[7] = 64;
        memcpy(out + 8, tuple->app, 16);
        memcpy(out + 24, tuple->far, 16);
    }
    return header;
}

uint32_t wire_tcp(uint8_t *out, const struct wire_tuple *tuple, uint8_t flags, uint32_t seq, uint32_t ack,
                  uint16_t window, const uint8_t *options, uint32_t options_length, uint32_t length)
{
    uint32_t tcp = 20 + (options_length + 3) / 4 * 4, header = HEADER(tuple->family);
    uint8_t *t = out + header;
    if (length > WIRE_MAX - header - tcp)
        length = WIRE_MAX - header - tcp;
    ip_header(out, tuple, TCP, tcp + length);
    memset(t, 0, tcp);
    wire_put16(t, tuple->app_port);
    wire_put16(t + 2, tuple->far_port);
    wire_put32(t + 4, seq);
    wire_put32(t + 8, ack);
    t[12] = (uint8_t)(tcp / 4 << 4);
    t[13] = flags;
    wire_put16(t + 14, window);
    if (options_length)
        memcpy(t + 20, options, options_length);
    wire_repair(out, header + tcp + length);
    return header + tcp + length;
}

uint32_t wire_udp(uint8_t *out, const struct wire_tuple *tuple, uint32_t length)
{
    uint32_t header = HEADER(tuple->family);
    uint8_t *t = out + header;
    if (length > WIRE_MAX - header - 8)
        length = WIRE_MAX - header - 8;
    ip_header(out, tuple, UDP, 8 + length);
    wire_put16(t, tuple->app_port);
    wire_put16(t + 2, tuple->far_port);
    wire_put16(t + 4, 8 + length);
    wire_repair(out, header + 8 + length);
    return header + 8 + length;
}

uint32_t wire_echo(uint8_t *out, const struct wire_tuple *tuple, uint32_t length)
{
    uint32_t header = HEADER(tuple->family);
    uint8_t *t = out + header;
    if (length > WIRE_MAX - header - 8)
        length = WIRE_MAX - header - 8;
    ip_header(out, tuple, tuple->family == 4 ? ICMP : ICMP6, 8 + length);
    t[0] = tuple->family == 4 ? 8 : 128;
    t[1] = 0;
    wire_put16(t + 4, tuple->app_port);
    wire_put16(t + 6, tuple->far_port);
    wire_repair(out, header + 8 + length);
    return header + 8 + length;
}

uint32_t wire_fragment(uint8_t *out, const uint8_t *packet, uint32_t length, uint32_t start, uint32_t size, int more,
                       uint32_t ident)
{
    uint32_t header = HEADER(packet[0] >> 4), own = header == 20 ? 0 : 8;
    if (header + start >= length)
        start = 0;
    if (size > length - header - start)
        size = length - header - start;
    if (size > WIRE_MAX - header - own)
        size = WIRE_MAX - header - own;
    memcpy(out, packet, header);
    memcpy(out + header + own, packet + header + start, size);
    if (header == 20) {
        wire_put16(out + 2, header + size);
        wire_put16(out + 4, ident);
        wire_put16(out + 6, start / 8 | (more ? 0x2000u : 0));
        wire_put16(out + 10, 0);
        wire_put16(out + 10, ~sum(0, out, header));
    } else {
        wire_put16(out + 4, own + size);
        out[6] = FRAGMENT;
        out[40] = packet[6];
        out[41] = 0;
        wire_put16(out + 42, (start & ~7u) | (more ? 1u : 0));
        wire_put32(out + 44, ident);
    }
    return header + own + size;
}

void wire_read(struct wire_segment *s, const uint8_t *packet, uint32_t length, uint32_t mtu, int offloaded)
{
    const uint8_t *t, *source, *destination;
    uint32_t header, size, width, i;
    memset(s, 0, sizeof *s);
    CHECK(length >= 20);
    s->tuple.family = packet[0] >> 4;
    CHECK(s->tuple.family == 4 || s->tuple.family == 6);
    CHECK(!mtu || length <= mtu);
    header = HEADER(s->tuple.family);
    CHECK(length > header);
    width = header == 20 ? 4 : 16;
    source = packet + (header == 20 ? 12 : 8);
    destination = source + width;
    memcpy(s->tuple.far, source, width);
    memcpy(s->tuple.app, destination, width);
    if (header == 20) {
        CHECK(packet[0] == 0x45 && sum(0, packet, 20) == 0xffff);
        CHECK(wire_get16(packet + 2) == length);
        s->protocol = packet[9];
        s->offset = (wire_get16(packet + 6) & 0x1fffu) * 8;
        s->more = (wire_get16(packet + 6) & 0x2000) != 0;
        s->ident = wire_get16(packet + 4);
        s->fragment = s->offset || s->more;
        CHECK(packet[8] > 0);
    } else {
        CHECK(wire_get16(packet + 4) == length - 40 && packet[7] > 0);
        s->protocol = packet[6];
        if (s->protocol == FRAGMENT) {
            CHECK(length > 48);
            s->protocol = packet[40];
            s->offset = wire_get16(packet + 42) & 0xfff8u;
            s->more = wire_get16(packet + 42) & 1;
            s->ident = wire_get32(packet + 44);
            s->fragment = 1;
            header = 48;
        }
    }
    t = packet + header;
    size = length - header;
    s->data = t;
    s->length = size;
    if (s->fragment) {
        CHECK(s->protocol != TCP);
        CHECK(!s->more || size % 8 == 0);
        return;
    }
    CHECK(s->protocol == TCP || s->protocol == UDP || s->protocol == (header == 20 ? ICMP : ICMP6));
    CHECK(size >= (s->protocol == TCP ? 20 : 8));
    if (offloaded && s->protocol == TCP)
        CHECK(wire_get16(t + 16) == pseudo(packet, TCP, size));
    else if (offloaded > 1)
        CHECK(s->protocol == UDP && wire_get16(t + 6) == pseudo(packet, UDP, size));
    else
        CHECK(sum(start_sum(packet, s->protocol, size), t, size) == 0xffff);
    if (s->protocol != TCP)
        return;
    s->tuple.far_port = wire_get16(t);
    s->tuple.app_port = wire_get16(t + 2);
    s->seq = wire_get32(t + 4);
    s->ack = wire_get32(t + 8);
    s->flags = t[13];
    s->window = wire_get16(t + 14);
    header = (t[12] >> 4) * 4u;
    CHECK(header >= 20 && header <= size);
    s->options = t + 20;
    s->options_length = header - 20;
    for (i = 0; i < s->options_length; i += s->options[i] <= 1 ? 1u : s->options[i + 1]) {
        if (s->options[i] == 0)
            break;
        CHECK(s->options[i] == 1 ||
              (i + 1 < s->options_length && s->options[i + 1] >= 2 && i + s->options[i + 1] <= s->options_length));
    }
    s->data = t + header;
    s->length = size - header;
    CHECK(!(s->flags & WIRE_SYN) || (!(s->flags & (WIRE_FIN | WIRE_RST)) && s->length == 0));
    CHECK(s->flags & (WIRE_SYN | WIRE_RST | WIRE_ACK));
}
