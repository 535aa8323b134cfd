/* The packet pump: reads the device in batches, runs lwIP, keeps its clock. Runs without Python's lock. */
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

#else
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define BATCH 16
#define BUFFER_SIZE (ZKS_MAX_PACKET + 64u)
#define FRAME_OFFSET 6u /* so that the IP header behind a 10-byte vnet header is aligned */
#define GSO_TYPE 0x7fu  /* of virtio_net_hdr.gso_type, without ECN */
#define GSO_UDP_L4 5u

/* A buffer that lwIP may keep: when the last reference to its pbuf goes, so does it. */
struct rx_buffer {
    struct pbuf_custom custom; /* first: the pbuf's address is the buffer's */
    uint8_t data[];
};

static void rx_buffer_free(struct pbuf *p) { zks_mem_free(p); }

/* Under the core lock, like all that allocates. */
static void refill(zks_core *core, struct rx_buffer **buffers)
{
    int i;
    for (i = 0; i < BATCH && buffers[i]; i++)
        ;
    for (; i < BATCH; i++) {
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
static int read_batch(zks_core *core, struct rx_buffer **buffers, uint32_t *lengths)
{
    int n = 0;
    while (n < BATCH && buffers[n]) {
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

int zks_pump_run(zks_core *core)
{
    struct rx_buffer *buffers[BATCH] = {0};
    uint32_t lengths[BATCH];
    struct pollfd polled[2];
    int n, i, result = ZKS_OK, running = 1;
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
    refill(core, buffers);
    core_leave(core);
    while (running) {
        n = read_batch(core, buffers, lengths);
        if (n < 0) {
            result = ZKS_DEVICE;
            break;
        }
        core_enter(core);
        core->pump_sleeps = 0;
        core_advance(core, zks_now_ms());
        for (i = 0; i < n; i++) {
            process(core, &buffers[i], lengths[i]);
            if (zks_lock_due()) {
                core_leave(core);
                core_enter(core);
            }
        }
        flow_acknowledge(core);
        refill(core, buffers);
        wait = core_wait(core);
        if (n == BATCH)
            wait = 0; /* there may be more: look at the pipe, and go on */
        else if (!buffers[0])
            wait = 10; /* no memory to read into: try again, without spinning */
        core_sleep(core, &wait, n > 0, &alert_ms);
        core_leave(core);
        if (poll(polled, 2, (int)wait) < 0 && errno != EINTR) {
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
    zks_lock_acquire();
    for (i = 0; i < BATCH; i++)
        zks_mem_free(buffers[i]);
    zks_lock_release();
    return result;
}
#endif
