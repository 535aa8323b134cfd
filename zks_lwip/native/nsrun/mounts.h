/* The files that the helper's command sees. */
#ifndef ZKS_NSRUN_MOUNTS_H
#define ZKS_NSRUN_MOUNTS_H

#include "zks_nsrun.h"

/* 0, or -1 with the failure in the report. */
int zks_nsrun_mounts(const struct zks_nsrun_config *config, struct zks_nsrun_report *report);

#endif
