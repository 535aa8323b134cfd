/* Keyed hashing, for what a stranger may not guess: SipHash-2-4 (Aumasson and Bernstein, 2012). No state. */
#ifndef ZKS_SIPHASH_H
#define ZKS_SIPHASH_H
#include <stddef.h>
#include <stdint.h>

/* key: 16 bytes. */
uint64_t siphash(const uint8_t *key, const uint8_t *in, size_t length);
/* Of two addresses (16 bytes each) and their ports. */
uint64_t siphash_tuple(const uint8_t *key, const uint8_t *source, uint16_t source_port, const uint8_t *destination,
                       uint16_t destination_port);

#endif
