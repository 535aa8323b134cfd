#include "packet.h"

#include <string.h>

uint64_t zks_sum(uint64_t sum, const uint8_t *bytes, size_t length)
{
    /* Words in the machine's own order: the sum's bytes come out swapped alike, and fold puts them right. */
    uint64_t words = 0;
    while (length >= 8) {
        uint32_t a, b;
        memcpy(&a, bytes, 4);
        memcpy(&b, bytes + 4, 4);
        words += (uint64_t)a + b;
        bytes += 8;
        length -= 8;
    }
    if (length) {
        uint8_t tail[8] = {0};
        uint32_t a, b;
        memcpy(tail, bytes, length);
        memcpy(&a, tail, 4);
        memcpy(&b, tail + 4, 4);
        words += (uint64_t)a + b;
    }
    words = (words & 0xffffffff) + (words >> 32);
    return sum + words;
}

uint16_t zks_fold(uint64_t sum)
{
    uint16_t native;
    uint8_t bytes[2];
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    native = (uint16_t)sum;
    memcpy(bytes, &native, 2);
    return zks_get16(bytes);
}

uint64_t zks_sum_pseudo(int family, const uint8_t *source, const uint8_t *destination, uint8_t protocol,
                        uint32_t length)
{
    uint8_t tail[8] = {0};
    size_t width = family == 4 ? 4 : 16;
    uint64_t sum = zks_sum(zks_sum(0, source, width), destination, width);
    zks_put32(tail, length);
    tail[7] = protocol;
    return zks_sum(sum, tail, 8);
}

static int all_bytes(const uint8_t *p, size_t n, uint8_t value)
{
    while (n--)
        if (*p++ != value)
            return 0;
    return 1;
}

static enum zks_drop check_addresses(const struct zks_packet *packet)
{
    const uint8_t *s = packet->source.bytes, *d = packet->destination.bytes;
    if (packet->source.family == 4) {
        if (all_bytes(d, 4, 255))
            return ZKS_DROP_BROADCAST;
        if (d[0] >= 224 && d[0] < 240)
            return ZKS_DROP_MULTICAST;
        if (s[0] == 0 || s[0] == 127 || s[0] >= 224 || d[0] == 0 || d[0] == 127 || d[0] >= 240)
            return ZKS_DROP_MARTIAN;
    } else {
        static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
        if (d[0] == 0xff)
            return ZKS_DROP_MULTICAST;
        if (s[0] == 0xff || (all_bytes(s, 15, 0) && s[15] <= 1) || (all_bytes(d, 15, 0) && d[15] <= 1))
            return ZKS_DROP_MARTIAN; /* unspecified, loopback */
        if (!memcmp(s, mapped, 12) || !memcmp(d, mapped, 12))
            return ZKS_DROP_MARTIAN;
    }
    return ZKS_PACKET_OK;
}

static enum zks_drop parse4(struct zks_packet *packet, const uint8_t *b, uint32_t length)
{
    uint32_t header, total, offset;
    uint16_t fragment;
    if (length < 20)
        return ZKS_DROP_SHORT;
    header = (b[0] & 15u) * 4;
    total = zks_get16(b + 2);
    if (header < 20 || total < header)
        return ZKS_DROP_HEADER;
    if (total > length)
        return ZKS_DROP_SHORT;
    if (zks_fold(zks_sum(0, b, header)) != 0xffff)
        return ZKS_DROP_HEADER;
    packet->source.family = packet->destination.family = 4;
    memset(packet->source.bytes, 0, 16);
    memset(packet->destination.bytes, 0, 16);
    memcpy(packet->source.bytes, b + 12, 4);
    memcpy(packet->destination.bytes, b + 16, 4);
    packet->length = total;
    packet->payload = header;
    packet->protocol = b[9];
    packet->traffic_class = b[1];
    packet->hop_limit = b[8];
    fragment = zks_get16(b + 6);
    offset = (fragment & 0x1fffu) * 8;
    packet->fragment = (fragment & 0x3fff) != 0;
    packet->more = (fragment & 0x2000) != 0;
    packet->offset = offset;
    packet->ident = zks_get16(b + 4);
    if (packet->fragment) {
        uint32_t bytes = total - header;
        if (bytes == 0 || ((fragment & 0x2000) && bytes % 8) || offset + bytes + header > 65535)
            return ZKS_DROP_FRAGMENT;
        if (offset == 0 && bytes < 8)
            return ZKS_DROP_FRAGMENT; /* a first fragment without its ports (RFC 1858) */
    }
    if (header > 20)
        return ZKS_DROP_OPTIONS;
    return ZKS_PACKET_OK;
}

/* The options of a hop-by-hop or destination options header (RFC 8200 §4.2): those that may be passed over. */
static int are_harmless(const uint8_t *option, uint32_t left)
{
    while (left) {
        if (option[0] == 0) { /* Pad1 */
            option++, left--;
            continue;
        }
        if (left < 2 || option[1] > left - 2 || option[0] & 0xc0)
            return 0;
        left -= option[1] + 2u;
        option += option[1] + 2u;
    }
    return 1;
}

/* Fragment header at b + at (RFC 8200 §4.5). */
static enum zks_drop parse_fragment6(struct zks_packet *packet, const uint8_t *b, uint32_t at)
{
    uint32_t field = zks_get16(b + at + 2), bytes = packet->length - at - 8;
    packet->offset = field & 0xfff8u;
    packet->more = field & 1;
    packet->ident = zks_get32(b + at + 4);
    packet->fragment = packet->offset || packet->more;
    if (packet->fragment && (bytes == 0 || (packet->more && bytes % 8) || packet->offset + bytes > 65535))
        return ZKS_DROP_FRAGMENT;
    /* RFC 7112: the first fragment must hold the whole header chain; ours ends here, in ports. */
    return packet->offset == 0 && bytes < 8 ? ZKS_DROP_FRAGMENT : ZKS_PACKET_OK;
}

/* The chain of extension headers: short, in order, each once but for destination options, and none that asks for
 * what we would have to do. A fragment has none behind its Fragment header. */
static enum zks_drop parse_chain6(struct zks_packet *packet, const uint8_t *b)
{
    uint32_t at = 40, field = 6, size, seen = 0;
    uint8_t next = b[6];
    enum zks_drop verdict;
    for (;;) {
        switch (next) {
        case 0:  /* hop-by-hop options: the first, or none */
        case 43: /* routing: at its end */
        case 60: /* destination options */
            if (packet->length - at < 8)
                return ZKS_DROP_EXTENSION;
            size = (b[at + 1] + 1u) * 8;
            if (size > packet->length - at || at + size > ZKS_MAX_CHAIN || packet->fragment)
                return ZKS_DROP_EXTENSION;
            if (next == 0 ? at != 40 : next == 43 && seen & 1)
                return ZKS_DROP_EXTENSION;
            if (next == 43 ? b[at + 3] != 0 : !are_harmless(b + at + 2, size - 2))
                return ZKS_DROP_EXTENSION;
            seen |= next == 43;
            break;
        case ZKS_PROTO_FRAGMENT:
            if (seen & 2)
                return ZKS_DROP_EXTENSION;
            seen |= 2;
            size = 8;
            if (packet->length - at < size)
                return ZKS_DROP_FRAGMENT;
            verdict = parse_fragment6(packet, b, at);
            if (verdict != ZKS_PACKET_OK)
                return verdict;
            break;
        case 51:  /* authentication */
        case 135: /* mobility */
        case 139: /* host identity */
        case 140: /* shim6 */
            return ZKS_DROP_EXTENSION;
        default:
            packet->protocol = next;
            packet->payload = at;
            packet->next_header = field;
            packet->extended = at != 40;
            return ZKS_PACKET_OK;
        }
        next = b[at];
        field = at;
        at += size;
    }
}

static enum zks_drop parse6(struct zks_packet *packet, const uint8_t *b, uint32_t length)
{
    uint32_t payload;
    if (length < 40)
        return ZKS_DROP_SHORT;
    payload = zks_get16(b + 4);
    if (payload + 40 > length)
        return ZKS_DROP_SHORT;
    if (payload == 0)
        return ZKS_DROP_HEADER; /* nothing in it, or a jumbogram (RFC 2675) */
    packet->source.family = packet->destination.family = 6;
    memcpy(packet->source.bytes, b + 8, 16);
    memcpy(packet->destination.bytes, b + 24, 16);
    packet->length = payload + 40;
    packet->traffic_class = (uint8_t)(b[0] << 4 | b[1] >> 4);
    packet->hop_limit = b[7];
    return parse_chain6(packet, b);
}

static enum zks_drop parse_tcp_options(const uint8_t *option, uint32_t left)
{
    while (left) {
        uint32_t size;
        if (option[0] == 0)
            return ZKS_PACKET_OK; /* end of the list */
        if (option[0] == 1) {
            option++, left--;
            continue;
        }
        if (left < 2)
            return ZKS_DROP_TCP_OPTIONS;
        size = option[1];
        if (size < 2 || size > left)
            return ZKS_DROP_TCP_OPTIONS;
        if ((option[0] == 2 && size != 4) || (option[0] == 3 && size != 3) || (option[0] == 4 && size != 2) ||
            (option[0] == 8 && size != 10))
            return ZKS_DROP_TCP_OPTIONS;
        option += size, left -= size;
    }
    return ZKS_PACKET_OK;
}

static enum zks_drop parse_tcp(struct zks_packet *packet, const uint8_t *t, uint32_t length)
{
    uint32_t header;
    uint8_t flags;
    if (packet->fragment)
        return ZKS_DROP_FRAGMENT; /* no TCP of today fragments: the kernel learns the path's MTU */
    if (length < 20)
        return ZKS_DROP_SHORT;
    header = (t[12] >> 4) * 4u;
    if (header < 20 || header > length)
        return ZKS_DROP_TCP_HEADER;
    flags = t[13] & 0x3f;
    if ((flags & ZKS_TCP_SYN) && (flags & (ZKS_TCP_FIN | ZKS_TCP_RST)))
        return ZKS_DROP_TCP_HEADER;
    if (!(flags & (ZKS_TCP_SYN | ZKS_TCP_RST | ZKS_TCP_ACK)))
        return ZKS_DROP_TCP_HEADER; /* every segment after the first SYN carries ACK or RST */
    packet->source_port = zks_get16(t);
    packet->destination_port = zks_get16(t + 2);
    if (packet->source_port == 0 || packet->destination_port == 0)
        return ZKS_DROP_TCP_HEADER;
    packet->sequence = zks_get32(t + 4);
    packet->flags = flags;
    packet->data = length - header;
    return parse_tcp_options(t + 20, header - 20);
}

static enum zks_drop parse_udp(struct zks_packet *packet, const uint8_t *t, uint32_t length)
{
    if (length < 8)
        return ZKS_DROP_SHORT;
    packet->source_port = zks_get16(t);
    packet->destination_port = zks_get16(t + 2);
    if (!packet->fragment && (zks_get16(t + 4) < 8 || zks_get16(t + 4) > length))
        return ZKS_DROP_UDP_HEADER;
    return ZKS_PACKET_OK;
}

static enum zks_drop check_transport(const struct zks_packet *packet, const uint8_t *b)
{
    const uint8_t *t = b + packet->payload;
    uint32_t length = packet->length - packet->payload;
    uint64_t sum = 0;
    if (packet->protocol == ZKS_PROTO_UDP) {
        length = zks_get16(t + 4);
        if (zks_get16(t + 6) == 0)
            return packet->source.family == 4 ? ZKS_PACKET_OK : ZKS_DROP_CHECKSUM;
    }
    if (packet->protocol != ZKS_PROTO_ICMP)
        sum = zks_sum_pseudo(packet->source.family, packet->source.bytes, packet->destination.bytes, packet->protocol,
                             length);
    return zks_fold(zks_sum(sum, t, length)) == 0xffff ? ZKS_PACKET_OK : ZKS_DROP_CHECKSUM;
}

enum zks_drop zks_packet_parse(struct zks_packet *packet, const uint8_t *bytes, uint32_t length, int verify)
{
    enum zks_drop verdict;
    const uint8_t *t;
    uint32_t left;
    memset(packet, 0, sizeof *packet);
    if (length < 1)
        return ZKS_DROP_SHORT;
    switch (bytes[0] >> 4) {
    case 4:
        verdict = parse4(packet, bytes, length);
        break;
    case 6:
        verdict = parse6(packet, bytes, length);
        break;
    default:
        return ZKS_DROP_VERSION;
    }
    if (verdict != ZKS_PACKET_OK)
        return verdict;
    verdict = check_addresses(packet);
    if (verdict != ZKS_PACKET_OK)
        return verdict;

    t = bytes + packet->payload;
    left = packet->length - packet->payload;
    if (packet->fragment && packet->protocol != ZKS_PROTO_TCP) {
        /* Its transport header is checked when it is whole. */
        if (packet->protocol == ZKS_PROTO_UDP ||
            packet->protocol == (packet->source.family == 4 ? ZKS_PROTO_ICMP : ZKS_PROTO_ICMP6))
            return ZKS_PACKET_OK;
        return ZKS_DROP_PROTOCOL;
    }
    switch (packet->protocol) {
    case ZKS_PROTO_TCP:
        verdict = parse_tcp(packet, t, left);
        break;
    case ZKS_PROTO_UDP:
        verdict = parse_udp(packet, t, left);
        break;
    case ZKS_PROTO_ICMP:
    case ZKS_PROTO_ICMP6:
        if ((packet->protocol == ZKS_PROTO_ICMP) != (packet->source.family == 4))
            return ZKS_DROP_PROTOCOL;
        verdict = left < 8 ? ZKS_DROP_ICMP_HEADER : ZKS_PACKET_OK;
        break;
    default:
        return ZKS_DROP_PROTOCOL;
    }
    if (verdict == ZKS_PACKET_OK && verify)
        verdict = check_transport(packet, bytes);
    return verdict;
}
