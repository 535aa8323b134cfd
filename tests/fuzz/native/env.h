/* What surrounds the core in a fuzzing build: an allocator that counts and fails on demand, and a clock that is
 * told the time. Replaces core/platform.c and core/mem.c, whose recycling would hide a use after free. */
#ifndef ZKS_FUZZ_ENV_H
#define ZKS_FUZZ_ENV_H
#include <stdint.h>

extern uint64_t env_now_ms;
extern uint32_t env_looks; /* at the clock */
extern long env_live;      /* blocks that are allocated */
extern long env_fail_in;   /* the allocation after so many fails; negative: none does */
extern int env_locked;

/* Ends the run with a message; the fuzzer keeps the input. */
_Noreturn void env_fail(const char *file, int line, const char *what);
#define CHECK(condition) ((condition) ? (void)0 : env_fail(__FILE__, __LINE__, #condition))
#endif
