#include "siphash.h"

#include <string.h>

#include "packet.h"

static uint64_t rotate(uint64_t x, int b) { return x << b | x >> (64 - b); }

uint64_t siphash(const uint8_t *key, const uint8_t *in, size_t length)
{
    uint64_t k0, k1, v0, v1, v2, v3, m;
    size_t i;
    int round, rounds;
    memcpy(&k0, key, 8);
    memcpy(&k1, key + 8, 8);
    v0 = k0 ^ 0x736f6d6570736575ull;
    v1 = k1 ^ 0x646f72616e646f6dull;
    v2 = k0 ^ 0x6c7967656e657261ull;
    v3 = k1 ^ 0x7465646279746573ull;
    for (i = 0; i <= length / 8 + 1; i++) {
        rounds = 2;
        if (i < length / 8) {
            memcpy(&m, in + i * 8, 8);
        } else if (i == length / 8) {
            m = (uint64_t)length << 56;
            memcpy(&m, in + i * 8, length % 8);
        } else {
            m = 0;
            v2 ^= 0xff;
            rounds = 4;
        }
        v3 ^= m;
        for (round = 0; round < rounds; round++) {
            v0 += v1, v1 = rotate(v1, 13) ^ v0, v0 = rotate(v0, 32);
            v2 += v3, v3 = rotate(v3, 16) ^ v2;
            v0 += v3, v3 = rotate(v3, 21) ^ v0;
            v2 += v1, v1 = rotate(v1, 17) ^ v2, v2 = rotate(v2, 32);
        }
        v0 ^= m;
    }
    return v0 ^ v1 ^ v2 ^ v3;
}

uint64_t siphash_tuple(const uint8_t *key, const uint8_t *source, uint16_t source_port, const uint8_t *destination,
                       uint16_t destination_port)
{
    uint8_t tuple[36];
    memcpy(tuple, source, 16);
    memcpy(tuple + 16, destination, 16);
    zks_put16(tuple + 32, source_port);
    zks_put16(tuple + 34, destination_port);
    return siphash(key, tuple, sizeof tuple);
}
