/* Runs of UDP frames in a message (PROTOCOL.md §5): looked through and cut without an object for each. */
#ifndef ZKS_UDP_FRAMES_H
#define ZKS_UDP_FRAMES_H
#include <stddef.h>
#include <stdint.h>

struct zks_udp_run {
    uint32_t frames;
    uint32_t size;         /* bytes of these frames */
    uint32_t payload;      /* bytes of their payloads */
    uint32_t associations; /* how many different ones */
};

/* Looks through the UDP frames at the start of so many bytes: at most `frames` of them and `most` associations (64 at
 * most), whose ids it writes. The run ends, too, before what is no sound UDP frame, or not for an IP literal. Returns
 * how many frames it has. */
uint32_t zks_udp_scan(const uint8_t *bytes, size_t size, uint32_t frames, uint32_t *associations, uint32_t most,
                      struct zks_udp_run *run);
/* Of frames that zks_udp_scan has found, or that were made here: returns how many bytes the first ones have, and writes
 * how many these are. whole: as few as have `bytes` or more; else as many as have no more. */
size_t zks_udp_cut(const uint8_t *frames, size_t size, size_t bytes, int whole, uint32_t *count);

#endif
