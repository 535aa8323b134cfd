/* Between the parts of zks_nsrun. They run in the helper, a single thread between fork and exec; a
 * failure is written to the report, and -1 returned. */
#ifndef ZKS_NSRUN_INTERNAL_H
#define ZKS_NSRUN_INTERNAL_H

#include "zks_nsrun.h"

int zks_nsrun_fail(struct zks_nsrun_report *report, int step, int error, const char *detail);
int zks_nsrun_write_file(const char *path, const char *text);

/* nsrun_net.c: the TUN's descriptor, or -1. */
int zks_nsrun_network(const struct zks_nsrun_config *config, struct zks_nsrun_report *report);

/* nsrun_mount.c */
int zks_nsrun_mounts(const struct zks_nsrun_config *config, struct zks_nsrun_report *report);

#endif
