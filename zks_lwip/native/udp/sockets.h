/* What sending and receiving share: the systems' sockets. */
#ifndef ZKS_UDP_SYSTEM_H
#define ZKS_UDP_SYSTEM_H

#if defined(_WIN32)
#include <winsock2.h>
#include <ws2tcpip.h>
typedef SOCKET udp_socket;
#else
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
typedef int udp_socket;
#endif

#if defined(__linux__)
#define UDP_BATCHES 1 /* sendmmsg, recvmmsg */
#define UDP_LEVEL 17  /* SOL_UDP */
#define UDP_OPTION_SEGMENT 103
#define UDP_OPTION_GRO 104
#else
#define UDP_BATCHES 0
#endif

/* The error of the last call. */
static inline int udp_errno(void)
{
#if defined(_WIN32)
    return WSAGetLastError();
#else
    return errno;
#endif
}

static inline int udp_interrupted(int error)
{
#if defined(_WIN32)
    return error == WSAEINTR;
#else
    return error == EINTR;
#endif
}

/* Nothing has come, or there is no room. */
static inline int udp_would_block(int error)
{
#if defined(_WIN32)
    return error == WSAEWOULDBLOCK || error == WSAENOBUFS;
#else
    return error == EAGAIN || error == EWOULDBLOCK || error == ENOBUFS;
#endif
}

#if defined(MSG_DONTWAIT) && defined(MSG_NOSIGNAL)
#define UDP_FLAGS (MSG_DONTWAIT | MSG_NOSIGNAL)
#elif defined(MSG_DONTWAIT)
#define UDP_FLAGS MSG_DONTWAIT
#else
#define UDP_FLAGS 0
#endif

#endif
