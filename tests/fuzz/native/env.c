#include "env.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/platform.h"

uint64_t env_now_ms = 1000000;
uint32_t env_looks;
long env_live, env_fail_in = -1;
int env_locked;

_Noreturn void env_fail(const char *file, int line, const char *what)
{
    fprintf(stderr, "fuzz: broken: %s (%s:%d)\n", what, file, line);
    abort();
}

/* ---- allocation (prelude.h) ---- */
static int fails(void) { return env_fail_in >= 0 && env_fail_in-- == 0; }

void *env_malloc(size_t size)
{
    void *block = fails() ? NULL : malloc(size);
    env_live += block != NULL;
    return block;
}

void *env_calloc(size_t count, size_t size)
{
    void *block = fails() ? NULL : calloc(count, size);
    env_live += block != NULL;
    return block;
}

void *env_realloc(void *block, size_t size)
{
    void *moved = fails() ? NULL : realloc(block, size);
    env_live += moved && !block;
    return moved;
}

void env_free(void *block)
{
    env_live -= block != NULL;
    free(block);
}

void *zks_mem_malloc(size_t size) { return env_malloc(size); }
void *zks_mem_calloc(size_t count, size_t size) { return env_calloc(count, size); }
void zks_mem_free(void *block) { env_free(block); }

/* ---- platform.h: one thread, so it would wait for ever for a lock that is taken ---- */
void zks_lock_acquire(void)
{
    CHECK(!env_locked);
    env_locked = 1;
}

void zks_lock_release(void)
{
    CHECK(env_locked);
    env_locked = 0;
}

int zks_lock_due(void) { return 0; }

/* Time passes between two looks: initial sequence numbers of one four-tuple are far from each other. */
uint64_t zks_now_ms(void) { return env_now_ms + 5000u * env_looks++; }
