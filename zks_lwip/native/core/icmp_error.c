/* ICMP errors about what is sent from here: what a network says of our SYN is why a connection failed, and of a
 * datagram is told to its sender.
 *
 * Those about connections that are established are of no interest: hosts on the way can be away for a while, and anyone
 * may invent such errors (RFC 1122 §4.2.3.9, RFC 5927). Even for a SYN the quoted sequence number must be ours. */
#include "icmp_error.h"

#include <string.h>

#include "flow_lwip.h"
#include "flow_table.h"

static int why4(uint8_t type, uint8_t code)
{
    if (type == 11) /* time exceeded */
        return ZKS_WHY_HOST_UNREACHABLE;
    if (type != 3)
        return ZKS_WHY_NONE;
    switch (code) {
    case 0: /* net unreachable */
    case 6: /* net unknown */
    case 11:
        return ZKS_WHY_NET_UNREACHABLE;
    case 2: /* no TCP there */
    case 3:
        return ZKS_WHY_RESET;
    case 4:
        return ZKS_WHY_TOO_BIG;
    case 9:
    case 10:
    case 13:
        return ZKS_WHY_PROHIBITED;
    default:
        return ZKS_WHY_HOST_UNREACHABLE;
    }
}

static int why6(uint8_t type, uint8_t code)
{
    if (type == 3) /* time exceeded */
        return ZKS_WHY_HOST_UNREACHABLE;
    if (type == 2)
        return ZKS_WHY_TOO_BIG;
    if (type != 1)
        return ZKS_WHY_NONE;
    switch (code) {
    case 0:
        return ZKS_WHY_NET_UNREACHABLE;
    case 4:
        return ZKS_WHY_RESET;
    case 1:
    case 5:
    case 6:
        return ZKS_WHY_PROHIBITED;
    default:
        return ZKS_WHY_HOST_UNREACHABLE;
    }
}

/* Reads the packet that an error quotes, which was sent from here, as if it came from its destination; returns where
 * its TCP or UDP header is, of which 8 bytes are there at least, or NULL: it is of neither. */
static const uint8_t *quoted(struct zks_packet *answer, int family, const uint8_t *b, uint32_t length)
{
    uint32_t header = family == 4 ? 20 : 40;
    memset(answer, 0, sizeof *answer);
    if (length < header + 8 || b[0] >> 4 != family)
        return NULL;
    answer->source.family = answer->destination.family = (uint8_t)family;
    if (family == 4) {
        if ((b[0] & 15) != 5 || zks_get16(b + 6) & 0x1fff)
            return NULL;
        answer->protocol = b[9];
        memcpy(answer->destination.bytes, b + 12, 4);
        memcpy(answer->source.bytes, b + 16, 4);
    } else {
        answer->protocol = b[6];
        memcpy(answer->destination.bytes, b + 8, 16);
        memcpy(answer->source.bytes, b + 24, 16);
    }
    if (answer->protocol != ZKS_PROTO_TCP && answer->protocol != ZKS_PROTO_UDP)
        return NULL;
    answer->destination_port = zks_get16(b + header);
    answer->source_port = zks_get16(b + header + 2);
    return b + header;
}

static int end_flow(zks_core *core, const struct zks_packet *answer, const uint8_t *tcp, int why)
{
    struct flow *flow = flow_find(
        core, answer,
        flow_hash_of(core, &answer->source, answer->source_port, &answer->destination, answer->destination_port));
    if (why == ZKS_WHY_TOO_BIG || !flow || flow->state != FLOW_OPEN || flow->pcb->state != SYN_SENT ||
        zks_get32(tcp + 4) != flow->pcb->lastack)
        return 0;
    flow->why = (uint8_t)why;
    flow_abandon(core, flow, 0);
    return 1;
}

enum icmp_error icmp_error_input(zks_core *core, int family, const uint8_t *t, uint32_t length,
                                 struct zks_datagram *error)
{
    int why = family == 4 ? why4(t[0], t[1]) : why6(t[0], t[1]);
    struct zks_packet answer;
    const uint8_t *header = why == ZKS_WHY_NONE ? NULL : quoted(&answer, family, t + 8, length - 8);
    if (!header)
        return ICMP_ERROR_NONE;
    if (answer.protocol == ZKS_PROTO_TCP)
        return end_flow(core, &answer, header, why) ? ICMP_ERROR_FLOW : ICMP_ERROR_NONE;
    if (!core->errors_wanted)
        return ICMP_ERROR_NONE;
    memset(error, 0, sizeof *error);
    memcpy(error->source, answer.source.bytes, 16);
    memcpy(error->destination, answer.destination.bytes, 16);
    error->source_port = answer.source_port;
    error->destination_port = answer.destination_port;
    error->family = (uint8_t)family;
    error->kind = ZKS_KIND_ERROR;
    error->hop_limit = (uint8_t)why;
    return ICMP_ERROR_DATAGRAM;
}
