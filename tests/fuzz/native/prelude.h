/* Put before every file of the core and of lwIP in a fuzzing build: their allocations go through env.c. */
#ifndef ZKS_FUZZ_PRELUDE_H
#define ZKS_FUZZ_PRELUDE_H
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* as some of those files want, before the first header */
#endif
#include <stdlib.h>

void *env_malloc(size_t size);
void *env_calloc(size_t count, size_t size);
void *env_realloc(void *block, size_t size);
void env_free(void *block);

#define malloc env_malloc
#define calloc env_calloc
#define realloc env_realloc
#define free env_free
#endif
