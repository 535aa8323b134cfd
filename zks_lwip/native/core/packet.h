/* Packets taken apart and checked, before lwIP sees them. No state, no lwIP. */
#ifndef ZKS_PACKET_H
#define ZKS_PACKET_H
#include <stddef.h>
#include <stdint.h>

struct zks_address {
    uint8_t bytes[16]; /* network order; IPv4 in the first four, the rest zero */
    uint8_t family;    /* 4 or 6 */
};

/* Why a packet was dropped. The names are counters, in this order. */
#define ZKS_DROPS(X)                                                                              \
    X(SHORT, drop_short)                /* shorter than its header says */                        \
    X(VERSION, drop_version)            /* neither IPv4 nor IPv6 */                               \
    X(HEADER, drop_header)              /* IHL, header checksum or length wrong */                \
    X(OPTIONS, drop_ip_options)         /* IPv4 options */                                        \
    X(EXTENSION, drop_extension_header) /* an IPv6 extension header that is wrong or not ours */  \
    X(MARTIAN, drop_martian)            /* an address that cannot be a source or a destination */ \
    X(MULTICAST, drop_multicast)        /* to a multicast address */                              \
    X(BROADCAST, drop_broadcast)        /* to 255.255.255.255 */                                  \
    X(PROTOCOL, drop_protocol)          /* neither TCP, UDP nor ICMP: told by ICMP */             \
    X(FRAGMENT, drop_fragment)          /* offset, length or kind of a fragment wrong */          \
    X(TCP_HEADER, drop_tcp_header)      /* data offset or flags wrong */                          \
    X(TCP_OPTIONS, drop_tcp_options)    /* an option list that does not add up */                 \
    X(UDP_HEADER, drop_udp_header)      /* length wrong */                                        \
    X(ICMP_HEADER, drop_icmp_header)    /* too short, or a type that is not ours to answer */     \
    X(CHECKSUM, drop_checksum)          /* of TCP, UDP or ICMP */                                 \
    X(REASSEMBLY, drop_reassembly)      /* a datagram that did not become whole in time */

enum zks_drop {
#define X(upper, lower) ZKS_DROP_##upper,
    ZKS_DROPS(X)
#undef X
        ZKS_DROP_REASONS,
    ZKS_PACKET_OK = ZKS_DROP_REASONS
};

enum { ZKS_PROTO_ICMP = 1, ZKS_PROTO_TCP = 6, ZKS_PROTO_UDP = 17, ZKS_PROTO_FRAGMENT = 44, ZKS_PROTO_ICMP6 = 58 };
enum { ZKS_TCP_FIN = 1, ZKS_TCP_SYN = 2, ZKS_TCP_RST = 4, ZKS_TCP_ACK = 16 };

#define ZKS_MAX_CHAIN 512u /* bytes of an IPv6 header with its extension headers */

struct zks_packet {
    struct zks_address source, destination;
    uint32_t length;      /* of the packet; what follows it is padding */
    uint32_t payload;     /* offset of the transport header */
    uint32_t next_header; /* IPv6: offset of the field that names its protocol */
    uint16_t source_port, destination_port;
    uint32_t sequence;
    uint32_t data;    /* bytes behind TCP's header */
    uint32_t ident;   /* of a fragment, as are: */
    uint32_t offset;  /* where its bytes belong in the whole */
    uint8_t protocol; /* ZKS_PROTO_*; of a fragment, that of the whole */
    uint8_t flags;    /* TCP's */
    uint8_t fragment; /* one of several */
    uint8_t more;     /* not the last of them */
    uint8_t extended; /* IPv6: headers stand between its own and the transport's; they ask for nothing */
    uint8_t traffic_class;
    uint8_t hop_limit;
};

/* Checks everything that one packet alone can tell. verify: transport checksums too (off where the device
 * vouches for them). */
enum zks_drop zks_packet_parse(struct zks_packet *packet, const uint8_t *bytes, uint32_t length, int verify);

/* RFC 1071: the one's complement sum of bytes, added to sum; fold makes 16 bits of it (not inverted). */
uint64_t zks_sum(uint64_t sum, const uint8_t *bytes, size_t length);
uint16_t zks_fold(uint64_t sum);
/* The sum of a pseudo header (RFC 793, RFC 8200 §8.1). */
uint64_t zks_sum_pseudo(int family, const uint8_t *source, const uint8_t *destination, uint8_t protocol,
                        uint32_t length);

static inline uint16_t zks_get16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static inline uint32_t zks_get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}
static inline void zks_put16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static inline void zks_put32(uint8_t *p, uint32_t v)
{
    zks_put16(p, v >> 16);
    zks_put16(p + 2, v & 0xffff);
}

#endif
