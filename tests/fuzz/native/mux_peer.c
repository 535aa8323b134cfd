#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* as env.h's other users have it, before the first header */
#endif
#include "mux_peer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "env.h"

enum { BUFFER = 1 }; /* Linux makes 4,608 of it, which it sends in pieces of half as much */

uint32_t digest(uint32_t so_far, const uint8_t *bytes, size_t length)
{
    size_t i;
    for (i = 0; i < length; i++)
        so_far = so_far * 31u + bytes[i] + 1u;
    return so_far;
}

struct peer *peer_open(void)
{
    struct peer *peer = calloc(1, sizeof *peer);
    int ends[2], size = BUFFER, i;
    CHECK(peer && !socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends));
    for (i = 0; i < 2; i++)
        CHECK(!setsockopt(ends[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof size));
    peer->near = ends[0];
    peer->far = ends[1];
    return peer;
}

void peer_close(struct peer *peer)
{
    peer_go(peer);
    CHECK(!close(peer->near));
    free(peer);
}

void peer_write(struct peer *peer, uint8_t value, size_t length)
{
    uint8_t bytes[4096];
    if (peer->far < 0 || peer->ended)
        return;
    memset(bytes, value, sizeof bytes);
    if (length > sizeof bytes)
        length = sizeof bytes;
    if (send(peer->far, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        CHECK(errno == EAGAIN);
}

void peer_read(struct peer *peer, size_t most)
{
    uint8_t bytes[4096];
    while (peer->far >= 0 && most) {
        ssize_t got = recv(peer->far, bytes, most < sizeof bytes ? most : sizeof bytes, MSG_DONTWAIT);
        if (got < 0) {
            CHECK(errno == EAGAIN);
            return;
        }
        CHECK(got); /* near never ends */
        peer->seen = digest(peer->seen, bytes, (size_t)got);
        most -= (size_t)got;
    }
}

void peer_end(struct peer *peer)
{
    if (peer->far < 0 || peer->ended)
        return;
    CHECK(!shutdown(peer->far, SHUT_WR));
    peer->ended = 1;
}

void peer_go(struct peer *peer)
{
    if (peer->far < 0)
        return;
    CHECK(!close(peer->far));
    peer->far = -1;
    peer->ended = 1;
}

enum peer_state peer_look(const struct peer *peer)
{
    uint8_t one;
    ssize_t got = recv(peer->near, &one, 1, MSG_DONTWAIT | MSG_PEEK);
    if (got < 0) {
        CHECK(errno == EAGAIN);
        return PEER_EMPTY;
    }
    return got ? PEER_BYTES : PEER_ENDED;
}
