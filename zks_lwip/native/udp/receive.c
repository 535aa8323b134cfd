/* What comes to a UDP socket, as frames of its association. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* recvmmsg */
#endif
#include <stdlib.h>

#include "hosts.h"
#include "sockets.h"

#define SLOTS 16 /* messages of a system call */
#define SLOT 65536u

union name {
    struct sockaddr any;
    struct sockaddr_in four;
    struct sockaddr_in6 six;
};

struct slot {
    union name source;
    uint32_t length;
    uint32_t segment; /* bytes of each datagram that it is made of; the last one may have fewer */
};

struct zks_udp_inbox {
    struct slot slots[SLOTS];
    int count, at;   /* messages that there are, and the one that is next */
    uint32_t offset; /* in that, of the datagram that is next */
    uint8_t *bytes;  /* SLOTS * SLOT */
};

zks_udp_inbox *zks_udp_inbox_new(void)
{
    zks_udp_inbox *inbox = calloc(1, sizeof *inbox);
    if (inbox && !(inbox->bytes = malloc((size_t)SLOTS * SLOT))) {
        free(inbox);
        return NULL;
    }
    return inbox;
}

void zks_udp_inbox_free(zks_udp_inbox *inbox)
{
    if (inbox)
        free(inbox->bytes);
    free(inbox);
}

static void take(zks_udp_inbox *inbox, uint32_t length, uint32_t segment)
{
    struct slot *slot = &inbox->slots[inbox->count++];
    slot->length = length;
    slot->segment = segment && segment < length ? segment : length;
}

/* Takes messages until there are SLOTS of them. Returns the error that ended it, or 0. */
static int receive_singly(zks_udp_inbox *inbox, udp_socket fd)
{
    while (inbox->count < SLOTS) {
        struct slot *slot = &inbox->slots[inbox->count];
        socklen_t size = sizeof slot->source;
        long long got;
        memset(&slot->source, 0, sizeof slot->source);
        got = recvfrom(fd, (void *)(inbox->bytes + (size_t)inbox->count * SLOT), SLOT, UDP_FLAGS, &slot->source.any,
                       &size);
        if (got >= 0)
            take(inbox, (uint32_t)got, 0);
        else if (!udp_interrupted(udp_errno()))
            return udp_errno();
    }
    return 0;
}

#if UDP_BATCHES
static int receive_batches(zks_udp_inbox *inbox, udp_socket fd)
{
    struct mmsghdr messages[SLOTS];
    struct iovec parts[SLOTS];
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(sizeof(int))];
    } controls[SLOTS];
    int i, n;
    memset(messages, 0, sizeof messages);
    while (inbox->count < SLOTS) {
        int begin = inbox->count;
        for (i = begin; i < SLOTS; i++) {
            struct msghdr *message = &messages[i].msg_hdr;
            memset(&inbox->slots[i].source, 0, sizeof inbox->slots[i].source);
            parts[i].iov_base = inbox->bytes + (size_t)i * SLOT;
            parts[i].iov_len = SLOT;
            message->msg_name = &inbox->slots[i].source;
            message->msg_namelen = sizeof inbox->slots[i].source;
            message->msg_iov = &parts[i];
            message->msg_iovlen = 1;
            message->msg_control = &controls[i];
            message->msg_controllen = sizeof controls[i];
        }
        n = recvmmsg(fd, messages + begin, (unsigned)(SLOTS - begin), UDP_FLAGS, NULL);
        if (n < 0 && errno != EINTR)
            return errno;
        for (i = begin; i < begin + n; i++) {
            struct cmsghdr *control = CMSG_FIRSTHDR(&messages[i].msg_hdr);
            int segment = 0;
            if (control && control->cmsg_level == UDP_LEVEL && control->cmsg_type == UDP_OPTION_GRO &&
                control->cmsg_len >= CMSG_LEN(sizeof segment))
                memcpy(&segment, CMSG_DATA(control), sizeof segment);
            take(inbox, messages[i].msg_len, segment > 0 ? (uint32_t)segment : 0);
        }
    }
    return 0;
}
#endif

int zks_udp_receive(zks_udp_inbox *inbox, intptr_t fd, int flags, int *drained)
{
    int error;
    inbox->count = inbox->at = 0;
    inbox->offset = 0;
#if UDP_BATCHES
    error = flags & ZKS_UDP_ONE_BY_ONE ? receive_singly(inbox, (udp_socket)fd) : receive_batches(inbox, (udp_socket)fd);
#else
    (void)flags;
    error = receive_singly(inbox, (udp_socket)fd);
#endif
    *drained = error && udp_would_block(error);
    return error && !*drained && !inbox->count ? -error : inbox->count;
}

/* Writes the source of a message; 0: it has none that frames could name. */
static int source_of(const struct slot *slot, const uint8_t **address, uint16_t *port)
{
    if (slot->source.any.sa_family == AF_INET) {
        *address = (const uint8_t *)&slot->source.four.sin_addr;
        *port = ntohs(slot->source.four.sin_port);
        return 4;
    }
    if (slot->source.any.sa_family == AF_INET6 && !slot->source.six.sin6_scope_id) {
        *address = (const uint8_t *)&slot->source.six.sin6_addr;
        *port = ntohs(slot->source.six.sin6_port);
        return 6;
    }
    return 0;
}

static void next_message(zks_udp_inbox *inbox)
{
    inbox->at++;
    inbox->offset = 0;
}

int zks_udp_inbox_frames(zks_udp_inbox *inbox, const zks_udp_hosts *hosts, uint32_t association, uint8_t *out,
                         size_t size, struct zks_udp_received *received)
{
    memset(received, 0, sizeof *received);
    while (inbox->at < inbox->count) {
        const struct slot *slot = &inbox->slots[inbox->at];
        const uint8_t *bytes = inbox->bytes + (size_t)inbox->at * SLOT, *address = NULL;
        const struct udp_host *host = NULL;
        uint16_t port = 0;
        int family = source_of(slot, &address, &port);
        uint32_t n = slot->segment ? (slot->length - inbox->offset + slot->segment - 1) / slot->segment : 1;
        if (family && !(host = udp_host_by_address(hosts, family, address))) {
            received->family = family;
            memcpy(received->address, address, family == 4 ? 4 : 16);
            return ZKS_UDP_HOST;
        }
        if (!host || host->verdict != ZKS_UDP_ALLOWED || slot->segment > UDP_FRAME_MAX) {
            received->dropped += n;
            next_message(inbox);
            continue;
        }
        do {
            uint32_t left = slot->length - inbox->offset, length = left < slot->segment ? left : slot->segment;
            uint8_t *at = out + received->size;
            if (size - received->size < UDP_FRAME_OVERHEAD + length)
                return ZKS_UDP_FULL;
            at = udp_frame_write(at, association, port, (const char *)host->text, host->length, length);
            memcpy(at, bytes + inbox->offset, length);
            received->size = (uint32_t)(at - out) + length;
            received->datagrams++;
            inbox->offset += length;
        } while (inbox->offset < slot->length);
        next_message(inbox);
    }
    return ZKS_UDP_DONE;
}
