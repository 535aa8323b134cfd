/* What must hold of a core between two calls, whatever has come. */
#ifndef ZKS_FUZZ_MODEL_H
#define ZKS_FUZZ_MODEL_H
#include "core/context.h"
#include "core/core.h"
#include "core/datagram.h"
#include "core/device_in.h"
#include "core/device_out.h"
#include "core/flow_input.h"
#include "core/flow_rx.h"

/* The flow of an id that has not been let go, or NULL. */
struct flow *model_flow(const zks_core *core, uint64_t id);
void model_check(const zks_core *core);
#endif
