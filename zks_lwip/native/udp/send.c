/* The datagrams of a run of frames, sent by the sockets of their associations. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* sendmmsg */
#endif
#include "hosts.h"
#include "sockets.h"

#if UDP_BATCHES
#include <sys/uio.h>
#endif

#define MOST 256u        /* frames of a call; what is more is for the next */
#define FLOWS 64u        /* associations of a call */
#define BATCH 64u        /* messages of a system call */
#define MAX_SEGMENTS 64u /* datagrams of a message (UDP_MAX_SEGMENTS of older kernels) */
#define MAX_BYTES 65000u /* of a message: with its headers it fits into a packet */

struct item {
    const struct udp_host *host;
    const uint8_t *payload;
    uint32_t length, offset;
    uint16_t port;
    int16_t next; /* of the same socket, or -1 */
};

struct chain {
    int16_t first, last;
};

struct job {
    struct item items[MOST];
    struct chain chains[2 * FLOWS]; /* by flow: of IPv4, then of IPv6 */
    struct zks_udp_sent *sent;
    struct zks_udp_problem *problems;
    int flags;
};

union name {
    struct sockaddr any;
    struct sockaddr_in four;
    struct sockaddr_in6 six;
};

static int name_of(union name *name, const struct item *item)
{
    memset(name, 0, sizeof *name);
    if (item->host->family == 4) {
        name->four.sin_family = AF_INET;
        name->four.sin_port = htons(item->port);
        memcpy(&name->four.sin_addr, item->host->address, 4);
        return sizeof name->four;
    }
    name->six.sin6_family = AF_INET6;
    name->six.sin6_port = htons(item->port);
    memcpy(&name->six.sin6_addr, item->host->address, 16);
    return sizeof name->six;
}

static void note_problem(struct job *job, const struct item *item, int error)
{
    struct zks_udp_problem *problem = &job->problems[job->sent->problems++];
    problem->offset = item->offset;
    problem->error = error;
    job->sent->dropped++;
}

/* Sends one datagram. 0: there is no room for more. */
static int send_one(struct job *job, struct zks_udp_flow *flow, udp_socket fd, const struct item *item)
{
    union name name;
    int length = name_of(&name, item), again = 1, error;
    for (;;) {
        if (sendto(fd, (const void *)item->payload, item->length, UDP_FLAGS, &name.any, (socklen_t)length) >= 0) {
            job->sent->datagrams++;
            return 1;
        }
        error = udp_errno();
        if (udp_interrupted(error))
            continue;
        if (udp_would_block(error))
            return 0;
        if (!again)
            break;
        again = 0; /* it may be the late error of an earlier datagram: that is told, this one sent */
        flow->errors = 1;
    }
    note_problem(job, item, error);
    return 1;
}

static uint32_t count_from(const struct job *job, int at)
{
    uint32_t n = 0;
    for (; at >= 0; at = job->items[at].next)
        n++;
    return n;
}

static void send_chain_singly(struct job *job, struct zks_udp_flow *flow, udp_socket fd, int at)
{
    for (; at >= 0; at = job->items[at].next)
        if (!send_one(job, flow, fd, &job->items[at])) {
            job->sent->dropped += count_from(job, at);
            return;
        }
}

#if UDP_BATCHES
struct batch {
    struct mmsghdr messages[BATCH];
    union name names[BATCH];
    struct iovec parts[MOST];
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(sizeof(uint16_t))];
    } controls[BATCH];
    int16_t first[BATCH]; /* its first item */
    uint16_t segments[BATCH];
    uint32_t count;
};

/* Whether b, which follows a, may be a segment of the message that a is in. */
static int joins(const struct item *a, const struct item *b, uint32_t segments, uint32_t bytes)
{
    return segments < MAX_SEGMENTS && bytes + b->length <= MAX_BYTES && b->length && b->length <= a->length &&
           b->host == a->host && b->port == a->port;
}

/* Makes messages of a chain, each of as many datagrams as the system cuts it into again. Returns what is left. */
static int fill(struct job *job, struct batch *batch, int at)
{
    uint32_t parts = 0;
    batch->count = 0;
    while (at >= 0 && batch->count < BATCH) {
        const struct item *first = &job->items[at], *item = first;
        uint32_t n = batch->count++, bytes = 0, segments = 0;
        struct msghdr *message = &batch->messages[n].msg_hdr;
        memset(message, 0, sizeof *message);
        message->msg_name = &batch->names[n];
        message->msg_namelen = (socklen_t)name_of(&batch->names[n], first);
        message->msg_iov = &batch->parts[parts];
        batch->first[n] = (int16_t)at;
        for (;;) {
            batch->parts[parts].iov_base = (void *)(uintptr_t)item->payload;
            batch->parts[parts++].iov_len = item->length;
            bytes += item->length;
            segments++;
            at = item->next;
            if (item->length < first->length || at < 0 || job->flags & ZKS_UDP_NO_SEGMENTS ||
                !joins(first, &job->items[at], segments, bytes))
                break;
            item = &job->items[at];
        }
        message->msg_iovlen = segments;
        batch->segments[n] = (uint16_t)segments;
        if (segments > 1) {
            struct cmsghdr *control = &batch->controls[n].align;
            uint16_t size = (uint16_t)first->length;
            message->msg_control = &batch->controls[n];
            message->msg_controllen = sizeof batch->controls[n];
            control->cmsg_level = UDP_LEVEL;
            control->cmsg_type = UDP_OPTION_SEGMENT;
            control->cmsg_len = CMSG_LEN(sizeof size);
            memcpy(CMSG_DATA(control), &size, sizeof size);
        }
    }
    return at;
}

/* Sends a message's datagrams one by one: together they do not go, on a path with a small MTU say. 0: no room. */
static int send_apart(struct job *job, struct zks_udp_flow *flow, udp_socket fd, const struct batch *batch, uint32_t n)
{
    int at = batch->first[n];
    uint32_t left = batch->segments[n];
    for (; left; left--, at = job->items[at].next)
        if (!send_one(job, flow, fd, &job->items[at])) {
            job->sent->dropped += left;
            return 0;
        }
    return 1;
}

/* Sends the messages of a batch. 0: there is no room for more; what had none is counted. */
static int send_batch(struct job *job, struct zks_udp_flow *flow, udp_socket fd, struct batch *batch)
{
    uint32_t done = 0, room = 1;
    while (done < batch->count && room) {
        int n = sendmmsg(fd, batch->messages + done, batch->count - done, UDP_FLAGS), error = errno;
        if (n > 0) {
            for (; n > 0; n--)
                job->sent->datagrams += batch->segments[done++];
        } else if (udp_would_block(error)) {
            room = 0;
        } else if (!udp_interrupted(error)) {
            flow->errors = 1; /* it may be the late error of an earlier datagram */
            room = (uint32_t)send_apart(job, flow, fd, batch, done++);
        }
    }
    for (; done < batch->count; done++)
        job->sent->dropped += batch->segments[done];
    return room != 0;
}

static void send_chain(struct job *job, struct zks_udp_flow *flow, udp_socket fd, int at)
{
    struct batch batch;
    if (job->flags & ZKS_UDP_ONE_BY_ONE || job->items[at].next < 0) {
        send_chain_singly(job, flow, fd, at);
        return;
    }
    while (at >= 0) {
        at = fill(job, &batch, at);
        if (!send_batch(job, flow, fd, &batch)) {
            job->sent->dropped += count_from(job, at);
            return;
        }
    }
}
#else
static void send_chain(struct job *job, struct zks_udp_flow *flow, udp_socket fd, int at)
{
    send_chain_singly(job, flow, fd, at);
}
#endif

static uint32_t find_flow(const struct zks_udp_flow *flows, uint32_t count, uint32_t last, uint32_t association)
{
    uint32_t i;
    if (last < count && flows[last].association == association)
        return last;
    for (i = 0; i < count && flows[i].association != association; i++)
        ;
    return i;
}

int zks_udp_send(const zks_udp_hosts *hosts, const uint8_t *frames, size_t size, struct zks_udp_flow *flows,
                 uint32_t flow_count, int flags, struct zks_udp_sent *sent, struct zks_udp_problem *problems)
{
    struct job job;
    struct udp_frame frame;
    uint32_t n = 0, i, flow = FLOWS;
    int result = ZKS_UDP_DONE;
    memset(sent, 0, sizeof *sent);
    job.sent = sent;
    job.problems = problems;
    job.flags = flags;
    if (flow_count > FLOWS)
        flow_count = FLOWS;
    for (i = 0; i < 2 * flow_count; i++)
        job.chains[i].first = -1;
    for (; n < MOST && udp_frame_read(&frame, frames + sent->offset, size - sent->offset); sent->offset += frame.size) {
        struct item *item = &job.items[n];
        struct chain *chain;
        item->host = udp_host_by_text(hosts, frame.host, frame.host_length);
        if (!item->host) {
            result = ZKS_UDP_HOST;
            break;
        }
        item->offset = sent->offset;
        item->payload = frame.payload;
        item->length = frame.length;
        item->port = frame.port;
        item->next = -1;
        flow = find_flow(flows, flow_count, flow, frame.association);
        if (item->host->verdict == ZKS_UDP_NONSENSE || !frame.port || flow == flow_count) {
            sent->dropped++;
            continue;
        }
        if (item->host->verdict == ZKS_UDP_REFUSED) {
            note_problem(&job, item, 0);
            n++; /* no more problems than items */
            continue;
        }
        if ((item->host->family == 4 ? flows[flow].fd4 : flows[flow].fd6) < 0) {
            result = ZKS_UDP_SOCKET;
            break;
        }
        chain = &job.chains[2 * flow + (item->host->family == 6)];
        if (chain->first < 0)
            chain->first = (int16_t)n;
        else
            job.items[chain->last].next = (int16_t)n;
        chain->last = (int16_t)n++;
    }
    for (i = 0; i < 2 * flow_count; i++)
        if (job.chains[i].first >= 0)
            send_chain(&job, &flows[i / 2], (udp_socket)(i & 1 ? flows[i / 2].fd6 : flows[i / 2].fd4),
                       job.chains[i].first);
    return result;
}
