/* The calls of the flows' owner, and what they must give. */
#include "run.h"

#include <stdlib.h>
#include <string.h>

#include "core/zks_datagram_frames.h"
#include "core/zks_packet_cache.h"
#include "env.h"
#include "udp/zks_udp_frames.h"

uint8_t pushed_byte(const struct record *r, uint64_t place)
{
    return wire_datagram_byte((uint32_t)(r - run.records) << 24 ^ (uint32_t)place);
}

struct record *record_of(uint64_t id)
{
    int i;
    for (i = run.count; i-- > 0;)
        if (run.records[i].id == id)
            return &run.records[i];
    return NULL;
}

struct record *new_record(uint64_t id, const struct zks_flow_info *info)
{
    struct record *r = &run.records[run.count];
    CHECK(run.count++ < RECORDS);
    memset(r, 0, sizeof *r);
    r->id = id;
    r->tuple.family = info->family;
    memcpy(r->tuple.app, info->source, 16);
    memcpy(r->tuple.far, info->destination, 16);
    r->tuple.app_port = info->source_port;
    r->tuple.far_port = info->destination_port;
    return r;
}

void note_numbers(struct record *r)
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

void accept_flow(struct record *r)
{
    struct flow *flow = model_flow(run.core, r->id);
    int held = flow && flow->state == FLOW_HELD;
    int result = zks_flow_accept(run.core, r->id, (int)(r->id & 1));
    CHECK(held ? result == ZKS_OK || result == ZKS_NOMEM : result == ZKS_GONE);
    note_numbers(r);
}

void take_events(int most)
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

void pull(struct record *r, uint32_t size)
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

void push(struct record *r, uint32_t size)
{
    uint8_t *data;
    uint64_t i;
    int64_t n;
    if (run.pushed + size > MAX_PUSH)
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
void connect_flow(struct peer *p)
{
    struct zks_flow_info info;
    uint16_t far_port = p->tuple.far_port;
    uint64_t id;
    if (run.count >= RECORDS - 16)
        return; /* the rest is for those that come as events */
    id = zks_flow_connect(run.core, p->tuple.family, p->tuple.far, far_port, p->tuple.app, p->tuple.app_port);
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

void take_datagrams(int most, uint32_t size)
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

void send_datagram(const struct wire_tuple *tuple, uint32_t length)
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
void remember_answer(uint32_t key, uint32_t answer)
{
    static uint8_t bytes[2 * WIRE_MAX];
    uint16_t ttls[64] = {0};
    uint32_t i, count = u8() & 1 ? u8() % 65 : 0;
    for (i = 0; i < sizeof bytes; i++)
        bytes[i] = wire_datagram_byte(2 + i);
    for (i = 0; i < count; i++)
        ttls[i] = u16();
    run.key = key;
    if (zks_packet_cache_put(run.core, bytes, key, bytes, answer, ttls, count, u16(), u16()) && count)
        run.dirty = 1; /* its TTLs count down */
    if (u8() == 255)
        zks_packet_cache_clear(run.core);
}

void ask(const struct peer *p, uint32_t length)
{
    struct wire_tuple tuple = p->tuple;
    tuple.far_port = 53;
    send_packet(run_big, wire_udp(run_big, &tuple, length));
}

/* ---- datagrams as frames ---- */
void bind_peer(struct peer *p)
{
    uint32_t id = (uint32_t)(p - run.peers) + 1;
    int result = zks_datagram_bind(run.core, p->tuple.family, p->tuple.app, p->tuple.app_port, id);
    CHECK(result == ZKS_OK || result == ZKS_NOMEM || result == ZKS_INVALID);
    CHECK(zks_datagram_bind(run.core, p->tuple.family, p->tuple.app, p->tuple.app_port, 77) != ZKS_OK ||
          result == ZKS_NOMEM);
    zks_datagram_unbind(run.core, 77);
    if (u8() & 1)
        zks_datagram_unbind(run.core, id);
}

static void some_rules(struct zks_frame_rules *rules)
{
    uint8_t how = u8();
    memset(rules, 0, sizeof *rules);
    rules->ports[80 >> 3] = how & 1;
    rules->no_ipv6 = how >> 1 & 1;
    if (how & 4) /* the far end of the peers of IPv4 */
        rules->alias[0] = 203, rules->alias[1] = 1, rules->alias[3] = 7;
}

void take_frames(void)
{
    struct zks_frame_rules rules;
    struct zks_taken_frames taken;
    struct zks_udp_run found;
    struct zks_datagram others[4];
    uint32_t ids[64], seen[64], size = 65565 + u16();
    uint8_t *buffer = malloc(size);
    int n, left;
    some_rules(&rules);
    n = zks_datagram_take_frames(run.core, &rules, buffer, size, ids, &taken);
    CHECK(n == (int)taken.datagrams && taken.size <= size && taken.associations <= 64);
    run.taken += (uint64_t)n;
    CHECK(zks_udp_scan(buffer, taken.size, 256, seen, 64, &found) == taken.datagrams);
    CHECK(found.size == taken.size && found.payload == taken.payload && found.associations == taken.associations);
    CHECK(!memcmp(ids, seen, found.associations * sizeof *ids));
    n = zks_datagram_take_others(run.core, &rules, others, 4, buffer, u8() & 1 ? size : u8(), &left);
    CHECK(n >= 0 && n <= 4 && (left == 0 || left == 1));
    run.taken += (uint64_t)n;
    free(buffer);
}

void deliver_frames(void)
{
    static const char *const hosts[] = {"203.1.0.7", "127.0.0.1", "2001::7", "1.2.3", "::ffff:1.2.3.4", "01.2.3.4"};
    struct zks_frame_rules rules;
    struct zks_delivered_frames delivered;
    uint32_t used = 0, count = 1 + u8() % 70, length = some_size() % 65508, i, j, n = 0, from = u8();
    uint8_t *frames;
    some_rules(&rules);
    for (i = 0; i < count; i++) {
        const char *host = hosts[u8() % 6];
        uint32_t size = (uint32_t)strlen(host);
        if (u8() > 240)
            length = some_size() % 65508;
        if (used + 13 + size + length > 1u << 18)
            break;
        frames = run_big + used;
        memset(frames, 0, 9);
        frames[0] = 7;
        frames[4] = (uint8_t)(1 + (from + (u8() > 200)) % (PEERS + 1));
        frames[6] = 80;
        frames[8] = (uint8_t)size;
        memcpy(frames + 9, host, size);
        frames[9 + size] = frames[10 + size] = 0;
        frames[11 + size] = (uint8_t)(length >> 8);
        frames[12 + size] = (uint8_t)length;
        for (j = 0; j < length; j++)
            frames[13 + size + j] = wire_datagram_byte(j);
        used += 13 + size + length;
        n++;
    }
    if (u8() > 200) {
        run_big[u16() % used] = u8();
        used -= u8() % 2;
        run.dirty = 1;
    }
    frames = malloc(used);
    memcpy(frames, run_big, used);
    CHECK(zks_datagram_deliver(run.core, &rules, frames, used, &delivered) == ZKS_OK);
    CHECK(delivered.datagrams + delivered.dropped + delivered.malformed <= n || run.dirty);
    free(frames);
}
