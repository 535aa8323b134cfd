/* UDP sockets for the frames of a tunnel, many datagrams a system call: Linux's sendmmsg, recvmmsg, UDP_SEGMENT and
 * UDP_GRO; elsewhere, or where it is told to, one a call.
 *
 * Which hosts may be reached is not decided here: they are put into a table of a bounded size, and what is not in it
 * stops the work until the caller has decided. Nothing here keeps a socket. Not for use by two threads at a time. */
#ifndef ZKS_UDP_SOCKETS_H
#define ZKS_UDP_SOCKETS_H
#include <stddef.h>
#include <stdint.h>

typedef struct zks_udp_hosts zks_udp_hosts;
typedef struct zks_udp_inbox zks_udp_inbox;

/* What is known of a host. */
enum { ZKS_UDP_ALLOWED = 1, ZKS_UDP_REFUSED = 2, ZKS_UDP_NONSENSE = 3 };

/* How far a call came. */
enum {
    ZKS_UDP_DONE = 0,
    ZKS_UDP_HOST = 1,   /* a host that is not in the table */
    ZKS_UDP_SOCKET = 2, /* an association has no socket of the family */
    ZKS_UDP_FULL = 3    /* no room in the buffer */
};

enum {
    ZKS_UDP_ONE_BY_ONE = 1, /* a system call for each datagram */
    ZKS_UDP_NO_SEGMENTS = 2 /* the system does not know UDP_SEGMENT */
};

/* A table of hosts: those that are asked for least lately make room for others; NULL: out of memory. seed: random. */
zks_udp_hosts *zks_udp_hosts_new(uint32_t seed);
void zks_udp_hosts_free(zks_udp_hosts *hosts);
/* Forgets what was decided. */
void zks_udp_hosts_clear(zks_udp_hosts *hosts);
/* Notes what was decided of a destination, as frames write it (1 to 45 bytes), and the address that it stands for. */
void zks_udp_hosts_put(zks_udp_hosts *hosts, const uint8_t *host, size_t length, int verdict, int family,
                       const uint8_t *address);
/* Notes what was decided of a source, and how frames write it. */
void zks_udp_hosts_put_source(zks_udp_hosts *hosts, int family, const uint8_t *address, int verdict,
                              const uint8_t *host, size_t length);

struct zks_udp_flow {
    uint32_t association;
    uint32_t errors; /* set: an error of an earlier datagram has come in between */
    intptr_t fd4;    /* sockets, which do not block; -1: none */
    intptr_t fd6;
};

struct zks_udp_problem {
    uint32_t offset; /* of the frame */
    int32_t error;   /* an errno of this system, or 0: the host is refused */
};

struct zks_udp_sent {
    uint32_t offset;    /* of the first frame that was not worked on */
    uint32_t datagrams; /* that the system has taken */
    uint32_t dropped;   /* that it had no room for, or that have nowhere to go */
    uint32_t problems;  /* that were written */
};

/* Sends the datagrams of a run of frames (zks_udp_scan) by the sockets of their associations. problems: room for one a
 * frame, 256. Returns ZKS_UDP_DONE, ZKS_UDP_HOST or ZKS_UDP_SOCKET: what comes before offset is sent. */
int zks_udp_send(const zks_udp_hosts *hosts, const uint8_t *frames, size_t size, struct zks_udp_flow *flows,
                 uint32_t flow_count, int flags, struct zks_udp_sent *sent, struct zks_udp_problem *problems);

/* Where datagrams arrive; NULL: out of memory. */
zks_udp_inbox *zks_udp_inbox_new(void);
void zks_udp_inbox_free(zks_udp_inbox *inbox);
/* Takes what has come for a socket, 16 messages at most; returns how many, or an errno, negative. drained: nothing
 * more waits; else call again, also after an error. */
int zks_udp_receive(zks_udp_inbox *inbox, intptr_t fd, int flags, int *drained);

struct zks_udp_received {
    uint32_t datagrams; /* written as frames */
    uint32_t size;      /* bytes of these */
    uint32_t dropped;   /* refused, or too long */
    int32_t family;     /* ZKS_UDP_HOST: the address that is to be decided on */
    uint8_t address[16];
};

/* Writes what is in the inbox as frames of an association; size: 65,565 bytes or more. Returns ZKS_UDP_DONE,
 * ZKS_UDP_HOST or ZKS_UDP_FULL: call again. */
int zks_udp_inbox_frames(zks_udp_inbox *inbox, const zks_udp_hosts *hosts, uint32_t association, uint8_t *out,
                         size_t size, struct zks_udp_received *received);

#endif
