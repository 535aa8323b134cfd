/* The network of the helper's namespace. */
#ifndef ZKS_NSRUN_NETWORK_H
#define ZKS_NSRUN_NETWORK_H

#include "zks_nsrun.h"

/* The TUN's descriptor, or -1 with the failure in the report. */
int zks_nsrun_network(const struct zks_nsrun_config *config, struct zks_nsrun_report *report);

#endif
