/* Packets from the device: checked, and given to the part that they are for. */
#include "device_in.h"

#include <string.h>

#include "datagram.h"
#include "datagram_out.h"
#include "flow_input.h"
#include "reassembly.h"

#define COPY_BELOW 16384u /* smaller packets are copied, so that lwIP never keeps a large buffer for little */

/* Extension headers are not for lwIP to see. */
static void strip_extensions(uint8_t *copy, struct zks_packet *packet)
{
    uint32_t segment = packet->length - packet->payload;
    memmove(copy + 40, copy + packet->payload, segment);
    copy[6] = packet->protocol;
    zks_put16(copy + 4, segment);
    packet->length = 40 + segment;
    packet->payload = 40;
}

int device_input(zks_core *core, const uint8_t *bytes, uint32_t length, int trusted, struct pbuf_custom *buffer)
{
    struct zks_packet packet;
    enum zks_drop verdict = zks_packet_parse(&packet, bytes, length, !trusted);
    struct pbuf *p = NULL;
    core->counters[ZKS_C_PACKETS_IN]++;
    core->counters[ZKS_C_BYTES_IN] += length;
    if (verdict != ZKS_PACKET_OK) {
        core_count(core, ZKS_C_DROP_FIRST + (int)verdict);
        if (verdict == ZKS_DROP_PROTOCOL)
            icmp_unknown_protocol(core, &packet, bytes);
        return 0;
    }
    if (packet.protocol != ZKS_PROTO_TCP) {
        if (packet.fragment)
            reassemble(core, &packet, bytes + packet.payload);
        else
            datagram_input(core, &packet, bytes + packet.payload, packet.length - packet.payload, 0);
        return 0;
    }
    if (packet.length < COPY_BELOW || packet.extended)
        buffer = NULL;
    if (buffer) {
        p = pbuf_alloced_custom(PBUF_RAW, (u16_t)packet.length, PBUF_REF, buffer, (void *)(uintptr_t)bytes,
                                (u16_t)packet.length);
    } else {
        p = pbuf_alloc(PBUF_RAW, (u16_t)packet.length, PBUF_RAM);
        if (!p) {
            core_count(core, ZKS_C_NO_MEMORY);
            return 0;
        }
        memcpy(p->payload, bytes, packet.length);
        if (packet.extended) {
            strip_extensions(p->payload, &packet);
            pbuf_realloc(p, (u16_t)packet.length);
        }
    }
    flow_segment(core, p, &packet);
    return buffer != NULL;
}

void device_input_uncut(zks_core *core, const uint8_t *bytes, uint32_t length, uint32_t each)
{
    struct zks_packet packet;
    enum zks_drop verdict = zks_packet_parse(&packet, bytes, length, 0);
    core->counters[ZKS_C_PACKETS_IN]++;
    core->counters[ZKS_C_BYTES_IN] += length;
    if (verdict == ZKS_PACKET_OK &&
        (packet.protocol != ZKS_PROTO_UDP || packet.fragment || !each || packet.length - packet.payload <= 8))
        verdict = ZKS_DROP_UDP_HEADER;
    if (verdict == ZKS_PACKET_OK)
        datagrams_input(core, &packet, bytes + packet.payload, packet.length - packet.payload, each);
    else
        core_count(core, ZKS_C_DROP_FIRST + (int)verdict);
}

int zks_packet_input(zks_core *core, const uint8_t *packet, size_t length)
{
    if (length > ZKS_MAX_PACKET)
        return ZKS_INVALID;
    if (!core)
        return ZKS_GONE;
    core_enter(core);
    device_input(core, packet, (uint32_t)length, 0, NULL);
    flow_acknowledge(core);
    core_leave(core);
    return ZKS_OK;
}
