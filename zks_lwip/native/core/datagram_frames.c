/* UDP between the device and frames of the tunnel. */
#include "zks_core.h"

#include "zks_datagram_frames.h"

#include <string.h>

#include "address_text.h"
#include "association.h"
#include "datagram.h"
#include "datagram_out.h"
#include "platform.h"
#include "udp/frame.h"

#define MOST 256     /* datagrams taken at a time */
#define MOST_IDS 64u /* of so many associations */
#define HEAD 8u      /* bytes of a UDP header */
#define MAX_JOINED (65535u - 40u - HEAD)

/* ---- from the applications ---- */

/* Returns the association whose frame a datagram becomes; NULL: it is not for here. */
static struct association *frame_for(zks_core *core, const struct zks_frame_rules *rules, const struct zks_datagram *d)
{
    uint16_t port = d->destination_port;
    if (d->kind != ZKS_KIND_UDP || !rules || (d->family == 6 && rules->no_ipv6) ||
        rules->ports[port >> 3] >> (port & 7) & 1)
        return NULL;
    return association_by_address(core, d->family, d->source, d->source_port);
}

/* Writes the destination as frames have it, the alias as what it stands for. */
static void write_destination(struct association *a, const struct zks_frame_rules *rules, const struct zks_datagram *d)
{
    static const uint8_t none[4], loopback[16] = {127, 0, 0, 1};
    const uint8_t *address = d->destination;
    if (d->family == 4 && memcmp(rules->alias, none, 4) && !memcmp(rules->alias, address, 4))
        address = loopback;
    if (a->last_family == d->family && !memcmp(a->last, address, 16))
        return;
    a->last_length = (uint8_t)address_write(a->text, d->family, address);
    a->last_family = d->family;
    memcpy(a->last, address, 16);
}

static int note(uint32_t *ids, uint32_t *count, uint32_t id)
{
    uint32_t i = *count;
    while (i && ids[i - 1] != id) /* the latest first: bursts are of one */
        i--;
    if (i)
        return 1;
    if (*count == MOST_IDS)
        return 0;
    ids[(*count)++] = id;
    return 1;
}

int zks_datagram_take_frames(zks_core *core, const struct zks_frame_rules *rules, uint8_t *buffer, size_t size,
                             uint32_t *associations, struct zks_taken_frames *taken)
{
    memset(taken, 0, sizeof *taken);
    if (!core)
        return 0;
    core_enter(core);
    while (core->datagram_first && taken->datagrams < MOST) {
        struct queued_datagram *d = core->datagram_first;
        struct association *a = frame_for(core, rules, &d->meta);
        uint8_t *at = buffer + taken->size;
        if (!a || size - taken->size < UDP_FRAME_OVERHEAD + d->meta.length ||
            !note(associations, &taken->associations, a->id))
            break;
        write_destination(a, rules, &d->meta);
        a->seen.up += d->meta.length;
        a->seen.family = d->meta.family;
        a->seen.port = d->meta.destination_port;
        memcpy(a->seen.to, d->meta.destination, 16);
        at = udp_frame_write(at, a->id, d->meta.destination_port, a->text, a->last_length, d->meta.length);
        memcpy(at, d->payload, d->meta.length);
        taken->size = (uint32_t)(at - buffer) + d->meta.length;
        taken->payload += d->meta.length;
        taken->datagrams++;
        datagram_drop_first(core);
    }
    if (core->datagram_first && taken->datagrams)
        core->datagram_event = 1;
    core_leave(core);
    return (int)taken->datagrams;
}

int zks_datagram_take_others(zks_core *core, const struct zks_frame_rules *rules, struct zks_datagram *datagrams,
                             int most, uint8_t *buffer, size_t size, int *left)
{
    size_t used = 0;
    int n = 0;
    *left = 0;
    if (!core)
        return 0;
    core_enter(core);
    while (core->datagram_first && n < most && core->datagram_first->meta.length <= size - used &&
           !frame_for(core, rules, &core->datagram_first->meta))
        used += datagram_take_first(core, &datagrams[n++], buffer, used);
    if (core->datagram_first)
        *left = core->datagram_event = 1;
    core_leave(core);
    return n;
}

/* ---- to the applications ---- */

/* Datagrams of one sender to one application, as long as all but the last have the same size. */
struct joined {
    struct datagram_part parts[DATAGRAM_PARTS];
    uint32_t count, bytes;
    struct association *to;
    uint8_t source[16];
    uint16_t port;
};

static void flush(zks_core *core, struct joined *joined, struct zks_delivered_frames *delivered)
{
    if (!joined->count)
        return;
    if (datagrams_output(core, joined->to->family, joined->source, joined->port, joined->to->address, joined->to->port,
                         joined->parts, joined->count) == ZKS_OK) {
        delivered->datagrams += joined->count;
        delivered->payload += joined->bytes;
        joined->to->seen.down += joined->bytes;
    } else {
        delivered->dropped += joined->count;
    }
    joined->count = 0;
}

static int joins(const zks_core *core, const struct joined *joined, const struct association *to, const uint8_t *source,
                 uint16_t port, uint32_t length)
{
    uint32_t ip = to->family == 4 ? 20 : 40, first = joined->parts[0].length;
    return joined->count && core->cuts_datagrams && joined->count < DATAGRAM_PARTS && joined->to == to &&
           joined->port == port && !memcmp(joined->source, source, 16) && length && length <= first &&
           joined->parts[joined->count - 1].length == first && joined->bytes + length <= MAX_JOINED &&
           ip + HEAD + first <= core->config.mtu;
}

/* Takes the source of a frame, the worker's 127.0.0.1 as the alias. Returns its family. */
static int read_source(const struct zks_frame_rules *rules, const struct udp_frame *frame, uint8_t *source)
{
    static const uint8_t none[4], loopback[4] = {127, 0, 0, 1};
    int family = address_read(source, frame->host, frame->host_length);
    if (family == 4 && rules && memcmp(rules->alias, none, 4) && !memcmp(source, loopback, 4))
        memcpy(source, rules->alias, 4);
    return family;
}

int zks_datagram_deliver(zks_core *core, const struct zks_frame_rules *rules, const uint8_t *frames, size_t size,
                         struct zks_delivered_frames *delivered)
{
    struct joined joined;
    struct udp_frame frame, before;
    uint8_t source[16];
    size_t at = 0;
    int family = 0;
    memset(delivered, 0, sizeof *delivered);
    memset(&before, 0, sizeof before);
    if (!core)
        return ZKS_GONE;
    joined.count = 0;
    core_enter(core);
    for (; udp_frame_read(&frame, frames + at, size - at); at += frame.size) {
        struct association *to;
        if (!before.host || before.host_length != frame.host_length ||
            memcmp(before.host, frame.host, frame.host_length))
            family = read_source(rules, &frame, source);
        before = frame;
        to = association_by_id(core, frame.association);
        if (!to)
            continue;
        if (family != to->family) {
            if (family)
                delivered->dropped++;
            else
                delivered->malformed++;
            continue;
        }
        if (!joins(core, &joined, to, source, frame.port, frame.length)) {
            flush(core, &joined, delivered);
            if (zks_lock_due()) { /* the pump's turn; only this thread unbinds associations */
                core_leave(core);
                core_enter(core);
            }
            joined.to = to;
            joined.port = frame.port;
            joined.bytes = 0;
            memcpy(joined.source, source, 16);
        }
        joined.parts[joined.count].payload = frame.payload;
        joined.parts[joined.count++].length = frame.length;
        joined.bytes += frame.length;
    }
    flush(core, &joined, delivered);
    core_leave(core);
    return ZKS_OK;
}

void zks_device_cuts_datagrams(zks_core *core, int cuts)
{
    if (!core)
        return;
    core_enter(core);
    core->cuts_datagrams = cuts && core->framing == ZKS_FRAMING_VNET;
    core_leave(core);
}
