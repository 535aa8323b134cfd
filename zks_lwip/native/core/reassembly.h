/* Fragments of UDP and ICMP, put together. */
#ifndef ZKS_REASSEMBLY_H
#define ZKS_REASSEMBLY_H
#include "context.h"

/* Takes a fragment, whose bytes are behind its headers; gives a datagram that is whole to datagram_input. */
void reassemble(zks_core *core, const struct zks_packet *packet, const uint8_t *bytes);
/* Drops datagrams whose time is up. */
void reassembly_expire(zks_core *core);
void reassembly_teardown(zks_core *core);

#endif
