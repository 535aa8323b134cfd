/* What the core sends, against what its flows may say. */
#include "run.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "env.h"

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
        p->news |= !(s->flags & (WIRE_RST | WIRE_SYN)) && !s->length && (int32_t)(s->seq - p->ack) < 0; /* a probe */
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
    int follows = run.fragments.open && run.fragments.ident == s->ident && run.fragments.next == s->offset;
    if (s->fragment) {
        int lossless = !run.starved && !run.core->counters[ZKS_C_OUTPUT_DROPPED];
        CHECK(!lossless || (s->offset ? follows : !run.fragments.open));
        run.fragments.ident = s->ident;
        run.fragments.next = s->offset + s->length;
        run.fragments.open = (uint8_t)s->more;
    }
    if (place && !follows)
        run.fragments.unknown = 1; /* of what, the first fragment would have told, which was dropped */
    else if (place == 0)           /* an error quotes */
        run.fragments.unknown = s->protocol != ZKS_PROTO_UDP && data[0] != 0 && data[0] != 129;
    if (run.fragments.unknown)
        return;
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

/* UDP of which the device finishes the checksum, and which it cuts. */
static void datagrams_out(const struct wire_segment *s, const uint8_t *vnet)
{
    uint16_t field[4]; /* hdr_len, gso_size, csum_start, csum_offset */
    uint32_t ip = s->tuple.family == 4 ? 20 : 40, each, at, i;
    memcpy(field, vnet + 2, 8);
    CHECK(vnet[0] == 1 && field[2] == ip && field[3] == 6 && s->length >= 8);
    CHECK(vnet[1] == 0 || (vnet[1] == 5 && field[0] == ip + 8 && field[1] > 0 && s->length - 8 > field[1]));
    each = vnet[1] ? field[1] : s->length - 8;
    CHECK(!vnet[1] || (s->length - 8 + each - 1) / each <= 64);
    CHECK(ip + 8 + each <= run.mtu && wire_get16(s->data + 4) == s->length);
    for (at = 8; at < s->length; at += each)
        for (i = 0; i < each && at + i < s->length && !run.dirty; i++)
            CHECK(s->data[at + i] == wire_datagram_byte(i));
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
    if (run_trace)
        tell(packet, length);
    wire_read(&s, packet, length, vnet ? 0 : run.mtu, vnet ? 1 + vnet[0] : 0);
    if (vnet && s.protocol == ZKS_PROTO_TCP) {
        uint32_t header = length - s.length;
        uint16_t field[4]; /* hdr_len, gso_size, csum_start, csum_offset */
        memcpy(field, vnet + 2, 8);
        CHECK(vnet[0] == 1 && field[3] == 16);
        CHECK(field[2] == (s.tuple.family == 4 ? 20 : 40));
        CHECK(vnet[1] == 0 || (vnet[1] == (s.tuple.family == 4 ? 1 : 4) && field[0] == header));
        CHECK(vnet[1] == 0 || (field[1] > 0 && field[1] < s.length));
    } else if (vnet && vnet[0]) {
        CHECK(s.protocol == ZKS_PROTO_UDP && !s.fragment);
        datagrams_out(&s, vnet);
        return;
    } else if (vnet) {
        CHECK(vnet[0] == 0 && vnet[1] == 0);
        CHECK(length <= (s.tuple.family == 6 && run.mtu < 1280 ? 1280 : run.mtu)); /* RFC 8200 §5 */
    }
    if (s.protocol == ZKS_PROTO_TCP && !s.fragment)
        tcp_out(&s, lost);
    else
        datagram_out(&s);
}

int take_output(void)
{
    uint32_t lengths[64], used = 0;
    int i, n;
    if (run.device) {
        ssize_t got = recv(run_device[1], run_big, WIRE_MAX + 10, MSG_DONTWAIT);
        if (got <= 0)
            return 0;
        CHECK(got > run.device);
        CHECK(run.offloaded || run_big[3] == (run_big[4] >> 4 == 4 ? 2 : 30));
        packet_out(run_big + run.device, (uint32_t)got - run.device, run.offloaded ? run_big : NULL);
        return 1;
    }
    n = zks_packet_output(run.core, run_big, 1 << 18, lengths, 64);
    for (i = 0; i < n; i++) {
        packet_out(run_big + used, lengths[i], NULL);
        used += lengths[i];
    }
    return n;
}
