/* What all that runs in a forked child uses: a single thread, which never executes Python. */
#ifndef ZKS_NSRUN_HELPER_H
#define ZKS_NSRUN_HELPER_H

#include <sys/types.h>

#include "zks_nsrun.h"

/* Writes a failure to the report, and returns -1. */
int zks_nsrun_fail(struct zks_nsrun_report *report, int step, int error, const char *detail);
/* 0, or -1 and errno. */
int zks_nsrun_write_file(const char *path, const char *text);
/* Closes all descriptors but 0, 1, 2 and this one; returns its new number. */
int zks_nsrun_keep_only(int control);
/* Has the kernel kill this process when the thread that forked it ends; to be called again after a
 * change of credentials. */
void zks_nsrun_die_with(pid_t parent);
/* Sends a message, with a descriptor (SCM_RIGHTS) unless `fd` is -1; 0, or -1 and errno. */
int zks_nsrun_send(int control, const void *data, size_t size, int fd);

#endif
