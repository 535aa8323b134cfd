/* The packet pump: reads the device in batches, runs lwIP, keeps its clock. Runs without Python's lock.
 *
 * While packets are few it lends the device to the thread that handles their events: each then wakes one thread and not
 * two. It looks again and again, and takes back what is busy, quiet, or not read. */
#include "core.h"
#include "device_in.h"
#include "flow_input.h"
#include "platform.h"
#include "wintun.h"

int zks_device_errno(zks_core *core) { return core->device_errno; }

#if defined(_WIN32)

/* No device has a descriptor there: zks_wintun_attach. */
int zks_device_attach(zks_core *core, int fd, int framing)
{
    (void)core, (void)fd, (void)framing;
    return ZKS_INVALID;
}

int zks_pump_run(zks_core *core) { return core->wintun.session ? wintun_pump(core) : ZKS_INVALID; }

void zks_pump_stop(zks_core *core)
{
    if (core->wintun.session)
        wintun_stop(core);
}

void zks_pump_lends(zks_core *core) { (void)core; }

int zks_pump_take(zks_core *core)
{
    (void)core;
    return 0;
}

#else
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define BUFFER_SIZE (ZKS_MAX_PACKET + 64u)
#define FRAME_OFFSET 6u /* so that the IP header behind a 10-byte vnet header is aligned */
#define GSO_TYPE 0x7fu  /* of virtio_net_hdr.gso_type, without ECN */
#define GSO_UDP_L4 5u

/* A device is lent, and stays so, where in LOOK_MS its packets both ways were few, but not fewer than MIN_PACKETS. */
#define LOOK_MS 3u
#define MIN_PACKETS 3u
#define MAX_PACKETS 30u  /* a millisecond: where more come, the pump's thread hands them over together */
#define MAX_BYTES 16384u /* a millisecond */

/* A buffer that lwIP may keep: when the last reference to its pbuf goes, so does it. */
struct rx_buffer {
    struct pbuf_custom custom; /* first: the pbuf's address is the buffer's */
    uint8_t data[];
};

static void rx_buffer_free(struct pbuf *p) { zks_mem_free(p); }

/* Under the core lock, like all that allocates. */
static void refill(zks_core *core)
{
    struct rx_buffer **buffers = core->rx_buffers;
    int i;
    for (i = 0; i < ZKS_BATCH && buffers[i]; i++)
        ;
    for (; i < ZKS_BATCH; i++) {
        if (buffers[i])
            continue;
        buffers[i] = zks_mem_malloc(sizeof **buffers + BUFFER_SIZE);
        if (!buffers[i]) {
            core_count(core, ZKS_C_NO_MEMORY);
            return;
        }
        buffers[i]->custom.custom_free_function = rx_buffer_free;
    }
}

int zks_device_attach(zks_core *core, int fd, int framing)
{
    int i, flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return ZKS_INVALID;
    if (core->pump_pipe[0] < 0) {
        if (pipe(core->pump_pipe) != 0)
            return ZKS_NOMEM;
        for (i = 0; i < 2; i++) {
            fcntl(core->pump_pipe[i], F_SETFD, FD_CLOEXEC);
            fcntl(core->pump_pipe[i], F_SETFL, O_NONBLOCK);
        }
    }
    core_enter(core);
    core->fd = fd;
    core->framing = framing;
    core->now_ms = core->last_tick_ms = zks_now_ms();
    /* The MSS that we announce and the segments that we make: as large as offloads carry them. */
    core->netif.mtu = (u16_t)(framing == ZKS_FRAMING_VNET ? ZKS_MAX_PACKET : core->config.mtu);
    core_leave(core);
    return ZKS_OK;
}

void zks_pump_stop(zks_core *core)
{
    if (core->wintun.session)
        wintun_stop(core);
    else if (core->pump_pipe[1] >= 0)
        (void)!write(core->pump_pipe[1], "s", 1);
}

/* Packets into buffers until the device has no more or the batch is full. */
static int read_batch(zks_core *core, uint32_t *lengths)
{
    struct rx_buffer **buffers = core->rx_buffers;
    int n = 0;
    while (n < ZKS_BATCH && buffers[n]) {
        ssize_t got = read(core->fd, buffers[n]->data + FRAME_OFFSET, ZKS_MAX_PACKET + 10u);
        if (got < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN && errno != EWOULDBLOCK) {
                core->device_errno = errno;
                return n ? n : -1;
            }
            break;
        }
        if (got == 0) {
            core->device_errno = EIO; /* end of file: the device has gone */
            return n ? n : -1;
        }
        lengths[n++] = (uint32_t)got;
    }
    return n;
}

static void process(zks_core *core, struct rx_buffer **buffer, uint32_t length)
{
    uint8_t *bytes = (*buffer)->data + FRAME_OFFSET;
    uint32_t skip = core->framing == ZKS_FRAMING_VNET ? 10 : core->framing == ZKS_FRAMING_UTUN ? 4 : 0;
    int trusted = 0;
    uint16_t each;
    if (length < skip) {
        core_count(core, ZKS_C_DROP_FIRST + ZKS_DROP_SHORT);
        return;
    }
    if (core->framing == ZKS_FRAMING_VNET && (bytes[1] & GSO_TYPE) == GSO_UDP_L4) {
        memcpy(&each, bytes + 4, 2); /* gso_size */
        device_input_uncut(core, bytes + skip, length - skip, each);
        return;
    }
    /* NEEDS_CSUM or DATA_VALID: it comes from this kernel, or the kernel has verified it. */
    if (core->framing == ZKS_FRAMING_VNET)
        trusted = bytes[0] & 3;
    if (device_input(core, bytes + skip, length - skip, trusted, &(*buffer)->custom))
        *buffer = NULL;
}

void zks_pump_lends(zks_core *core)
{
    core_enter(core);
    core->lends = 1;
    core_leave(core);
}

int zks_pump_take(zks_core *core)
{
    uint32_t lengths[ZKS_BATCH];
    int n, i, lent;
    if (!core)
        return 0;
    core_enter(core); /* throughout: the pump takes the device back, with the buffers, under the lock */
    lent = core->lent;
    if (lent) {
        n = read_batch(core, lengths); /* of an error the pump takes note */
        core_advance(core, zks_now_ms());
        for (i = 0; i < n; i++)
            process(core, &core->rx_buffers[i], lengths[i]);
        if (n > 0)
            core->counters[ZKS_C_PACKETS_BORROWED] += (uint64_t)n;
        flow_acknowledge(core);
        refill(core);
        core->wake_sent = 1;
    }
    core_leave(core);
    return lent;
}

/* What has moved before the last look. */
struct traffic {
    uint64_t ms, packets, bytes;
};

/* Lends the device, or takes it back, by what has moved since the last look. */
static void review(zks_core *core, struct traffic *seen)
{
    const uint64_t *counters = core->counters;
    uint64_t passed = core->now_ms - seen->ms;
    uint64_t packets = counters[ZKS_C_PACKETS_IN] + counters[ZKS_C_PACKETS_OUT];
    uint64_t bytes = counters[ZKS_C_BYTES_IN] + counters[ZKS_C_BYTES_OUT];
    int few;
    if (passed < LOOK_MS)
        return;
    few = packets - seen->packets >= MIN_PACKETS && packets - seen->packets <= passed * MAX_PACKETS &&
          bytes - seen->bytes <= passed * MAX_BYTES;
    seen->ms = core->now_ms;
    seen->packets = packets;
    seen->bytes = bytes;
    if (core->lent) {
        core->lent = (uint8_t)few;
    } else if (few && core->lends && passed < 2 * LOOK_MS && !core->device_event) {
        core->lent = core->device_event = 1; /* not while the owner has not even heard of the last time */
    }
}

int zks_pump_run(zks_core *core)
{
    uint32_t lengths[ZKS_BATCH];
    struct pollfd polled[2];
    struct traffic seen = {0};
    int n, i, result = ZKS_OK, running = 1, lent = 0;
    int64_t wait = 0;
    uint64_t alert_ms = 0;
    char commands[64];

    if (core->wintun.session)
        return wintun_pump(core);
    if (core->fd < 0)
        return ZKS_INVALID;
    polled[0].fd = core->fd;
    polled[0].events = POLLIN;
    polled[1].fd = core->pump_pipe[0];
    polled[1].events = POLLIN;
    core_enter(core);
    refill(core);
    core_leave(core);
    while (running) {
        n = lent ? 0 : read_batch(core, lengths);
        if (n < 0) {
            result = ZKS_DEVICE;
            break;
        }
        core_enter(core);
        core->pump_sleeps = 0;
        core_advance(core, zks_now_ms());
        for (i = 0; i < n; i++) {
            process(core, &core->rx_buffers[i], lengths[i]);
            if (zks_lock_due()) {
                core_leave(core);
                core_enter(core);
            }
        }
        flow_acknowledge(core);
        refill(core);
        review(core, &seen);
        wait = core_wait(core);
        if (n == ZKS_BATCH)
            wait = 0; /* there may be more: look at the pipe, and go on */
        else if (!core->rx_buffers[0])
            wait = 10; /* no memory to read into: try again, without spinning */
        core_sleep(core, &wait, n > 0 || core->lent, &alert_ms);
        lent = core->lent;
        if (lent && wait > (int64_t)LOOK_MS)
            wait = LOOK_MS;
        core_leave(core);
        polled[0].revents = 0;
        if (poll(polled + lent, 2 - (nfds_t)lent, (int)wait) < 0 && errno != EINTR) {
            core->device_errno = errno;
            result = ZKS_DEVICE;
            break;
        }
        if (polled[1].revents & POLLIN) {
            ssize_t got = read(core->pump_pipe[0], commands, sizeof commands);
            for (i = 0; i < (int)got; i++)
                if (commands[i] == 's')
                    running = 0;
        }
        if ((polled[0].revents & (POLLERR | POLLHUP | POLLNVAL)) && !(polled[0].revents & POLLIN)) {
            core->device_errno = EIO;
            result = ZKS_DEVICE;
            break;
        }
    }
    core_enter(core);
    core->lent = 0;
    for (i = 0; i < ZKS_BATCH; i++) {
        zks_mem_free(core->rx_buffers[i]);
        core->rx_buffers[i] = NULL;
    }
    core_leave(core);
    return result;
}
#endif
