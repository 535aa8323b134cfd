#include "zks_mask.h"

#include <string.h>

/*
 * Words are loaded and stored by memcpy: that is how C spells an access that need not be aligned, and compilers make
 * one instruction of it. A block loads all its words before it stores any, so that it is right in place, and so that
 * the compiler may use vector registers without having to prove that `out` and `in` are apart.
 */
#define WORDS 8

void zks_ws_mask(uint8_t *out, const uint8_t *in, size_t len, const uint8_t *key, unsigned phase)
{
    uint8_t pattern[8];
    uint64_t mask;
    size_t i;

    for (i = 0; i < sizeof pattern; i++)
        pattern[i] = key[(i + phase) & 3];
    memcpy(&mask, pattern, sizeof mask);

    while (len >= WORDS * sizeof mask) {
        uint64_t words[WORDS];
        memcpy(words, in, sizeof words);
        for (i = 0; i < WORDS; i++)
            words[i] ^= mask;
        memcpy(out, words, sizeof words);
        in += sizeof words;
        out += sizeof words;
        len -= sizeof words;
    }
    while (len >= sizeof mask) {
        uint64_t word;
        memcpy(&word, in, sizeof word);
        word ^= mask;
        memcpy(out, &word, sizeof word);
        in += sizeof word;
        out += sizeof word;
        len -= sizeof word;
    }
    for (i = 0; i < len; i++)
        out[i] = (uint8_t)(in[i] ^ pattern[i]);
}

size_t zks_ws_frame(uint8_t *out, int opcode, const uint8_t *payload, size_t len, const uint8_t *key)
{
    uint8_t *at = out;
    uint8_t masked = key != NULL ? 0x80 : 0;
    int shift;

    *at++ = (uint8_t)(0x80 | (opcode & 0x0F));
    if (len <= 125) {
        *at++ = (uint8_t)(masked | len);
    } else if (len <= 0xFFFF) {
        *at++ = (uint8_t)(masked | 126);
        *at++ = (uint8_t)(len >> 8);
        *at++ = (uint8_t)len;
    } else {
        *at++ = (uint8_t)(masked | 127);
        for (shift = 56; shift >= 0; shift -= 8)
            *at++ = (uint8_t)((uint64_t)len >> shift);
    }
    if (key == NULL) {
        if (len > 0)
            memcpy(at, payload, len);
    } else {
        memcpy(at, key, 4);
        at += 4;
        zks_ws_mask(at, payload, len, key, 0);
    }
    return (size_t)(at - out) + len;
}
