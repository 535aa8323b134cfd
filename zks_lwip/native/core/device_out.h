/* Packets to the device, or to the queue where there is none. */
#ifndef ZKS_DEVICE_OUT_H
#define ZKS_DEVICE_OUT_H
#include "context.h"

struct queued_packet {
    struct queued_packet *next;
    uint32_t length;
    uint8_t data[];
};

/* Sends one packet; lost where there is no room. */
err_t device_output(zks_core *core, struct pbuf *p);
/* The same, as lwIP calls it for its interface. */
err_t device_output4(struct netif *netif, struct pbuf *p, const ip4_addr_t *to);
err_t device_output6(struct netif *netif, struct pbuf *p, const ip6_addr_t *to);
#if !defined(_WIN32)
struct iovec;
/* Writes one packet of so many bytes, framed already, to the device that there is; lost where there is no room. */
void device_write(zks_core *core, const struct iovec *iov, int n, uint32_t length);
#endif
void device_teardown(zks_core *core);

#endif
