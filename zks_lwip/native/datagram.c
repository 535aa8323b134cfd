/* UDP and ICMP: reassembled by lwIP, taken over by raw pcbs, queued for the other side; and sent back. */
#include "internal.h"

#include <string.h>

#include "hot.h"

#include "lwip/ip4.h"
#include "lwip/ip6.h"
#include "lwip/raw.h"

#define HOP_LIMIT 64
#define ICMP_QUOTE4 548u  /* RFC 1812 §4.3.2.3: an error of at most 576 bytes */
#define ICMP_QUOTE6 1232u /* RFC 4443 §2.4 (c): of at most 1280 */

/* ---- out ---- */
/* p starts at the transport header, whose checksum is there, at offset `check` of it, when not negative. */
static int send_ip(zks_core *core, struct pbuf *p, int family, const uint8_t *source, const uint8_t *destination,
                   uint8_t protocol, uint8_t traffic_class, int check)
{
    uint8_t *t = p->payload;
    u16_t mtu = core->netif.mtu;
    err_t err;
    if (check >= 0) {
        uint64_t sum = 0;
        uint16_t value;
        if (protocol != ZKS_PROTO_ICMP)
            sum = zks_sum_pseudo(family, source, destination, protocol, p->tot_len);
        zks_put16(t + check, 0);
        value = (uint16_t)~zks_fold(zks_sum(sum, t, p->tot_len));
        zks_put16(t + check, value ? value : 0xffff);
    }
    /* TCP's segments may be larger than the MTU where the device cuts them; datagrams are fragmented here. */
    core->netif.mtu = (u16_t)core->config.mtu;
    core->current = NULL;
    if (family == 4) {
        ip4_addr_t from, to;
        memcpy(&from, source, 4);
        memcpy(&to, destination, 4);
        err = ip4_output_if_src(p, &from, &to, HOP_LIMIT, traffic_class, protocol, &core->netif);
    } else {
        ip6_addr_t from, to;
        memset(&from, 0, sizeof from);
        memset(&to, 0, sizeof to);
        memcpy(from.addr, source, 16);
        memcpy(to.addr, destination, 16);
        err = ip6_output_if_src(p, &from, &to, HOP_LIMIT, traffic_class, protocol, &core->netif);
    }
    core->netif.mtu = mtu;
    pbuf_free(p);
    return err == ERR_OK ? ZKS_OK : ZKS_NOMEM;
}

static struct pbuf *transport_pbuf(zks_core *core, uint32_t length)
{
    struct pbuf *p = pbuf_alloc(PBUF_IP, (u16_t)length, PBUF_RAM);
    if (!p)
        core_count(core, ZKS_C_NO_MEMORY);
    return p;
}

static uint32_t write_original(uint8_t *out, const struct zks_datagram *d, const uint8_t *payload, uint32_t room)
{
    /* The IP and UDP headers as they were, but for the fields that nobody compares. */
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
void icmp_error(zks_core *core, const uint8_t *packet, uint32_t length, int how, uint32_t mtu)
{
    static const uint8_t code4[] = {0, 0, 1, 13, 0, 3, 4}, code6[] = {0, 0, 3, 1, 0, 4, 0};
    int family = packet[0] >> 4;
    uint32_t quoted = family == 4 ? ICMP_QUOTE4 : ICMP_QUOTE6;
    struct pbuf *p;
    uint8_t *t;
    if (how < ZKS_REJECT_NET_UNREACHABLE || how > ZKS_REJECT_TOO_BIG || how == ZKS_REJECT_SILENT)
        return;
    if (quoted > length)
        quoted = length;
    p = transport_pbuf(core, 8 + quoted);
    if (!p)
        return;
    t = p->payload;
    memset(t, 0, 8);
    memcpy(t + 8, packet, quoted);
    if (family == 4) {
        t[0] = 3; /* destination unreachable; with code 4, the MTU of the next hop (RFC 1191) */
        t[1] = code4[how];
        if (how == ZKS_REJECT_TOO_BIG)
            zks_put16(t + 6, mtu);
        send_ip(core, p, 4, packet + 16, packet + 12, ZKS_PROTO_ICMP, 0, 2);
    } else {
        t[0] = how == ZKS_REJECT_TOO_BIG ? 2 : 1;
        t[1] = code6[how];
        if (how == ZKS_REJECT_TOO_BIG)
            zks_put32(t + 4, mtu);
        send_ip(core, p, 6, packet + 24, packet + 8, ZKS_PROTO_ICMP6, 0, 2);
    }
}

static int send_echo_reply(zks_core *core, int family, const uint8_t *source, const uint8_t *destination,
                           uint16_t identifier, uint16_t sequence, const uint8_t *payload, uint32_t length)
{
    struct pbuf *p;
    uint8_t *t;
    if (length > 65535u - (family == 4 ? 28u : 48u))
        return ZKS_INVALID;
    p = transport_pbuf(core, 8 + length);
    if (!p)
        return ZKS_NOMEM;
    t = p->payload;
    memset(t, 0, 4);
    t[0] = family == 4 ? 0 : 129;
    zks_put16(t + 4, identifier);
    zks_put16(t + 6, sequence);
    memcpy(t + 8, payload, length);
    return send_ip(core, p, family, source, destination, family == 4 ? ZKS_PROTO_ICMP : ZKS_PROTO_ICMP6, 0, 2);
}

int zks_datagram_send(zks_core *core, const struct zks_datagram *d, const uint8_t *payload)
{
    struct pbuf *p;
    uint8_t *t;
    int result;
    if ((d->family != 4 && d->family != 6) || d->length > 65535u - (d->family == 4 ? 28u : 48u))
        return ZKS_INVALID;
    if (!core)
        return ZKS_GONE;
    core_enter(core);
    if (d->kind == ZKS_KIND_ECHO) {
        result = send_echo_reply(core, d->family, d->source, d->destination, d->source_port, d->destination_port,
                                 payload, d->length);
    } else {
        p = transport_pbuf(core, 8 + d->length);
        result = ZKS_NOMEM;
        if (p) {
            t = p->payload;
            zks_put16(t, d->source_port);
            zks_put16(t + 2, d->destination_port);
            zks_put16(t + 4, 8 + d->length);
            memcpy(t + 8, payload, d->length);
            core_count(core, ZKS_C_DATAGRAMS_OUT);
            result = send_ip(core, p, d->family, d->source, d->destination, ZKS_PROTO_UDP, d->traffic_class, 6);
        }
    }
    core_leave(core);
    return result;
}

int zks_datagram_reject(zks_core *core, const struct zks_datagram *d, const uint8_t *payload, int how,
                        uint32_t mtu)
{
    uint8_t original[ICMP_QUOTE6 + 48];
    uint32_t length;
    if ((d->family != 4 && d->family != 6) || d->length > 65535u - (d->family == 4 ? 28u : 48u))
        return ZKS_INVALID;
    length = write_original(original, d, payload, sizeof original);
    if (!core)
        return ZKS_GONE;
    core_enter(core);
    icmp_error(core, original, length, how, mtu);
    core_leave(core);
    return ZKS_OK;
}

/* ---- in ---- */
static void queue(zks_core *core, const struct zks_datagram *meta, const uint8_t *payload)
{
    struct queued_datagram *d = malloc(sizeof *d + meta->length);
    uint32_t cost = (uint32_t)sizeof *d + meta->length;
    if (!d) {
        core_count(core, ZKS_C_NO_MEMORY);
        return;
    }
    d->next = NULL;
    d->meta = *meta;
    memcpy(d->payload, payload, meta->length);
    while (core->datagram_first && core->datagram_bytes + cost > core->config.max_datagrams) {
        struct queued_datagram *oldest = core->datagram_first;
        core->datagram_first = oldest->next;
        core->datagram_bytes -= (uint32_t)sizeof *oldest + oldest->meta.length;
        free(oldest);
        core_count(core, ZKS_C_DATAGRAMS_DROPPED);
    }
    if (core->datagram_first)
        core->datagram_last->next = d;
    else
        core->datagram_first = d;
    core->datagram_last = d;
    core->datagram_bytes += cost;
    core->datagram_event = 1;
    core_count(core, ZKS_C_DATAGRAMS_IN);
}

static void echo_request(zks_core *core, struct zks_datagram *d, const uint8_t *t, uint32_t length)
{
    const uint8_t *own = d->family == 4 ? core->config.own4 : core->config.own6;
    d->kind = ZKS_KIND_ECHO;
    d->source_port = zks_get16(t + 4);
    d->destination_port = zks_get16(t + 6);
    d->length = length - 8;
    if (core->config.icmp == ZKS_ICMP_REPLY || !memcmp(own, d->destination, 16)) {
        core_count(core, ZKS_C_ECHO_ANSWERED);
        send_echo_reply(core, d->family, d->destination, d->source, d->source_port, d->destination_port, t + 8,
                        d->length);
    } else if (core->config.icmp == ZKS_ICMP_TUNNEL) {
        queue(core, d, t + 8);
    }
}

/* A query that has just been answered, but for its id: answered again, here. */
static int answered(zks_core *core, const struct zks_datagram *query, const uint8_t *payload)
{
    const struct hot_answer *answer;
    uint32_t length;
    struct pbuf *p;
    uint8_t *t;
    if (query->length <= 2)
        return 0;
    answer = hot_find(core, payload + 2, query->length - 2);
    if (!answer)
        return 0;
    length = hot_length(answer);
    p = transport_pbuf(core, 10 + length);
    if (!p)
        return 0;
    t = p->payload;
    zks_put16(t, query->destination_port);
    zks_put16(t + 2, query->source_port);
    zks_put16(t + 4, 10 + length);
    memcpy(t + 8, payload, 2);
    hot_write(answer, t + 10);
    core_count(core, ZKS_C_DATAGRAMS_IN);
    core_count(core, ZKS_C_DATAGRAMS_OUT);
    send_ip(core, p, query->family, query->destination, query->source, ZKS_PROTO_UDP, 0, 6);
    return 1;
}

/* The raw pcbs' callback: p is whole, starts at the IP header, and is ours from here (always eaten). */
static u8_t on_raw(void *arg, struct raw_pcb *pcb, struct pbuf *p, const ip_addr_t *from)
{
    zks_core *core = core_current;
    struct zks_datagram d;
    const uint8_t *b, *t;
    uint32_t header, length = p->tot_len;
    uint8_t protocol;
    (void)arg, (void)pcb, (void)from;

    if (p->next) {
        if (pbuf_copy_partial(p, core->scratch, (u16_t)length, 0) != length)
            goto eaten;
        b = core->scratch;
    } else {
        b = p->payload;
    }
    memset(&d, 0, sizeof d);
    d.family = b[0] >> 4;
    header = d.family == 4 ? (b[0] & 15u) * 4 : 40;
    if (length < header + 8)
        goto short_packet;
    t = b + header;
    length -= header;
    if (d.family == 4) {
        memcpy(d.source, b + 12, 4);
        memcpy(d.destination, b + 16, 4);
        d.hop_limit = b[8];
        d.traffic_class = b[1];
        protocol = b[9];
    } else {
        memcpy(d.source, b + 8, 16);
        memcpy(d.destination, b + 24, 16);
        d.hop_limit = b[7];
        d.traffic_class = (uint8_t)(b[0] << 4 | b[1] >> 4);
        protocol = b[6];
    }
    if (protocol == ZKS_PROTO_UDP) {
        uint32_t udp = zks_get16(t + 4);
        if (udp < 8 || udp > length) {
            core_count(core, ZKS_C_DROP_FIRST + ZKS_DROP_UDP_HEADER);
            goto eaten;
        }
        /* A datagram in one piece has been verified; one that came in fragments is verified here. */
        if (core->reassembled && (zks_get16(t + 6) || d.family == 6) &&
            zks_fold(zks_sum(zks_sum_pseudo(d.family, d.source, d.destination, protocol, udp), t, udp)) != 0xffff) {
            core_count(core, ZKS_C_DROP_FIRST + ZKS_DROP_CHECKSUM);
            goto eaten;
        }
        d.source_port = zks_get16(t);
        d.destination_port = zks_get16(t + 2);
        d.length = udp - 8;
        if (d.destination_port != 53 || !answered(core, &d, t + 8))
            queue(core, &d, t + 8);
    } else if (t[0] == (d.family == 4 ? 8 : 128) && t[1] == 0) {
        echo_request(core, &d, t, length);
    } else {
        core_count(core, ZKS_C_DROP_FIRST + ZKS_DROP_ICMP_HEADER);
    }
    goto eaten;
short_packet:
    core_count(core, ZKS_C_DROP_FIRST + ZKS_DROP_SHORT);
eaten:
    pbuf_free(p);
    return 1;
}

int zks_datagram_take(zks_core *core, struct zks_datagram *datagrams, int most, uint8_t *buffer, size_t size)
{
    size_t used = 0;
    int n = 0;
    if (!core)
        return 0;
    core_enter(core);
    while (core->datagram_first && n < most && core->datagram_first->meta.length <= size - used) {
        struct queued_datagram *d = core->datagram_first;
        core->datagram_first = d->next;
        core->datagram_bytes -= (uint32_t)sizeof *d + d->meta.length;
        datagrams[n] = d->meta;
        datagrams[n++].offset = (uint32_t)used;
        memcpy(buffer + used, d->payload, d->meta.length);
        used += d->meta.length;
        free(d);
    }
    if (core->datagram_first)
        core->datagram_event = 1;
    core_leave(core);
    return n;
}

/* One set of raw pcbs serves every core of the process. */
int datagram_setup(void)
{
    static const u8_t protocols[] = {ZKS_PROTO_UDP, ZKS_PROTO_ICMP, ZKS_PROTO_ICMP6};
    static struct raw_pcb *pcbs[3];
    int i;
    for (i = 0; i < 3; i++) {
        if (pcbs[i])
            continue;
        pcbs[i] = raw_new_ip_type(IPADDR_TYPE_ANY, protocols[i]);
        if (!pcbs[i])
            return -1;
        raw_recv(pcbs[i], on_raw, NULL);
    }
    return 0;
}

void datagram_teardown(zks_core *core)
{
    while (core->datagram_first) {
        struct queued_datagram *d = core->datagram_first;
        core->datagram_first = d->next;
        free(d);
    }
    core->datagram_bytes = 0;
    hot_teardown(core);
}
