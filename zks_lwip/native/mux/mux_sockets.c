/* Sockets as a target: non-blocking, their descriptors their handles. */
#include "mux.h"

#if defined(_WIN32)
int zks_mux_sockets(struct zks_mux_target *target)
{
    (void)target;
    return 0;
}
#else
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#if !defined(MSG_NOSIGNAL)
#define MSG_NOSIGNAL 0
#endif

static int64_t failed(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : ZKS_MUX_ERRNO - (int64_t)errno;
}

static int64_t pull(void *context, uint64_t handle, uint8_t *buffer, size_t size)
{
    ssize_t got;
    (void)context;
    do
        got = recv((int)handle, buffer, size, MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return failed();
    return got ? got : ZKS_MUX_EOF;
}

static int64_t push(void *context, uint64_t handle, const uint8_t *data, size_t length)
{
    ssize_t sent;
    (void)context;
    do
        sent = send((int)handle, data, length, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? failed() : sent;
}

int zks_mux_sockets(struct zks_mux_target *target)
{
    memset(target, 0, sizeof *target);
    target->pull = pull;
    target->push = push;
    return 1;
}
#endif
