/*
 * WebSocket framing and masking (RFC 6455 §5.2, §5.3).
 *
 * zks_ws_frame writes one whole, unfragmented frame: header, masking key and payload, in one pass. `out` must have
 * room for len + 14 bytes and may not overlap `payload`. `key` is the four bytes of the masking key, or NULL for an
 * unmasked frame (a server's). `opcode` is 0x0 to 0xF; the FIN bit is set. Returns the bytes written.
 *
 * zks_ws_mask writes in[i] ^ key[(i + phase) % 4] to out[i]; `out` may be `in` (in place), and may not overlap it
 * otherwise. `phase` (0 to 3) is where in the key the first byte stands. Masking and unmasking are the same.
 *
 * Nothing needs to be aligned. Neither function keeps a pointer.
 */
#ifndef ZKS_MASK_H
#define ZKS_MASK_H
#include <stddef.h>
#include <stdint.h>
size_t zks_ws_frame(uint8_t *out, int opcode, const uint8_t *payload, size_t len, const uint8_t *key);
void zks_ws_mask(uint8_t *out, const uint8_t *in, size_t len, const uint8_t *key, unsigned phase);
#endif
