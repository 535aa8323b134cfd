/* Datagrams to the device: UDP, ICMP echo replies and ICMP errors, in fragments where they are larger than its MTU. */
#include "datagram_out.h"

#include <string.h>

#include "device_out.h"

#if !defined(_WIN32)
#include <sys/uio.h>
#endif

#define HOP_LIMIT 64
#define HEAD 8u                   /* of UDP as of ICMP */
#define MAX_UNKNOWN_A_SECOND 100u /* ICMP errors about unknown protocols: enough for a host that tries one */
#define ICMP_QUOTE4 548u          /* RFC 1812 §4.3.2.3: an error of at most 576 bytes */
#define ICMP_QUOTE6 1232u         /* RFC 4443 §2.4 (c): of at most 1280 */

static void write_header4(uint8_t *b, uint32_t length, uint8_t protocol, uint8_t traffic_class, uint32_t ident,
                          uint32_t field)
{
    memset(b, 0, 12);
    b[0] = 0x45;
    b[1] = traffic_class;
    zks_put16(b + 2, length);
    zks_put16(b + 4, ident & 0xffff);
    zks_put16(b + 6, field);
    b[8] = HOP_LIMIT;
    b[9] = protocol;
    zks_put16(b + 10, (uint16_t)~zks_fold(zks_sum(0, b, 20)));
}

static void write_header6(uint8_t *b, uint32_t payload, uint8_t next, uint8_t traffic_class)
{
    memset(b, 0, 8);
    b[0] = (uint8_t)(0x60 | traffic_class >> 4);
    b[1] = (uint8_t)(traffic_class << 4);
    zks_put16(b + 4, payload);
    b[6] = next;
    b[7] = HOP_LIMIT;
}

/* head: eight bytes, with the checksum's place in it; it is written here. */
int datagram_output(zks_core *core, int family, const uint8_t *source, const uint8_t *destination, uint8_t protocol,
                    uint8_t traffic_class, uint8_t *head, const uint8_t *payload, uint32_t length)
{
    uint32_t ip = family == 4 ? 20 : 40, width = family == 4 ? 4 : 16, whole = HEAD + length, at, most;
    uint32_t extra = 0; /* bytes of the Fragment header */
    uint8_t *check = head + (protocol == ZKS_PROTO_UDP ? 6 : 2);
    uint64_t sum = 0;
    uint16_t value;
    uint32_t ident = 0;
    if (protocol != ZKS_PROTO_ICMP)
        sum = zks_sum_pseudo(family, source, destination, protocol, whole);
    zks_put16(check, 0);
    value = (uint16_t)~zks_fold(zks_sum(zks_sum(sum, head, HEAD), payload, length));
    zks_put16(check, value ? value : 0xffff);

    core->current = NULL;
    most = core->config.mtu - ip;
    if (whole > most) {
        extra = family == 4 ? 0 : 8;
        most = (most - extra) & ~7u;
        ident = core->ident++;
    } else if (family == 4) {
        ident = core->ident++;
    }
    for (at = 0; at < whole; at += most) {
        uint32_t part = whole - at < most ? whole - at : most, more = at + part < whole;
        uint32_t from_head = at == 0 ? HEAD : 0;
        struct pbuf *p = pbuf_alloc(PBUF_RAW, (u16_t)(ip + extra + part), PBUF_RAM);
        uint8_t *b;
        if (!p) {
            core_count(core, ZKS_C_NO_MEMORY);
            return ZKS_NOMEM;
        }
        b = p->payload;
        memcpy(b + ip - 2 * width, source, width);
        memcpy(b + ip - width, destination, width);
        if (family == 4) {
            write_header4(b, ip + part, protocol, traffic_class, ident, at / 8 | more << 13);
        } else {
            write_header6(b, extra + part, extra ? ZKS_PROTO_FRAGMENT : protocol, traffic_class);
            if (extra) {
                b[40] = protocol;
                b[41] = 0;
                zks_put16(b + 42, at | more);
                zks_put32(b + 44, ident);
            }
        }
        b += ip + extra;
        memcpy(b, head, from_head);
        if (part > from_head)
            memcpy(b + from_head, payload + at + from_head - HEAD, part - from_head);
        device_output(core, p);
        pbuf_free(p);
    }
    return ZKS_OK;
}

#if !defined(_WIN32)
#define VNET_HEADER 10
enum { VNET_NEEDS_CSUM = 1, VNET_GSO_UDP_L4 = 5 };

/* Writes them as one packet, from where they lie: the kernel finishes the checksum, and cuts it (virtio 1.2 §5.1.6). */
static void write_datagrams(zks_core *core, int family, const uint8_t *source, const uint8_t *destination,
                            const uint8_t *head, const struct datagram_part *parts, uint32_t count)
{
    uint8_t buffer[VNET_HEADER + 40 + HEAD] = {0}, *b = buffer + VNET_HEADER;
    uint32_t ip = family == 4 ? 20 : 40, width = family == 4 ? 4 : 16, whole = HEAD, i;
    struct iovec iov[1 + DATAGRAM_PARTS];
    uint16_t field;
    for (i = 0; i < count; i++) {
        iov[1 + i].iov_base = (void *)(uintptr_t)parts[i].payload;
        iov[1 + i].iov_len = parts[i].length;
        whole += parts[i].length;
    }
    buffer[0] = VNET_NEEDS_CSUM;
    field = (uint16_t)ip;
    memcpy(buffer + 6, &field, 2); /* csum_start */
    field = 6;
    memcpy(buffer + 8, &field, 2); /* csum_offset */
    if (count > 1) {
        buffer[1] = VNET_GSO_UDP_L4;
        field = (uint16_t)(ip + HEAD);
        memcpy(buffer + 2, &field, 2); /* hdr_len */
        field = (uint16_t)parts[0].length;
        memcpy(buffer + 4, &field, 2); /* gso_size */
    }
    memcpy(b + ip - 2 * width, source, width);
    memcpy(b + ip - width, destination, width);
    if (family == 4)
        write_header4(b, ip + whole, ZKS_PROTO_UDP, 0, core->ident, 0);
    else
        write_header6(b, whole, ZKS_PROTO_UDP, 0);
    core->ident += count;
    memcpy(b + ip, head, 4);
    zks_put16(b + ip + 4, whole);
    zks_put16(b + ip + 6, zks_fold(zks_sum_pseudo(family, source, destination, ZKS_PROTO_UDP, whole)));
    iov[0].iov_base = buffer;
    iov[0].iov_len = VNET_HEADER + ip + HEAD;
    device_write(core, iov, (int)count + 1, ip + whole);
}
#endif

int datagrams_output(zks_core *core, int family, const uint8_t *source, uint16_t source_port,
                     const uint8_t *destination, uint16_t destination_port, const struct datagram_part *parts,
                     uint32_t count)
{
    uint8_t head[HEAD];
    uint32_t i;
    int result = ZKS_OK;
    for (i = 0; i < count; i++)
        core_count(core, ZKS_C_DATAGRAMS_OUT);
    zks_put16(head, source_port);
    zks_put16(head + 2, destination_port);
    core->current = NULL;
#if !defined(_WIN32)
    if (core->fd >= 0 && core->framing == ZKS_FRAMING_VNET && count <= DATAGRAM_PARTS &&
        parts[0].length + HEAD + (family == 4 ? 20u : 40u) <= core->config.mtu) {
        write_datagrams(core, family, source, destination, head, parts, count);
        return ZKS_OK;
    }
#endif
    for (i = 0; i < count && result == ZKS_OK; i++) {
        zks_put16(head + 4, HEAD + parts[i].length);
        result = datagram_output(core, family, source, destination, ZKS_PROTO_UDP, 0, head, parts[i].payload,
                                 parts[i].length);
    }
    return result;
}

static uint32_t write_original(uint8_t *out, const struct zks_datagram *d, const uint8_t *payload, uint32_t room)
{
    /* The IP and UDP headers as they were, but for fields that the receiver of an error does not compare. */
    uint32_t header = d->family == 4 ? 20 : 40, n = header + 8;
    uint32_t quoted = d->length < room - n ? d->length : room - n;
    uint64_t sum;
    uint16_t check;
    memset(out, 0, header);
    if (d->family == 4) {
        out[0] = 0x45;
        zks_put16(out + 2, n + d->length);
        out[8] = d->hop_limit;
        out[9] = ZKS_PROTO_UDP;
        memcpy(out + 12, d->source, 4);
        memcpy(out + 16, d->destination, 4);
        zks_put16(out + 10, (uint16_t)~zks_fold(zks_sum(0, out, 20)));
    } else {
        out[0] = 0x60;
        zks_put16(out + 4, 8 + d->length);
        out[6] = ZKS_PROTO_UDP;
        out[7] = d->hop_limit;
        memcpy(out + 8, d->source, 16);
        memcpy(out + 24, d->destination, 16);
    }
    zks_put16(out + header, d->source_port);
    zks_put16(out + header + 2, d->destination_port);
    zks_put16(out + header + 4, 8 + d->length);
    zks_put16(out + header + 6, 0);
    sum = zks_sum_pseudo(d->family, d->source, d->destination, ZKS_PROTO_UDP, 8 + d->length);
    check = (uint16_t)~zks_fold(zks_sum(zks_sum(sum, out + header, 8), payload, d->length));
    zks_put16(out + header + 6, check ? check : 0xffff);
    memcpy(out + n, payload, quoted);
    return n + quoted;
}

/* An ICMP error (RFC 792, RFC 4443) that quotes packet, from the address that the packet was for. */
static void send_error(zks_core *core, const uint8_t *packet, uint32_t length, uint8_t type, uint8_t code,
                       uint32_t rest)
{
    int family = packet[0] >> 4;
    uint32_t most = family == 4 ? ICMP_QUOTE4 : ICMP_QUOTE6;
    uint8_t head[HEAD] = {type, code};
    zks_put32(head + 4, rest);
    if (length > most)
        length = most;
    if (family == 4)
        datagram_output(core, 4, packet + 16, packet + 12, ZKS_PROTO_ICMP, 0, head, packet, length);
    else
        datagram_output(core, 6, packet + 24, packet + 8, ZKS_PROTO_ICMP6, 0, head, packet, length);
}

void icmp_error(zks_core *core, const uint8_t *packet, uint32_t length, int how, uint32_t mtu)
{
    static const uint8_t code4[] = {0, 0, 1, 13, 0, 3, 4}, code6[] = {0, 0, 3, 1, 0, 4, 0};
    int family = packet[0] >> 4, too_big = how == ZKS_REJECT_TOO_BIG;
    if (how < ZKS_REJECT_NET_UNREACHABLE || how > ZKS_REJECT_TOO_BIG || how == ZKS_REJECT_SILENT)
        return;
    /* Destination unreachable; with code 4, the MTU of the next hop (RFC 1191); in ICMPv6 that is a type. */
    if (family == 4)
        send_error(core, packet, length, 3, code4[how], too_big ? mtu & 0xffff : 0);
    else
        send_error(core, packet, length, too_big ? 2 : 1, code6[how], too_big ? mtu : 0);
}

/* A protocol that is not carried, SCTP, GRE or ESP say: its sender shall know, instead of waiting (RFC 1122 §3.2.2.1;
 * RFC 4443 §3.4: parameter problem, unrecognized next header). */
void icmp_unknown_protocol(zks_core *core, const struct zks_packet *packet, const uint8_t *bytes)
{
    int four = packet->source.family == 4;
    /* The first fragment speaks for the others. "No next header" (RFC 8200 §4.7) asks for nothing. */
    if (packet->offset || (!four && packet->protocol == 59))
        return;
    if (core->now_ms - core->icmp_since_ms >= 1000) {
        core->icmp_since_ms = core->now_ms;
        core->icmp_sent = 0;
    }
    if (core->icmp_sent++ >= MAX_UNKNOWN_A_SECOND)
        return;
    if (four)
        send_error(core, bytes, packet->length, 3, 2, 0);
    else
        send_error(core, bytes, packet->length, 4, 1, packet->next_header);
}

/* Reassembly has taken too long. t: what has come of it, from its beginning. An ICMP error is never answered with
 * another one (RFC 1122 §3.2.2, RFC 4443 §2.4 (e)), nor is what may be one. */
void icmp_time_exceeded(zks_core *core, const struct zks_packet *packet, const uint8_t *t, uint32_t length)
{
    uint8_t original[ICMP_QUOTE6] = {0};
    uint32_t ip = packet->source.family == 4 ? 20 : 40, width = ip == 20 ? 4 : 16;
    if (packet->protocol != ZKS_PROTO_UDP && t[0] != (ip == 20 ? 8 : 128))
        return;
    if (length > (ip == 20 ? ICMP_QUOTE4 : ICMP_QUOTE6) - ip)
        length = (ip == 20 ? ICMP_QUOTE4 : ICMP_QUOTE6) - ip;
    memcpy(original + ip - 2 * width, packet->source.bytes, width);
    memcpy(original + ip - width, packet->destination.bytes, width);
    memcpy(original + ip, t, length);
    if (ip == 20) {
        write_header4(original, ip + length, packet->protocol, packet->traffic_class, packet->ident, 0x2000);
        send_error(core, original, ip + length, 11, 1, 0);
    } else {
        write_header6(original, length, packet->protocol, packet->traffic_class);
        send_error(core, original, ip + length, 3, 1, 0);
    }
}

/* d: as it came, with the request's addresses. */
int icmp_echo_reply(zks_core *core, const struct zks_datagram *d, const uint8_t *payload)
{
    uint8_t head[HEAD] = {d->family == 4 ? 0 : 129};
    zks_put16(head + 4, d->source_port);
    zks_put16(head + 6, d->destination_port);
    return datagram_output(core, d->family, d->source, d->destination,
                           d->family == 4 ? ZKS_PROTO_ICMP : ZKS_PROTO_ICMP6, 0, head, payload, d->length);
}

int zks_datagram_send(zks_core *core, const struct zks_datagram *d, const uint8_t *payload)
{
    uint8_t head[HEAD];
    int result;
    if ((d->family != 4 && d->family != 6) || d->length > ZKS_MAX_DATAGRAM)
        return ZKS_INVALID;
    if (!core)
        return ZKS_GONE;
    core_enter(core);
    if (d->kind == ZKS_KIND_ECHO) {
        result = icmp_echo_reply(core, d, payload);
    } else {
        zks_put16(head, d->source_port);
        zks_put16(head + 2, d->destination_port);
        zks_put16(head + 4, HEAD + d->length);
        core_count(core, ZKS_C_DATAGRAMS_OUT);
        result = datagram_output(core, d->family, d->source, d->destination, ZKS_PROTO_UDP, d->traffic_class, head,
                                 payload, d->length);
    }
    core_leave(core);
    return result;
}

int zks_datagram_reject(zks_core *core, const struct zks_datagram *d, const uint8_t *payload, int how, uint32_t mtu)
{
    uint8_t original[ICMP_QUOTE6 + 48];
    uint32_t length;
    if ((d->family != 4 && d->family != 6) || d->length > ZKS_MAX_DATAGRAM)
        return ZKS_INVALID;
    length = write_original(original, d, payload, sizeof original);
    if (!core)
        return ZKS_GONE;
    core_enter(core);
    icmp_error(core, original, length, how, mtu);
    core_leave(core);
    return ZKS_OK;
}
