/* What lwIP calls of ours, but for the allocator (mem.c): its clock, random numbers, initial sequence numbers, what an
 * ACK says, and the end of the process where one of its assertions fails. */
#include <stdio.h>
#include <string.h>

#include "lwip/priv/tcp_priv.h"

#include "context.h"
#include "platform.h"
#include "siphash.h"
#include "zks_hooks.h"

/* lwIP calls some of these from within a call for no core in particular: then the newest will do. */
static const zks_core *core_of_call(void) { return core_current ? core_current : core_newest; }

void zks_assert_failed(const char *message, const char *file, int line)
{
    fprintf(stderr, "zks_lwip: lwIP's assertion failed: %s (%s:%d)\n", message, file, line);
    abort();
}

static void address_bytes(uint8_t *out, const ip_addr_t *ip)
{
    memset(out, 0, 16);
    if (IP_IS_V4(ip))
        memcpy(out, ip_2_ip4(ip), 4);
    else
        memcpy(out, ip_2_ip6(ip)->addr, 16);
}

/* RFC 6528: a keyed hash of the four-tuple, and a clock that moves on between incarnations of it. */
u32_t zks_tcp_isn(const ip_addr_t *local_ip, u16_t local_port, const ip_addr_t *remote_ip, u16_t remote_port)
{
    uint8_t local[16], remote[16], key[16];
    const zks_core *core = core_of_call();
    size_t i;
    address_bytes(local, local_ip);
    address_bytes(remote, remote_ip);
    for (i = 0; i < sizeof key; i++)
        key[i] = core->config.seed[i] ^ 0x5a; /* not the table's key: sequence numbers are seen outside */
    return (u32_t)siphash_tuple(key, local, local_port, remote, remote_port) + (u32_t)(zks_now_ms() * 250u);
}

/* The place for options of our own, of which there are none.
 *
 * A kernel that has no memory for what we sent takes its window back to what it has (RFC 9293, 3.8.6: be prepared for
 * that). An ACK without data would say SND.NXT, which is beyond that window: the kernel drops it with what it
 * acknowledges, and both directions stand still until its program reads. So it says the end of the window, as Linux'
 * own do (tcp_acceptable_seq). */
u32_t *zks_tcp_out(struct pbuf *p, struct tcp_hdr *header, const struct tcp_pcb *pcb, u32_t *options)
{
    if (pcb != NULL && TCPH_FLAGS(header) == TCP_ACK && p->tot_len == TCPH_HDRLEN_BYTES(header) &&
        header->seqno == lwip_htonl(pcb->snd_nxt)) {
        u32_t end = pcb->lastack + pcb->snd_wnd;
        if (TCP_SEQ_LT(end, pcb->snd_nxt))
            header->seqno = lwip_htonl(end);
    }
    return options;
}

uint32_t zks_rand32(void)
{
    static uint64_t counter;
    const zks_core *core = core_of_call();
    uint64_t in[2];
    in[0] = ++counter;
    in[1] = zks_now_ms();
    return (uint32_t)siphash(core ? core->config.seed : (const uint8_t *)"zks_lwip........", (uint8_t *)in, sizeof in);
}

/* lwIP's clock, in ms; it asks within our calls only. */
u32_t sys_now(void) { return (u32_t)(core_current ? core_current->now_ms : zks_now_ms()); }
