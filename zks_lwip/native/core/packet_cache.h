/* Look-up in the packet cache, for datagram.c. The core's lock is held. */
#ifndef ZKS_PACKET_CACHE_INTERNAL_H
#define ZKS_PACKET_CACHE_INTERNAL_H
#include "zks_core.h"
#include <stdint.h>

#define PACKET_CACHE_MAX_ANSWER 1230u

/* The answer to a query, both without their ids; NULL: none. Counts a hit. */
const struct cached_answer *packet_cache_find(zks_core *core, const uint8_t *key, uint32_t length);
uint32_t packet_cache_length(const struct cached_answer *answer);
/* Writes the answer with its TTLs counted down to now. */
void packet_cache_write(const struct cached_answer *answer, uint8_t *out);
void packet_cache_teardown(zks_core *core);

#endif
