/* Which association of the tunnel an application's UDP socket has. */
#ifndef ZKS_ASSOCIATION_H
#define ZKS_ASSOCIATION_H
#include "context.h"
#include "zks_datagram_frames.h"

struct association {
    struct association *by_address_next, *by_id_next;
    uint32_t id;
    uint16_t port;
    uint8_t family;
    uint8_t address[16];
    struct zks_bound_datagrams seen;
    /* the destination that was written last, as frames have it */
    uint8_t last_family; /* 0: none yet */
    uint8_t last_length;
    uint8_t last[16];
    char text[46];
};

struct association *association_by_address(const zks_core *core, int family, const uint8_t *address, uint16_t port);
struct association *association_by_id(const zks_core *core, uint32_t id);
void association_teardown(zks_core *core);

#endif
