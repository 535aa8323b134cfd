/* UDP and ICMP from the device: queued for the other side, or answered at once. */
#include "internal.h"

#include <string.h>

#include "hot.h"

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

static void echo_request(zks_core *core, struct zks_datagram *d, const uint8_t *payload)
{
    const uint8_t *own = d->family == 4 ? core->config.own4 : core->config.own6;
    d->kind = ZKS_KIND_ECHO;
    if (core->config.icmp == ZKS_ICMP_REPLY || !memcmp(own, d->destination, 16)) {
        uint8_t source[16];
        memcpy(source, d->source, 16);
        memcpy(d->source, d->destination, 16);
        memcpy(d->destination, source, 16);
        core_count(core, ZKS_C_ECHO_ANSWERED);
        icmp_echo_reply(core, d, payload);
    } else if (core->config.icmp == ZKS_ICMP_TUNNEL) {
        queue(core, d, payload);
    }
}

/* A query that has just been answered, but for its id: answered again, here. */
static int answered(zks_core *core, const struct zks_datagram *query, const uint8_t *payload)
{
    const struct hot_answer *answer;
    uint32_t length;
    uint8_t head[8], message[2 + HOT_MOST_ANSWER];
    if (query->length <= 2)
        return 0;
    answer = hot_find(core, payload + 2, query->length - 2);
    if (!answer)
        return 0;
    length = hot_length(answer);
    zks_put16(head, query->destination_port);
    zks_put16(head + 2, query->source_port);
    zks_put16(head + 4, 10 + length);
    memcpy(message, payload, 2);
    hot_write(answer, message + 2);
    core_count(core, ZKS_C_DATAGRAMS_IN);
    core_count(core, ZKS_C_DATAGRAMS_OUT);
    datagram_output(core, query->family, query->destination, query->source, ZKS_PROTO_UDP, 0, head, message,
                    2 + length);
    return 1;
}

void datagram_input(zks_core *core, const struct zks_packet *packet, const uint8_t *t, uint32_t length, int verify)
{
    struct zks_datagram d;
    int four = packet->source.family == 4, udp = packet->protocol == ZKS_PROTO_UDP;
    uint64_t sum = 0;
    memset(&d, 0, sizeof d);
    d.family = packet->source.family;
    d.hop_limit = packet->hop_limit;
    d.traffic_class = packet->traffic_class;
    memcpy(d.source, packet->source.bytes, 16);
    memcpy(d.destination, packet->destination.bytes, 16);
    if (length < 8) {
        core_count(core, ZKS_C_DROP_FIRST + ZKS_DROP_SHORT);
        return;
    }
    if (udp) {
        if (zks_get16(t + 4) < 8 || zks_get16(t + 4) > length) {
            core_count(core, ZKS_C_DROP_FIRST + ZKS_DROP_UDP_HEADER);
            return;
        }
        length = zks_get16(t + 4);
        if (verify && four && !zks_get16(t + 6))
            verify = 0; /* its sender has made none; IPv6 has no such choice */
    }
    if (packet->protocol != ZKS_PROTO_ICMP)
        sum = zks_sum_pseudo(d.family, d.source, d.destination, packet->protocol, length);
    if (verify && zks_fold(zks_sum(sum, t, length)) != 0xffff) {
        core_count(core, ZKS_C_DROP_FIRST + ZKS_DROP_CHECKSUM);
        return;
    }
    d.length = length - 8;
    if (d.length > ZKS_DATAGRAM_MOST) {
        core_count(core, ZKS_C_DATAGRAMS_DROPPED); /* IPv6 alone has them, and the tunnel's frames do not */
    } else if (udp) {
        d.source_port = zks_get16(t);
        d.destination_port = zks_get16(t + 2);
        if (d.destination_port != 53 || !answered(core, &d, t + 8))
            queue(core, &d, t + 8);
    } else if (t[0] == (four ? 8 : 128) && t[1] == 0) {
        d.source_port = zks_get16(t + 4);
        d.destination_port = zks_get16(t + 6);
        echo_request(core, &d, t + 8);
    } else {
        core_count(core, ZKS_C_DROP_FIRST + ZKS_DROP_ICMP_HEADER);
    }
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
