/* Runs of UDP frames in a message: looked through and cut. */
#include "zks_udp_frames.h"

#include "frame.h"

#define SLOTS 128u /* of a hash of the associations seen: twice as many as may be */
#define MOST 64u

/* Notes an association; 0: there is no room for another one. */
static int note(uint32_t *slots, uint32_t association, uint32_t *associations, uint32_t most, uint32_t *count)
{
    uint32_t at = association * 2654435761u >> 25;
    while (slots[at]) {
        if (slots[at] == association)
            return 1;
        at = (at + 1) % SLOTS;
    }
    if (*count == most)
        return 0;
    slots[at] = association;
    associations[(*count)++] = association;
    return 1;
}

uint32_t zks_udp_scan(const uint8_t *bytes, size_t size, uint32_t frames, uint32_t *associations, uint32_t most,
                      struct zks_udp_run *run)
{
    uint32_t slots[SLOTS], last = 0;
    struct udp_frame frame;
    memset(run, 0, sizeof *run);
    memset(slots, 0, sizeof slots);
    if (most > MOST)
        most = MOST;
    if (size > UINT32_MAX)
        size = UINT32_MAX;
    while (run->frames < frames && udp_frame_read(&frame, bytes + run->size, size - run->size)) {
        if (!frame.association)
            break;
        if (frame.association != last && !note(slots, frame.association, associations, most, &run->associations))
            break;
        last = frame.association;
        run->frames++;
        run->size += frame.size;
        run->payload += frame.length;
    }
    return run->frames;
}

size_t zks_udp_cut(const uint8_t *frames, size_t size, size_t bytes, int whole, uint32_t *count)
{
    struct udp_frame frame;
    size_t end = 0;
    *count = 0;
    while (end < bytes && udp_frame_read(&frame, frames + end, size - end) && (whole || frame.size <= bytes - end)) {
        end += frame.size;
        ++*count;
    }
    return end;
}
