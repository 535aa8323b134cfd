/* Packets of a fuzzing run: made with contents that can be recognised, and taken apart again, without the core's
 * own code.
 *
 * A byte that an application sends over TCP is a function of its sequence number alone, and one of a datagram of its
 * place alone. So whatever is retransmitted, overlaps, goes astray or is mixed, what comes out is known. */
#ifndef ZKS_FUZZ_WIRE_H
#define ZKS_FUZZ_WIRE_H
#include <stddef.h>
#include <stdint.h>

enum { WIRE_FIN = 1, WIRE_SYN = 2, WIRE_RST = 4, WIRE_PSH = 8, WIRE_ACK = 16 };
enum { WIRE_MAX = 65535 };

struct wire_tuple {
    uint8_t family;
    uint8_t app[16], far[16]; /* IPv4: the first four */
    uint16_t app_port, far_port;
};

struct wire_segment {
    struct wire_tuple tuple; /* from us: source is far, destination is app */
    uint8_t protocol;
    uint8_t fragment;
    uint8_t flags;
    uint32_t seq, ack, window;
    const uint8_t *options, *data;
    uint32_t options_length, length; /* of the transport payload */
    uint32_t offset, more, ident;    /* of a fragment */
};

uint8_t wire_tcp_byte(uint32_t sequence);
uint8_t wire_datagram_byte(uint32_t place);

uint16_t wire_get16(const uint8_t *p);
uint32_t wire_get32(const uint8_t *p);
void wire_put16(uint8_t *p, uint32_t v);
void wire_put32(uint8_t *p, uint32_t v);

/* Each writes a packet of an application to out (WIRE_MAX bytes) and returns its length. */
uint32_t wire_tcp(uint8_t *out, const struct wire_tuple *tuple, uint8_t flags, uint32_t seq, uint32_t ack,
                  uint16_t window, const uint8_t *options, uint32_t options_length, uint32_t length);
uint32_t wire_udp(uint8_t *out, const struct wire_tuple *tuple, uint32_t length);
uint32_t wire_echo(uint8_t *out, const struct wire_tuple *tuple, uint32_t length);
/* One fragment of packet: bytes [start, start + size) of what follows its IP header. */
uint32_t wire_fragment(uint8_t *out, const uint8_t *packet, uint32_t length, uint32_t start, uint32_t size, int more,
                       uint32_t ident);

/* Makes a packet that was changed anywhere right again: contents, as its sequence number asks, and checksums. */
void wire_repair(uint8_t *packet, uint32_t length);
/* Whether its checksums are right, where it has some. */
int wire_is_sound(const uint8_t *packet, uint32_t length);

/* Takes a packet of the core apart; anything that is wrong with it ends the run. mtu 0: any length.
 * offloaded: TCP's checksum field holds the sum of the pseudo header only; 2 or more: UDP's, too. */
void wire_read(struct wire_segment *segment, const uint8_t *packet, uint32_t length, uint32_t mtu, int offloaded);
#endif
