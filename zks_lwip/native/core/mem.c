/* lwIP's allocator: the heap, with the large blocks of bulk traffic kept for the next segment.
 *
 * malloc gives blocks of 64 KB back to the system and fetches them again, a page fault each 4 KB: more than the
 * copy into them costs. Called under the core lock only. */
#include <stdlib.h>
#include <string.h>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "lwip/arch.h"

#include "platform.h"
#include "zks_core.h"

#define LARGE 32768u               /* from here on a block is as large as any */
#define LARGE_SIZE (65536u + 512u) /* the largest pbuf that TCP asks for, with its headers */
#define MAX_SPARE 64

struct block {
    size_t large;
    size_t padding; /* keeps what follows aligned to 16 bytes */
};

static struct block *spare[MAX_SPARE];
static int spare_count;

void *zks_mem_malloc(size_t size)
{
    struct block *block;
    int large = size >= LARGE && size <= LARGE_SIZE;
    if (large && spare_count)
        return spare[--spare_count] + 1;
    if (large)
        size = LARGE_SIZE;
    if (size > (size_t)-1 - sizeof *block)
        return NULL;
    block = malloc(sizeof *block + size);
    if (!block)
        return NULL;
    block->large = (size_t)large;
    return block + 1;
}

void *zks_mem_calloc(size_t count, size_t size)
{
    void *memory;
    if (size && count > (size_t)-1 / size)
        return NULL;
    memory = zks_mem_malloc(count * size);
    if (memory)
        memset(memory, 0, count * size);
    return memory;
}

void zks_mem_free(void *memory)
{
    struct block *block;
    if (!memory)
        return;
    block = (struct block *)memory - 1;
    if (block->large && spare_count < MAX_SPARE)
        spare[spare_count++] = block;
    else
        free(block);
}

/* glibc gives back what lies at the end of a heap only, and each thread's heap has its own end: one block that lives
 * keeps all that was freed before it. musl, macOS and Windows give pages back as they become free. */
void zks_memory_trim(void)
{
    zks_lock_acquire();
    while (spare_count)
        free(spare[--spare_count]);
    zks_lock_release();
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
}
