/* What lwIP calls of ours beyond arch/cc.h: initial sequence numbers (RFC 6528), and the last word on a segment. */
#ifndef ZKS_HOOKS_H
#define ZKS_HOOKS_H
#include "lwip/ip_addr.h"

struct pbuf;
struct tcp_hdr;
struct tcp_pcb;

u32_t zks_tcp_isn(const ip_addr_t *local_ip, u16_t local_port, const ip_addr_t *remote_ip, u16_t remote_port);
u32_t *zks_tcp_out(struct pbuf *p, struct tcp_hdr *header, const struct tcp_pcb *pcb, u32_t *options);

#endif
