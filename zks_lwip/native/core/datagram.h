/* UDP and ICMP from the device. */
#ifndef ZKS_DATAGRAM_H
#define ZKS_DATAGRAM_H
#include "context.h"

struct queued_datagram {
    struct queued_datagram *next;
    struct zks_datagram meta;
    uint8_t payload[];
};

/* Handles one whole datagram. t: its transport header, of which packet tells. verify: check its checksum, too. */
void datagram_input(zks_core *core, const struct zks_packet *packet, const uint8_t *t, uint32_t length, int verify);
/* Handles UDP datagrams of `each` bytes, the last of no more, that stand behind one header: together 9 bytes or more.
 */
void datagrams_input(zks_core *core, const struct zks_packet *packet, const uint8_t *t, uint32_t length, uint32_t each);
/* Of the datagrams that wait, the first: frees it; or copies it to buffer + offset, and returns its length. */
void datagram_drop_first(zks_core *core);
uint32_t datagram_take_first(zks_core *core, struct zks_datagram *meta, uint8_t *buffer, size_t offset);
void datagram_teardown(zks_core *core);

#endif
