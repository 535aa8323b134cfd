/* Fragments of UDP and ICMP, put together (RFC 791 §3.2, RFC 8200 §4.5), bounded in bytes and time.
 *
 * lwIP counts the fragments that wait, and not their bytes; and it counts a datagram with its header in 16 bits, too
 * few for the largest ones of IPv6. So they do not reach it. */
#include "reassembly.h"

#include <string.h>

#include "datagram.h"
#include "datagram_out.h"

#define MAX_DATAGRAMS 256u
#define MAX_BYTES (4u << 20)
#define MAX_MS 15000u
#define MIN_ROOM 4096u /* doubles up to 64 KiB */

struct reassembly {
    struct reassembly *next;  /* a younger one */
    struct zks_packet packet; /* the fragment that came first */
    uint64_t since_ms;
    uint32_t total; /* bytes of the whole; 0: its last fragment has not come */
    uint32_t have, highest, room;
    uint8_t *data;               /* NULL: given up; what still comes of it is dropped */
    uint8_t seen[65536 / 8 / 8]; /* a bit for each eight bytes */
};

static int is_of(const struct reassembly *whole, const struct zks_packet *packet)
{
    return whole->packet.ident == packet->ident && whole->packet.protocol == packet->protocol &&
           !memcmp(&whole->packet.source, &packet->source, sizeof packet->source) &&
           !memcmp(&whole->packet.destination, &packet->destination, sizeof packet->destination);
}

static void free_data(zks_core *core, struct reassembly *whole)
{
    core->fragments_bytes -= whole->room;
    free(whole->data);
    whole->data = NULL;
    whole->room = 0;
}

static void forget(zks_core *core, struct reassembly **link)
{
    struct reassembly *whole = *link;
    *link = whole->next;
    free_data(core, whole);
    core->fragments_bytes -= (uint32_t)sizeof *whole;
    core->fragments_seen--;
    free(whole);
}

/* Until there is room for so many bytes more, the oldest go; but not the one at hand. */
static void make_room(zks_core *core, uint32_t bytes, const struct reassembly *keep)
{
    struct reassembly **link = &core->fragments;
    while (*link && (core->fragments_seen > MAX_DATAGRAMS || core->fragments_bytes + bytes > MAX_BYTES)) {
        if (*link == keep) {
            link = &(*link)->next;
        } else {
            core_count(core, ZKS_C_DROP_FIRST + ZKS_DROP_REASSEMBLY);
            forget(core, link);
        }
    }
}

static struct reassembly **find(zks_core *core, const struct zks_packet *packet)
{
    struct reassembly **link = &core->fragments, *whole;
    while (*link && !is_of(*link, packet))
        link = &(*link)->next;
    if (*link)
        return link;
    whole = calloc(1, sizeof *whole);
    if (!whole) {
        core_count(core, ZKS_C_NO_MEMORY);
        return NULL;
    }
    whole->packet = *packet;
    whole->since_ms = core->now_ms;
    *link = whole;
    core->fragments_seen++;
    core->fragments_bytes += (uint32_t)sizeof *whole;
    make_room(core, 0, whole);
    for (link = &core->fragments; *link != whole; link = &(*link)->next)
        ;
    return link;
}

static int grow(zks_core *core, struct reassembly *whole, uint32_t end)
{
    uint32_t room = whole->room ? whole->room : MIN_ROOM;
    uint8_t *data;
    while (room < end)
        room *= 2;
    if (room == whole->room)
        return 0;
    make_room(core, room - whole->room, whole);
    data = realloc(whole->data, room);
    if (!data) {
        core_count(core, ZKS_C_NO_MEMORY);
        return -1;
    }
    core->fragments_bytes += room - whole->room;
    whole->data = data;
    whole->room = room;
    return 0;
}

/* 0: these bytes are new; 1: all of them have come before, the very same; -1: they overlap (RFC 5722), or contradict
 * what is known of the datagram's length. */
static int compare(const struct reassembly *whole, const struct zks_packet *packet, const uint8_t *bytes,
                   uint32_t length)
{
    uint32_t end = packet->offset + length, first = packet->offset / 8, last = (end + 7) / 8, i, known = 0;
    if (whole->total && (packet->more ? end > whole->total : end != whole->total))
        return -1;
    if (!packet->more && whole->highest > end)
        return -1;
    for (i = first; i < last; i++)
        known += whole->seen[i / 8] >> (i % 8) & 1u;
    if (!known)
        return 0;
    if (known == last - first && end <= whole->highest && !memcmp(whole->data + packet->offset, bytes, length))
        return 1;
    return -1;
}

void reassemble(zks_core *core, const struct zks_packet *packet, const uint8_t *bytes)
{
    uint32_t length = packet->length - packet->payload, end = packet->offset + length, i;
    struct reassembly **link = find(core, packet), *whole;
    int known;
    if (!link)
        return;
    whole = *link;
    if (whole->have && !whole->data) {
        core_count(core, ZKS_C_DROP_FIRST + ZKS_DROP_FRAGMENT);
        return;
    }
    known = compare(whole, packet, bytes, length);
    if (known > 0)
        return;
    if (known < 0) {
        core_count(core, ZKS_C_DROP_FIRST + ZKS_DROP_FRAGMENT);
        free_data(core, whole);
        return;
    }
    if (grow(core, whole, end) != 0) {
        for (link = &core->fragments; *link != whole; link = &(*link)->next)
            ;
        forget(core, link);
        return;
    }
    memcpy(whole->data + packet->offset, bytes, length);
    for (i = packet->offset / 8; i < (end + 7) / 8; i++)
        whole->seen[i / 8] |= (uint8_t)(1u << (i % 8));
    whole->have += length;
    if (end > whole->highest)
        whole->highest = end;
    if (!packet->more)
        whole->total = end;
    if (whole->have != whole->total)
        return;
    datagram_input(core, &whole->packet, whole->data, whole->total, 1);
    for (link = &core->fragments; *link != whole; link = &(*link)->next)
        ;
    forget(core, link);
}

/* Those of which fragments are missing after 15 s: the sender is told, if the first one has come. */
void reassembly_expire(zks_core *core)
{
    while (core->fragments && core->now_ms - core->fragments->since_ms >= MAX_MS) {
        const struct reassembly *whole = core->fragments;
        uint32_t length = 0; /* of what has come without a gap */
        while (length < whole->highest && whole->seen[length / 64] >> (length / 8 % 8) & 1)
            length += 8;
        if (length > whole->highest)
            length = whole->highest;
        core_count(core, ZKS_C_DROP_FIRST + ZKS_DROP_REASSEMBLY);
        if (whole->data && length)
            icmp_time_exceeded(core, &whole->packet, whole->data, length);
        forget(core, &core->fragments);
    }
}

void reassembly_teardown(zks_core *core)
{
    while (core->fragments)
        forget(core, &core->fragments);
}
