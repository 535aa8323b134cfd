/* Packets to the device, or to a queue where there is none: checksums, framing and offloads. */
#include "device_out.h"

#include <string.h>

#include "flow_table.h"

#if !defined(_WIN32)
#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>
#endif

static void write_checksum(uint8_t *b, uint32_t length)
{
    struct zks_packet packet;
    uint8_t *t;
    if (zks_packet_parse(&packet, b, length, 0) != ZKS_PACKET_OK || packet.fragment || packet.protocol != ZKS_PROTO_TCP)
        return;
    t = b + packet.payload;
    zks_put16(t + 16, 0);
    length = packet.length - packet.payload;
    zks_put16(t + 16, (uint16_t)~zks_fold(zks_sum(zks_sum_pseudo(packet.source.family, packet.source.bytes,
                                                                 packet.destination.bytes, ZKS_PROTO_TCP, length),
                                                  t, length)));
}

static err_t queue_packet(zks_core *core, struct pbuf *p)
{
    struct queued_packet *q;
    if (core->output_bytes + p->tot_len > core->config.max_output || !(q = malloc(sizeof *q + p->tot_len))) {
        core_count(core, ZKS_C_OUTPUT_DROPPED);
        return ERR_OK; /* lost, as on any link; TCP sends it again */
    }
    q->next = NULL;
    q->length = p->tot_len;
    pbuf_copy_partial(p, q->data, p->tot_len, 0);
    write_checksum(q->data, q->length);
    if (core->output_first)
        core->output_last->next = q;
    else
        core->output_first = q;
    core->output_last = q;
    core->output_bytes += q->length;
    return ERR_OK;
}

int zks_packet_output(zks_core *core, uint8_t *buffer, size_t size, uint32_t *lengths, int most)
{
    size_t used = 0;
    int n = 0;
    if (!core)
        return 0;
    core_enter(core);
    while (core->output_first && n < most && core->output_first->length <= size - used) {
        struct queued_packet *q = core->output_first;
        core->output_first = q->next;
        core->output_bytes -= q->length;
        memcpy(buffer + used, q->data, q->length);
        used += q->length;
        lengths[n++] = q->length;
        free(q);
    }
    core_leave(core);
    return n;
}

#if !defined(_WIN32)
#define VNET_HEADER 10
enum { VNET_NEEDS_CSUM = 1, VNET_GSO_TCPV4 = 1, VNET_GSO_TCPV6 = 4 };

/* virtio_net_hdr (virtio 1.2 §5.1.6), in the machine's byte order as TUN has it: the kernel finishes the TCP
 * checksum and cuts a large segment. */
static void write_vnet(zks_core *core, uint8_t *header, uint8_t *b, uint32_t first, uint32_t total)
{
    struct zks_packet reply;
    uint32_t ip = (b[0] >> 4) == 4 ? 20 : 40, tcp, mss;
    uint16_t field;
    uint8_t *t = b + ip;
    memset(header, 0, VNET_HEADER);
    if (first < ip + 20 || (ip == 20 ? b[9] : b[6]) != ZKS_PROTO_TCP)
        return;
    memset(&reply, 0, sizeof reply);
    reply.source.family = reply.destination.family = b[0] >> 4;
    if (ip == 20) {
        memcpy(reply.source.bytes, b + 16, 4);
        memcpy(reply.destination.bytes, b + 12, 4);
    } else {
        memcpy(reply.source.bytes, b + 24, 16);
        memcpy(reply.destination.bytes, b + 8, 16);
    }
    zks_put16(t + 16, zks_fold(zks_sum_pseudo(reply.source.family, reply.source.bytes, reply.destination.bytes,
                                              ZKS_PROTO_TCP, total - ip)));
    header[0] = VNET_NEEDS_CSUM;
    field = (uint16_t)ip;
    memcpy(header + 6, &field, 2); /* csum_start */
    field = 16;
    memcpy(header + 8, &field, 2); /* csum_offset */
    tcp = (t[12] >> 4) * 4u;
    reply.source_port = zks_get16(t + 2);
    reply.destination_port = zks_get16(t);
    mss = flow_mss(core, &reply);
    if (total > ip + tcp + mss) {
        header[1] = ip == 20 ? VNET_GSO_TCPV4 : VNET_GSO_TCPV6;
        field = (uint16_t)(ip + tcp);
        memcpy(header + 2, &field, 2); /* hdr_len */
        field = (uint16_t)mss;
        memcpy(header + 4, &field, 2); /* gso_size */
    }
}

static void write_all(zks_core *core, const struct iovec *iov, int n)
{
    ssize_t written;
    do {
        written = writev(core->fd, iov, n);
    } while (written < 0 && errno == EINTR);
    if (written < 0)
        /* A full or vanished device loses packets, as any link; the pump notices when it has gone for good. */
        core_count(core, ZKS_C_OUTPUT_DROPPED);
}

void device_write(zks_core *core, const struct iovec *iov, int n, uint32_t length)
{
    core->counters[ZKS_C_PACKETS_OUT]++;
    core->counters[ZKS_C_BYTES_OUT] += length;
    write_all(core, iov, n);
}

static err_t write_packet(zks_core *core, struct pbuf *p)
{
    struct iovec iov[34];
    uint8_t header[VNET_HEADER];
    int n = 0;
    struct pbuf *q;
    uint8_t *first = p->payload;
    if (core->framing == ZKS_FRAMING_VNET) {
        write_vnet(core, header, first, p->len, p->tot_len);
        iov[n].iov_base = header;
        iov[n++].iov_len = VNET_HEADER;
    } else if (core->framing == ZKS_FRAMING_UTUN) {
        memset(header, 0, 4);
        header[3] = (first[0] >> 4) == 4 ? 2 : 30; /* AF_INET, AF_INET6 of macOS */
        iov[n].iov_base = header;
        iov[n++].iov_len = 4;
    }
    if (core->framing != ZKS_FRAMING_VNET || pbuf_clen(p) > 32) {
        pbuf_copy_partial(p, core->scratch, p->tot_len, 0);
        if (core->framing != ZKS_FRAMING_VNET)
            write_checksum(core->scratch, p->tot_len);
        iov[n].iov_base = core->scratch;
        iov[n++].iov_len = p->tot_len;
    } else {
        for (q = p; q; q = q->next) {
            if (!q->len)
                continue;
            iov[n].iov_base = q->payload;
            iov[n++].iov_len = q->len;
        }
    }
    write_all(core, iov, n);
    return ERR_OK;
}
#endif

/* A full ring loses packets, as any link; of an adapter that has gone the pump is told, too. */
static err_t write_wintun(zks_core *core, struct pbuf *p)
{
    uint8_t *room = core->wintun.allocate(core->wintun.session, p->tot_len);
    if (!room) {
        core_count(core, ZKS_C_OUTPUT_DROPPED);
        return ERR_OK;
    }
    pbuf_copy_partial(p, room, p->tot_len, 0);
    write_checksum(room, p->tot_len);
    core->wintun.send(core->wintun.session, room);
    return ERR_OK;
}

err_t device_output(zks_core *core, struct pbuf *p)
{
    uint8_t *b = p->payload;
    uint32_t ip = (b[0] >> 4) == 4 ? 20 : 40;
    /* What is sent while a flow is at work is a segment of it. */
    if (core->current && p->len >= ip + 20) {
        core->current->acked = zks_get32(b + ip + 8);
        if ((b[ip + 13] & ZKS_TCP_SYN) && core->current->first_window &&
            zks_get16(b + ip + 14) > core->current->first_window)
            zks_put16(b + ip + 14, core->current->first_window);
    }
    core->counters[ZKS_C_PACKETS_OUT]++;
    core->counters[ZKS_C_BYTES_OUT] += p->tot_len;
    if (core->wintun.session)
        return write_wintun(core, p);
#if !defined(_WIN32)
    if (core->fd >= 0)
        return write_packet(core, p);
#endif
    return queue_packet(core, p);
}

err_t device_output4(struct netif *netif, struct pbuf *p, const ip4_addr_t *to)
{
    (void)to;
    return device_output(netif->state, p);
}

err_t device_output6(struct netif *netif, struct pbuf *p, const ip6_addr_t *to)
{
    (void)to;
    return device_output(netif->state, p);
}

void device_teardown(zks_core *core)
{
    while (core->output_first) {
        struct queued_packet *q = core->output_first;
        core->output_first = q->next;
        free(q);
    }
    core->output_bytes = 0;
#if !defined(_WIN32)
    if (core->pump_pipe[0] >= 0) {
        close(core->pump_pipe[0]);
        close(core->pump_pipe[1]);
        core->pump_pipe[0] = core->pump_pipe[1] = -1;
    }
#endif
}
