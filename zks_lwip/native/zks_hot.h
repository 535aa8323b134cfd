/*
 * DNS answers that the pump gives by itself, without waking anybody: what has just been asked, and answered, is asked
 * again by other bytes of the id alone.
 *
 * zks_hot_put remembers, for valid_ms milliseconds, that a UDP datagram to port 53 whose payload is any two bytes and
 * then key is answered by those two bytes and then answer. ttls are the offsets in answer of its `count` TTLs, as they
 * were age_ms milliseconds ago; they are counted down, in whole seconds, to 0. No pointer is kept. Another entry may
 * have to give way. Keys over 512 bytes, answers over 1230 and more than 64 TTLs are not taken; 0: not taken, or out
 * of memory.
 * zks_hot_clear forgets all. zks_hot_hits: how many datagrams have been answered so far.
 */
#ifndef ZKS_HOT_H
#define ZKS_HOT_H
#include <stddef.h>
#include <stdint.h>
#include "zks_core.h"
int zks_hot_put(zks_core *core, const uint8_t *key, size_t key_length, const uint8_t *answer,
                size_t answer_length, const uint16_t *ttls, size_t count, uint32_t age_ms, uint32_t valid_ms);
void zks_hot_clear(zks_core *core);
uint64_t zks_hot_hits(zks_core *core);
#endif
