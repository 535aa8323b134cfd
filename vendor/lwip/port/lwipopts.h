/* How zks_lwip builds lwIP 2.2.1: no OS, no sockets, TCP over one point-to-point interface. What is not named here
 * keeps the default of lwip/opt.h. */
#ifndef ZKS_LWIPOPTS_H
#define ZKS_LWIPOPTS_H

/* No threads inside lwIP: core/context.c holds one lock around every call, core/flow_timer.c runs the timers. */
#define NO_SYS 1
#define SYS_LIGHTWEIGHT_PROT 0
#define LWIP_TIMERS 0
#define LWIP_NETCONN 0
#define LWIP_SOCKET 0
#define LWIP_DONT_PROVIDE_BYTEORDER_FUNCTIONS 1 /* htonl() and its kin are the system's (winsock2.h) */

/* Memory comes from the heap, through the allocator of core/mem.c, so nothing is sized in advance. */
#define MEM_CUSTOM_ALLOCATOR 1
#define MEM_CUSTOM_MALLOC zks_mem_malloc
#define MEM_CUSTOM_CALLOC zks_mem_calloc
#define MEM_CUSTOM_FREE zks_mem_free
#define MEMP_MEM_MALLOC 1
#define MEM_ALIGNMENT 16
#define MEM_SIZE 0x7fffffff /* makes mem_size_t 32 bits wide */

/* One interface whose address is set, packet by packet, to the packet's destination. */
#define LWIP_SINGLE_NETIF 1
#define LWIP_ARP 0
#define LWIP_ETHERNET 0
#define LWIP_HAVE_LOOPIF 0
#define LWIP_NETIF_LOOPBACK 0
#define LWIP_IPV4 1
#define LWIP_IPV6 1
#define LWIP_IPV6_MLD 0
#define LWIP_IPV6_SCOPES 0
#define LWIP_IPV6_AUTOCONFIG 0
#define LWIP_IPV6_SEND_ROUTER_SOLICIT 0
#define LWIP_IPV6_DUP_DETECT_ATTEMPTS 0
#define LWIP_ND6_ALLOW_RA_UPDATES 0
#define LWIP_ND6_QUEUEING 0
#define IP_FORWARD 0
#define LWIP_MULTICAST_TX_OPTIONS 0
#define LWIP_IGMP 0
#define IP_OPTIONS_ALLOWED 0

/* Our core itself takes in, puts together and sends all that is not TCP. lwIP 2.2.1 does not link without ICMPv6,
 * of which nothing reaches it. */
#define LWIP_RAW 0
#define LWIP_UDP 0
#define LWIP_ICMP 0
#define LWIP_ICMP6 1
#define LWIP_DNS 0
#define LWIP_DHCP 0

#define IP_REASSEMBLY 0
#define IP_FRAG 0
#define LWIP_IPV6_REASS 0
#define LWIP_IPV6_FRAG 0

/* Checksums are verified and made by our core, which knows what the device has offloaded. */
#define CHECKSUM_GEN_IP 1
#define CHECKSUM_GEN_TCP 0
#define CHECKSUM_GEN_ICMP6 1
#define CHECKSUM_CHECK_IP 0
#define CHECKSUM_CHECK_TCP 0
#define CHECKSUM_CHECK_ICMP6 0
#define LWIP_CHECKSUM_ON_COPY 0

/* TCP towards this machine's own kernel: no loss, microseconds of round trip, windows that keep it busy. */
#define LWIP_TCP 1
#define LWIP_CALLBACK_API 1
#define LWIP_WND_SCALE 1
#define TCP_RCV_SCALE 4
#define TCP_WND (1048560) /* 0xffff << TCP_RCV_SCALE: the most that the scale can say */
#define TCP_MSS 65495     /* 65,535 less the headers; per flow the device's MTU and the peer's MSS bound it */
#define TCP_SND_BUF (1048560)
#define TCP_SND_QUEUELEN 8192
#define TCP_SNDLOWAT 65535
#define TCP_SNDQUEUELOWAT 4096
#define TCP_WND_UPDATE_THRESHOLD (TCP_WND / 2) /* what arrives is acknowledged at once, and carries the window, too */
#define TCP_OVERSIZE 0 /* at an MSS of 64 KB it would give every small write a buffer of 64 KB */
#define TCP_QUEUE_OOSEQ 1
#define TCP_OOSEQ_MAX_BYTES 1048560
#define TCP_OOSEQ_MAX_PBUFS 1024
#define LWIP_TCP_SACK_OUT 1
#define TCP_CALCULATE_EFF_SEND_MSS 1
#define TCP_LISTEN_BACKLOG 0
#define TCP_MSL 1000UL /* TIME_WAIT for 2 s: the peer is this machine's own kernel */
#define LWIP_TCP_RTO_TIME 1000
#define SO_REUSE 0
#define LWIP_DISABLE_TCP_SANITY_CHECKS 1 /* its checks of 16-bit limits are for an MSS of at most 16,382 */
#define PBUF_POOL_BUFSIZE 1600           /* not used, but its default overflows 16 bits at this MSS */
#define LWIP_HOOK_FILENAME "zks_hooks.h"
#define LWIP_HOOK_TCP_ISN zks_tcp_isn
#define LWIP_HOOK_TCP_OUT_ADD_TCPOPTS zks_tcp_out

#define LWIP_STATS 0
#define LWIP_NETIF_TX_SINGLE_PBUF 0
#define LWIP_SUPPORT_CUSTOM_PBUF 1

#endif
