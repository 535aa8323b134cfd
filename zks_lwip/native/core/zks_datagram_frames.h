/* UDP between the device and frames of the tunnel (PROTOCOL.md §5), many datagrams a call. */
#ifndef ZKS_DATAGRAM_FRAMES_H
#define ZKS_DATAGRAM_FRAMES_H
#include <stddef.h>
#include <stdint.h>

/* Which datagrams become frames here. Others wait for zks_datagram_take. */
struct zks_frame_rules {
    uint8_t ports[8192]; /* a bit for each destination port: 1: not here */
    uint8_t alias[4];    /* an IPv4 address that stands for the worker's 127.0.0.1; 0.0.0.0: none does */
    uint8_t no_ipv6;     /* no destinations of IPv6 */
    uint8_t reserved[3];
};

/* Lets datagrams of a local address and port become frames of an association (not 0), and the other way round, until
 * it is unbound: ZKS_OK, ZKS_NOMEM, ZKS_INVALID: the address or the association is bound already. */
int zks_datagram_bind(zks_core *core, int family, const uint8_t *address, uint16_t port, uint32_t association);
void zks_datagram_unbind(zks_core *core, uint32_t association);

struct zks_bound_datagrams {
    uint64_t up, down; /* bytes of datagrams that have become frames, and the other way round */
    uint8_t to[16];    /* where the last one was sent to */
    uint16_t port;
    uint8_t family; /* 0: none was sent */
    uint8_t reserved[5];
};

/* Writes what is known of an association that is bound: ZKS_OK, ZKS_GONE. */
int zks_datagram_bound(zks_core *core, uint32_t association, struct zks_bound_datagrams *bound);

struct zks_taken_frames {
    uint32_t datagrams;
    uint32_t size;         /* bytes of their frames */
    uint32_t payload;      /* bytes of their payloads */
    uint32_t associations; /* how many different ones */
};

/* Takes the datagrams that wait first, as long as they are bound and the rules allow it: at most 256 and of 64
 * associations, whose ids it writes. size: 65,565 bytes or more. Returns how many it has taken; after 0 no event tells
 * of those that wait, and zks_datagram_take_others has to follow. */
int zks_datagram_take_frames(zks_core *core, const struct zks_frame_rules *rules, uint8_t *buffer, size_t size,
                             uint32_t *associations, struct zks_taken_frames *taken);
/* Takes those that wait first and do not become frames, as zks_datagram_take. left: whether others wait. */
int zks_datagram_take_others(zks_core *core, const struct zks_frame_rules *rules, struct zks_datagram *datagrams,
                             int most, uint8_t *buffer, size_t size, int *left);

struct zks_delivered_frames {
    uint32_t datagrams; /* sent to the device */
    uint32_t payload;   /* bytes of their payloads */
    uint32_t dropped;   /* of another family than the application's socket, or out of memory */
    uint32_t malformed; /* with a host that is no literal, or an IPv4-mapped one */
};

/* Sends the datagrams of frames to their applications, as if from the hosts that the frames name. Those of
 * associations that are not bound are left out. Returns ZKS_OK, ZKS_GONE. */
int zks_datagram_deliver(zks_core *core, const struct zks_frame_rules *rules, const uint8_t *frames, size_t size,
                         struct zks_delivered_frames *delivered);

/* Says that the device, one with ZKS_FRAMING_VNET, cuts large UDP packets into datagrams (USO). */
void zks_device_cuts_datagrams(zks_core *core, int cuts);

#endif
