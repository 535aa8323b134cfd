/* Which association of the tunnel an application's UDP socket has: found by its address, and by its id. */
#include "association.h"

#include <string.h>

#include "siphash.h"

#define BUCKETS 1024u

struct associations {
    struct association *by_address[BUCKETS], *by_id[BUCKETS];
};

static uint32_t address_bucket(const zks_core *core, int family, const uint8_t *address, uint16_t port)
{
    static const uint8_t none[16];
    return (uint32_t)siphash_tuple(core->config.seed, address, port, none, (uint16_t)family) % BUCKETS;
}

static uint32_t id_bucket(uint32_t id) { return id % BUCKETS; /* they are given one after the other */ }

struct association *association_by_address(const zks_core *core, int family, const uint8_t *address, uint16_t port)
{
    struct association *a;
    if (!core->associations)
        return NULL;
    a = core->associations->by_address[address_bucket(core, family, address, port)];
    while (a && (a->port != port || a->family != family || memcmp(a->address, address, 16)))
        a = a->by_address_next;
    return a;
}

struct association *association_by_id(const zks_core *core, uint32_t id)
{
    struct association *a;
    if (!core->associations)
        return NULL;
    a = core->associations->by_id[id_bucket(id)];
    while (a && a->id != id)
        a = a->by_id_next;
    return a;
}

static int bind_new(zks_core *core, int family, const uint8_t *address, uint16_t port, uint32_t id)
{
    struct association *a, **link;
    if (!core->associations && !(core->associations = calloc(1, sizeof *core->associations)))
        return ZKS_NOMEM;
    if (association_by_id(core, id) || association_by_address(core, family, address, port))
        return ZKS_INVALID;
    a = calloc(1, sizeof *a);
    if (!a)
        return ZKS_NOMEM;
    a->id = id;
    a->port = port;
    a->family = (uint8_t)family;
    memcpy(a->address, address, 16);
    link = &core->associations->by_address[address_bucket(core, family, address, port)];
    a->by_address_next = *link;
    *link = a;
    link = &core->associations->by_id[id_bucket(id)];
    a->by_id_next = *link;
    *link = a;
    return ZKS_OK;
}

int zks_datagram_bind(zks_core *core, int family, const uint8_t *address, uint16_t port, uint32_t association)
{
    int result;
    if (!association || (family != 4 && family != 6))
        return ZKS_INVALID;
    if (!core)
        return ZKS_GONE;
    core_enter(core);
    result = bind_new(core, family, address, port, association);
    core_leave(core);
    return result;
}

int zks_datagram_bound(zks_core *core, uint32_t association, struct zks_bound_datagrams *bound)
{
    const struct association *a;
    if (!core)
        return ZKS_GONE;
    core_enter(core);
    a = association_by_id(core, association);
    if (a)
        *bound = a->seen;
    core_leave(core);
    return a ? ZKS_OK : ZKS_GONE;
}

static void forget(zks_core *core, struct association *a)
{
    struct association **link = &core->associations->by_address[address_bucket(core, a->family, a->address, a->port)];
    while (*link != a)
        link = &(*link)->by_address_next;
    *link = a->by_address_next;
    link = &core->associations->by_id[id_bucket(a->id)];
    while (*link != a)
        link = &(*link)->by_id_next;
    *link = a->by_id_next;
    free(a);
}

void zks_datagram_unbind(zks_core *core, uint32_t association)
{
    struct association *a;
    if (!core)
        return;
    core_enter(core);
    a = association_by_id(core, association);
    if (a)
        forget(core, a);
    core_leave(core);
}

void association_teardown(zks_core *core)
{
    uint32_t i;
    if (!core->associations)
        return;
    for (i = 0; i < BUCKETS; i++)
        while (core->associations->by_id[i])
            forget(core, core->associations->by_id[i]);
    free(core->associations);
    core->associations = NULL;
}
