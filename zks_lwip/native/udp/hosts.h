/* The table of hosts: what was decided of destinations and of sources. */
#ifndef ZKS_UDP_HOSTS_H
#define ZKS_UDP_HOSTS_H
#include "frame.h"
#include "zks_udp_sockets.h"

struct udp_host {
    uint8_t verdict; /* ZKS_UDP_ALLOWED ..., 0: the place is free */
    uint8_t family;  /* 4 or 6 */
    uint8_t length;  /* of the text */
    uint8_t text[UDP_FRAME_HOST];
    uint8_t address[16];
};

/* Returns what is known, or NULL. It is valid until the next call that puts or clears. */
const struct udp_host *udp_host_by_text(const zks_udp_hosts *hosts, const uint8_t *text, uint32_t length);
const struct udp_host *udp_host_by_address(const zks_udp_hosts *hosts, int family, const uint8_t *address);

#endif
