/* UDP and ICMP from the device: queued for zks_datagram_take, or answered at once. */
#include "datagram.h"

#include <string.h>

#include "datagram_out.h"
#include "icmp_error.h"
#include "packet_cache.h"

void datagram_drop_first(zks_core *core)
{
    struct queued_datagram *d = core->datagram_first;
    core->datagram_first = d->next;
    core->datagram_bytes -= (uint32_t)sizeof *d + d->meta.length;
    free(d);
}

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
        datagram_drop_first(core);
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

/* Answers a query from the packet cache; 0: it is not there. */
static int answered(zks_core *core, const struct zks_datagram *query, const uint8_t *payload)
{
    const struct cached_answer *answer;
    uint32_t length;
    uint8_t head[8], message[2 + PACKET_CACHE_MAX_ANSWER];
    if (query->length <= 2)
        return 0;
    answer = packet_cache_find(core, payload + 2, query->length - 2);
    if (!answer)
        return 0;
    length = packet_cache_length(answer);
    zks_put16(head, query->destination_port);
    zks_put16(head + 2, query->source_port);
    zks_put16(head + 4, 10 + length);
    memcpy(message, payload, 2);
    packet_cache_write(answer, message + 2);
    core_count(core, ZKS_C_DATAGRAMS_IN);
    core_count(core, ZKS_C_DATAGRAMS_OUT);
    datagram_output(core, query->family, query->destination, query->source, ZKS_PROTO_UDP, 0, head, message,
                    2 + length);
    return 1;
}

static void describe(struct zks_datagram *d, const struct zks_packet *packet)
{
    memset(d, 0, sizeof *d);
    d->family = packet->source.family;
    d->hop_limit = packet->hop_limit;
    d->traffic_class = packet->traffic_class;
    memcpy(d->source, packet->source.bytes, 16);
    memcpy(d->destination, packet->destination.bytes, 16);
}

static void take_udp(zks_core *core, struct zks_datagram *d, const uint8_t *t, const uint8_t *payload)
{
    d->source_port = zks_get16(t);
    d->destination_port = zks_get16(t + 2);
    if (d->destination_port != 53 || !answered(core, d, payload))
        queue(core, d, payload);
}

void datagrams_input(zks_core *core, const struct zks_packet *packet, const uint8_t *t, uint32_t length, uint32_t each)
{
    struct zks_datagram d;
    uint32_t at;
    describe(&d, packet);
    for (at = 8; at < length; at += d.length) {
        d.length = length - at < each ? length - at : each;
        take_udp(core, &d, t, t + at);
    }
}

void datagram_input(zks_core *core, const struct zks_packet *packet, const uint8_t *t, uint32_t length, int verify)
{
    struct zks_datagram d;
    int four = packet->source.family == 4, udp = packet->protocol == ZKS_PROTO_UDP;
    uint64_t sum = 0;
    describe(&d, packet);
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
    if (d.length > ZKS_MAX_DATAGRAM) {
        core_count(core, ZKS_C_DATAGRAMS_DROPPED); /* IPv6 alone has them, and the tunnel's frames do not */
    } else if (udp) {
        take_udp(core, &d, t, t + 8);
    } else if (t[0] == (four ? 8 : 128) && t[1] == 0) {
        d.source_port = zks_get16(t + 4);
        d.destination_port = zks_get16(t + 6);
        echo_request(core, &d, t + 8);
    } else {
        struct zks_datagram error;
        enum icmp_error found = icmp_error_input(core, d.family, t, length, &error);
        if (found == ICMP_ERROR_DATAGRAM)
            queue(core, &error, t);
        else if (found == ICMP_ERROR_NONE)
            core_count(core, ZKS_C_DROP_FIRST + ZKS_DROP_ICMP_HEADER);
    }
}

uint32_t datagram_take_first(zks_core *core, struct zks_datagram *meta, uint8_t *buffer, size_t offset)
{
    const struct queued_datagram *d = core->datagram_first;
    uint32_t length = d->meta.length;
    *meta = d->meta;
    meta->offset = (uint32_t)offset;
    memcpy(buffer + offset, d->payload, length);
    datagram_drop_first(core);
    return length;
}

int zks_datagram_take(zks_core *core, struct zks_datagram *datagrams, int most, uint8_t *buffer, size_t size)
{
    size_t used = 0;
    int n = 0;
    if (!core)
        return 0;
    core_enter(core);
    while (core->datagram_first && n < most && core->datagram_first->meta.length <= size - used)
        used += datagram_take_first(core, &datagrams[n++], buffer, used);
    if (core->datagram_first)
        core->datagram_event = 1;
    core_leave(core);
    return n;
}

void datagram_teardown(zks_core *core)
{
    while (core->datagram_first)
        datagram_drop_first(core);
}

void zks_datagram_errors(zks_core *core, int wanted)
{
    if (!core)
        return;
    core_enter(core);
    core->errors_wanted = wanted != 0;
    core_leave(core);
}
