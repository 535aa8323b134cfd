/* What must hold of a core between two calls, whatever has come. */
#ifndef ZKS_FUZZ_MODEL_H
#define ZKS_FUZZ_MODEL_H
#include "internal.h"

/* The flow of an id that has not been let go, or NULL. */
struct flow *model_flow(const zks_core *core, uint64_t id);
void model_check(const zks_core *core);
#endif
