/* UDP frames (PROTOCOL.md §5), read and written. No state. */
#ifndef ZKS_UDP_FRAME_H
#define ZKS_UDP_FRAME_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define UDP_FRAME_COMMAND 0x07
#define UDP_FRAME_HEAD 9u    /* command, association, port, length of the host */
#define UDP_FRAME_MAX 65507u /* bytes of payload */
#define UDP_FRAME_HOST 45u   /* bytes of the longest literal */
#define UDP_FRAME_OVERHEAD (UDP_FRAME_HEAD + UDP_FRAME_HOST + 4u)

struct udp_frame {
    uint32_t association;
    uint32_t length; /* of the payload */
    uint32_t size;   /* of the whole frame */
    uint16_t port;
    uint8_t host_length;
    const uint8_t *host;
    const uint8_t *payload;
};

static inline uint32_t udp_get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline void udp_put32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

/* Reads the frame at the start of so many bytes. 0: it is none, runs past the end, is too long, or its host has
 * characters that no literal has. */
static inline int udp_frame_read(struct udp_frame *frame, const uint8_t *at, size_t left)
{
    uint32_t host, i, known = 1;
    if (left < UDP_FRAME_HEAD + 4 || at[0] != UDP_FRAME_COMMAND)
        return 0;
    host = (uint32_t)at[7] << 8 | at[8];
    if (!host || host > UDP_FRAME_HOST || left < UDP_FRAME_HEAD + host + 4)
        return 0;
    frame->length = udp_get32(at + UDP_FRAME_HEAD + host);
    if (frame->length > UDP_FRAME_MAX || left - (UDP_FRAME_HEAD + host + 4) < frame->length)
        return 0;
    frame->host = at + UDP_FRAME_HEAD;
    for (i = 0; i < host; i++) {
        uint8_t c = frame->host[i], lower = c | 0x20;
        known &= (c >= '0' && c <= ':') || (lower >= 'a' && lower <= 'f') || c == '.';
    }
    if (!known)
        return 0;
    frame->association = udp_get32(at + 1);
    frame->port = (uint16_t)(at[5] << 8 | at[6]);
    frame->host_length = (uint8_t)host;
    frame->payload = frame->host + host + 4;
    frame->size = UDP_FRAME_HEAD + host + 4 + frame->length;
    return 1;
}

/* Writes a frame up to its payload, and returns where that belongs. out: UDP_FRAME_OVERHEAD bytes or more. */
static inline uint8_t *udp_frame_write(uint8_t *out, uint32_t association, uint16_t port, const char *host,
                                       uint32_t host_length, uint32_t length)
{
    out[0] = UDP_FRAME_COMMAND;
    udp_put32(out + 1, association);
    out[5] = (uint8_t)(port >> 8);
    out[6] = (uint8_t)port;
    out[7] = 0;
    out[8] = (uint8_t)host_length;
    memcpy(out + UDP_FRAME_HEAD, host, host_length);
    udp_put32(out + UDP_FRAME_HEAD + host_length, length);
    return out + UDP_FRAME_HEAD + host_length + 4;
}

#endif
