/* The far end of a socket that the multiplexer moves bytes from and to. */
#ifndef ZKS_FUZZ_MUX_PEER_H
#define ZKS_FUZZ_MUX_PEER_H
#include <stddef.h>
#include <stdint.h>

struct peer {
    int near, far; /* far: -1 once it is closed */
    int ended;     /* it writes no more */
    uint32_t seen; /* digest of what it has read */
};

/* Goes on with a digest of bytes in their order; it begins with 0. */
uint32_t digest(uint32_t so_far, const uint8_t *bytes, size_t length);

/* Makes a pair of sockets that hold some KB each; near does not block. */
struct peer *peer_open(void);
/* Closes both ends. */
void peer_close(struct peer *peer);
/* Writes up to length bytes of this value. */
void peer_write(struct peer *peer, uint8_t value, size_t length);
/* Reads what is there, up to most bytes. */
void peer_read(struct peer *peer, size_t most);
/* Ends its writing. */
void peer_end(struct peer *peer);
/* Goes away, with what it has not read. */
void peer_go(struct peer *peer);

enum peer_state { PEER_EMPTY, PEER_BYTES, PEER_ENDED };
/* What a read of near would find now, without taking it. */
enum peer_state peer_look(const struct peer *peer);
#endif
