/* Datagrams to the device: UDP, ICMP echo replies and ICMP errors. */
#ifndef ZKS_DATAGRAM_OUT_H
#define ZKS_DATAGRAM_OUT_H
#include "context.h"

/* Sends a datagram, in fragments where it is larger than the MTU. head: the eight bytes of its UDP or ICMP header,
 * whose checksum is put in. */
int datagram_output(zks_core *core, int family, const uint8_t *source, const uint8_t *destination, uint8_t protocol,
                    uint8_t traffic_class, uint8_t *head, const uint8_t *payload, uint32_t length);
#define DATAGRAM_PARTS 64u /* datagrams in one packet (UDP_MAX_SEGMENTS of older kernels) */

struct datagram_part {
    const uint8_t *payload;
    uint32_t length;
};

/* Sends UDP datagrams of one sender to one receiver. Several: all but the last of the same size, the last no larger,
 * together no more than a packet holds; and the device cuts them. */
int datagrams_output(zks_core *core, int family, const uint8_t *source, uint16_t source_port,
                     const uint8_t *destination, uint16_t destination_port, const struct datagram_part *parts,
                     uint32_t count);
/* Sends the ICMP error of a refusal (ZKS_REJECT_*); none for RST and SILENT. */
void icmp_error(zks_core *core, const uint8_t *packet, uint32_t length, int how, uint32_t mtu);
void icmp_unknown_protocol(zks_core *core, const struct zks_packet *packet, const uint8_t *bytes);
void icmp_time_exceeded(zks_core *core, const struct zks_packet *packet, const uint8_t *t, uint32_t length);
int icmp_echo_reply(zks_core *core, const struct zks_datagram *d, const uint8_t *payload);

#endif
