/* Sockets of the command's network namespace, for the process outside: see zks_nsrun.h. */
#ifdef __linux__
#define _GNU_SOURCE
#endif

#include "zks_nsrun.h"

#include <errno.h>

#ifdef __linux__

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "helper.h"

/* One namespace of the process `target`; 0, or -1 with the failure in the report. */
static int enter(int target, const char *name, int kind, struct zks_nsrun_report *report)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/%s", target, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return zks_nsrun_fail(report, ZKS_NSRUN_ENTER, errno, path);
    int result = setns(fd, kind) == 0 ? 0 : zks_nsrun_fail(report, ZKS_NSRUN_ENTER, errno, path);
    close(fd);
    return result;
}

static void serve(int control)
{
    struct zks_nsrun_socket_request request;
    for (;;) {
        ssize_t size = recv(control, &request, sizeof request, 0);
        if (size < 0 && errno == EINTR)
            continue;
        if (size != (ssize_t)sizeof request)
            return; /* the end of the process outside */
        int fd = socket(request.family, request.type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        int32_t error = fd < 0 ? errno : 0;
        int result = zks_nsrun_send(control, &error, sizeof error, fd);
        if (fd >= 0)
            close(fd);
        if (result != 0)
            return;
    }
}

/* All signals stay blocked: those of the terminal go to the whole process group, and the command may
 * live on after a Ctrl-C. */
static void maker(int target, int user_namespace, int control, pid_t parent)
{
    struct zks_nsrun_report report;
    memset(&report, 0, sizeof report);
    zks_nsrun_die_with(parent);
    control = zks_nsrun_keep_only(control);
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    /* This is a copy of the memory outside, in the command's reach: nothing of it is for the command,
     * not even for one that is root in its user namespace (ptrace(2)). */
    prctl(PR_SET_DUMPABLE, 0);
    if (chdir("/") == 0 && (!user_namespace || enter(target, "user", CLONE_NEWUSER, &report) == 0))
        enter(target, "net", CLONE_NEWNET, &report);
    zks_nsrun_die_with(parent);
    prctl(PR_SET_DUMPABLE, 0);
    prctl(PR_SET_NAME, "zks-sockets"); /* for ps(1) */
    if (send(control, &report, sizeof report, MSG_NOSIGNAL) == (ssize_t)sizeof report && report.step == ZKS_NSRUN_DONE)
        serve(control);
    _exit(0);
}

int zks_nsrun_sockets(int target, int user_namespace, struct zks_nsrun_report *report, int *pid, int *control)
{
    int pair[2];
    sigset_t all, mask;
    ssize_t size;
    pid_t parent = getpid();
    memset(report, 0, sizeof *report);
    *pid = *control = -1;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return -errno;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &mask);
    pid_t child = fork();
    int error = errno;
    if (child == 0)
        maker(target, user_namespace, pair[1], parent);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    close(pair[1]);
    if (child < 0) {
        close(pair[0]);
        zks_nsrun_fail(report, ZKS_NSRUN_FORK, error, "fork");
        return -error;
    }
    do
        size = recv(pair[0], report, sizeof *report, 0);
    while (size < 0 && errno == EINTR);
    if (size != (ssize_t)sizeof *report)
        zks_nsrun_fail(report, ZKS_NSRUN_FORK, ECHILD, "the maker of sockets died");
    if (report->step != ZKS_NSRUN_DONE) {
        close(pair[0]);
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
            ;
        return 0;
    }
    *pid = child;
    *control = pair[0];
    return 0;
}

#else

int zks_nsrun_sockets(int target, int user_namespace, struct zks_nsrun_report *report, int *pid, int *control)
{
    (void)target, (void)user_namespace, (void)report, (void)pid, (void)control;
    return -ENOSYS;
}

#endif
