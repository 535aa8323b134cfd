/* What a flow has received and its owner has not taken: a queue of chunks.
 *
 * A large segment keeps its pbuf (no copy); small ones are copied together, so that a peer that sends single bytes
 * costs their number and not a buffer each. The receive window bounds the bytes. */
#include "flow_rx.h"

#include <string.h>

#define SMALL 2048u
#define LARGE 65536u
#define KEEP_PBUF 32768u /* from here on a segment keeps its pbuf, whose buffer is of 64 KiB */
#define MAX_SPARE_SMALL 256u
#define MAX_SPARE_LARGE 16u

static struct chunk *chunk_new(zks_core *core, uint32_t size)
{
    int class = size > SMALL;
    struct chunk *chunk = core->spare[class];
    if (chunk) {
        core->spare[class] = chunk->next;
        core->spare_count[class]--;
    } else {
        chunk = malloc(sizeof *chunk + (class ? LARGE : SMALL));
        if (!chunk)
            return NULL;
        chunk->size = class ? LARGE : SMALL;
    }
    chunk->next = NULL;
    chunk->pbuf = NULL;
    chunk->data = (const uint8_t *)(chunk + 1);
    chunk->start = chunk->end = 0;
    return chunk;
}

static void chunk_free(zks_core *core, struct chunk *chunk)
{
    int class;
    if (chunk->pbuf) {
        pbuf_free(chunk->pbuf);
        free(chunk);
        return;
    }
    class = chunk->size > SMALL;
    if (core->spare_count[class] >= (class ? MAX_SPARE_LARGE : MAX_SPARE_SMALL)) {
        free(chunk);
        return;
    }
    chunk->next = core->spare[class];
    core->spare[class] = chunk;
    core->spare_count[class]++;
}

static void enqueue(struct flow *flow, struct chunk *chunk)
{
    if (flow->rx_tail)
        flow->rx_tail->next = chunk;
    else
        flow->rx_head = chunk;
    flow->rx_tail = chunk;
}

static int append_bytes(zks_core *core, struct flow *flow, const uint8_t *bytes, uint32_t length)
{
    while (length) {
        struct chunk *tail = flow->rx_tail;
        uint32_t room;
        if (!tail || tail->pbuf || tail->end == tail->size) {
            /* The first bytes of a quiet flow get a small chunk, what piles up behind them a large one. */
            tail = chunk_new(core, flow->rx_head || length > SMALL ? LARGE : SMALL);
            if (!tail)
                return -1;
            enqueue(flow, tail);
        }
        room = tail->size - tail->end;
        if (room > length)
            room = length;
        memcpy((uint8_t *)(tail + 1) + tail->end, bytes, room);
        tail->end += room;
        bytes += room;
        length -= room;
        flow->rx_bytes += room;
    }
    return 0;
}

int rx_append(zks_core *core, struct flow *flow, struct pbuf *p)
{
    struct pbuf *q;
    if (!p->next && p->len >= KEEP_PBUF) {
        struct chunk *chunk = malloc(sizeof *chunk);
        if (!chunk)
            return -1;
        chunk->next = NULL;
        chunk->pbuf = p;
        chunk->data = p->payload;
        chunk->start = 0;
        chunk->end = chunk->size = p->len;
        enqueue(flow, chunk);
        flow->rx_bytes += p->len;
        return 0;
    }
    for (q = p; q; q = q->next)
        if (append_bytes(core, flow, q->payload, q->len) != 0)
            return -1;
    pbuf_free(p);
    return 0;
}

size_t rx_take(zks_core *core, struct flow *flow, uint8_t *buffer, size_t size)
{
    size_t taken = 0;
    while (taken < size && flow->rx_head) {
        struct chunk *head = flow->rx_head;
        size_t n = head->end - head->start;
        if (n > size - taken)
            n = size - taken;
        memcpy(buffer + taken, head->data + head->start, n);
        head->start += (uint32_t)n;
        taken += n;
        if (head->start == head->end) {
            flow->rx_head = head->next;
            if (!flow->rx_head)
                flow->rx_tail = NULL;
            chunk_free(core, head);
        }
    }
    flow->rx_bytes -= (uint32_t)taken;
    return taken;
}

void rx_clear(zks_core *core, struct flow *flow)
{
    while (flow->rx_head) {
        struct chunk *head = flow->rx_head;
        flow->rx_head = head->next;
        chunk_free(core, head);
    }
    flow->rx_tail = NULL;
    flow->rx_bytes = 0;
}

void rx_trim(zks_core *core)
{
    int class;
    for (class = 0; class < 2; class++) {
        while (core->spare[class]) {
            struct chunk *chunk = core->spare[class];
            core->spare[class] = chunk->next;
            free(chunk);
        }
        core->spare_count[class] = 0;
    }
}
