/* The packet cache: DNS answers that the pump repeats by itself, without waking Python, when a query differs from an
 * answered one only in its two id bytes. */
#ifndef ZKS_PACKET_CACHE_H
#define ZKS_PACKET_CACHE_H
#include "zks_core.h"
#include <stddef.h>
#include <stdint.h>
/* Remembers, for valid_ms milliseconds, that a UDP datagram to port 53 whose payload is any two bytes and then key is
 * answered by those two bytes and then answer. ttls: the offsets in answer of its `count` TTLs, as they were age_ms
 * milliseconds ago; they are counted down, in whole seconds, to 0. No pointer is kept. Another entry may have to give
 * way. 0: not taken, as are keys over 512 bytes, answers over 1230 and more than 64 TTLs, or out of memory. */
int zks_packet_cache_put(zks_core *core, const uint8_t *key, size_t key_length, const uint8_t *answer,
                         size_t answer_length, const uint16_t *ttls, size_t count, uint32_t age_ms, uint32_t valid_ms);
/* Forgets all entries. */
void zks_packet_cache_clear(zks_core *core);
/* How many datagrams have been answered so far. */
uint64_t zks_packet_cache_hits(zks_core *core);
#endif
