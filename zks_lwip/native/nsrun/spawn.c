/* fork, namespaces, exec: see zks_nsrun.h. */
#ifdef __linux__
#define _GNU_SOURCE
#endif

#include "zks_nsrun.h"

#include <errno.h>

#ifdef __linux__

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "helper.h"
#include "mounts.h"
#include "network.h"

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif

/* The kernel's limit on arguments and environment is a quarter of the stack, at most 6 MiB. */
#define MAX_COMMAND (8u << 20)

static ssize_t receive_report(int control, struct zks_nsrun_report *report, int *tun)
{
    struct iovec part = {report, sizeof *report};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } ancillary;
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    ssize_t size;
    message.msg_control = &ancillary;
    message.msg_controllen = sizeof ancillary;
    do
        size = recvmsg(control, &message, MSG_CMSG_CLOEXEC | MSG_WAITALL);
    while (size < 0 && errno == EINTR);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (size > 0 && header && header->cmsg_type == SCM_RIGHTS)
        memcpy(tun, CMSG_DATA(header), sizeof *tun);
    return size;
}

static int map_id(const char *path, unsigned id)
{
    char line[64];
    snprintf(line, sizeof line, "%u %u 1\n", id, id);
    return zks_nsrun_write_file(path, line);
}

static int enter_namespaces(int user, struct zks_nsrun_report *report)
{
    unsigned uid = geteuid(), gid = getegid();
    if (user) {
        /* One call each, so that an error says which of the two is forbidden. */
        if (unshare(CLONE_NEWUSER) != 0)
            return zks_nsrun_fail(report, ZKS_NSRUN_USERNS, errno, "user");
        if (zks_nsrun_write_file("/proc/self/setgroups", "deny") != 0)
            return zks_nsrun_fail(report, ZKS_NSRUN_IDMAP, errno, "/proc/self/setgroups");
        if (map_id("/proc/self/uid_map", uid) != 0)
            return zks_nsrun_fail(report, ZKS_NSRUN_IDMAP, errno, "/proc/self/uid_map");
        if (map_id("/proc/self/gid_map", gid) != 0)
            return zks_nsrun_fail(report, ZKS_NSRUN_IDMAP, errno, "/proc/self/gid_map");
    }
    if (unshare(CLONE_NEWNS | CLONE_NEWNET) != 0)
        return zks_nsrun_fail(report, ZKS_NSRUN_NAMESPACES, errno, "mount and network");
    return 0;
}

/* Unprivileged ping: for every group, or for the one that exists in our user namespace. */
static int open_ping(int user)
{
    char range[64];
    if (user)
        snprintf(range, sizeof range, "%u %u", getegid(), getegid());
    else
        snprintf(range, sizeof range, "0 2147483647");
    return zks_nsrun_write_file("/proc/sys/net/ipv4/ping_group_range", range) == 0;
}

/* Every port in there is the command's: none is a service of the machine's. */
static void open_ports(void) { zks_nsrun_write_file("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"); }

static int receive_exactly(int fd, void *buffer, size_t size)
{
    char *at = buffer;
    while (size > 0) {
        ssize_t got = recv(fd, at, size, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return -1;
        at += got;
        size -= (size_t)got;
    }
    return 0;
}

/* Fills `list` (room for count + 1) with the next `count` strings; NULL if they do not fit. */
static char *take_strings(char *at, const char *end, char **list, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        char *stop = at < end ? memchr(at, 0, (size_t)(end - at)) : NULL;
        if (!stop)
            return NULL;
        list[i] = at;
        at = stop + 1;
    }
    list[count] = NULL;
    return at;
}

static void execute(int control, struct zks_nsrun_report *report)
{
    uint32_t head[4];
    if (receive_exactly(control, head, sizeof head) != 0)
        _exit(0); /* the parent gave up, or is gone */
    uint32_t size = head[0], strings = 0;
    if (size > MAX_COMMAND || head[1] > size || head[2] > size || head[3] > size)
        _exit(126);
    strings = head[1] + head[2] + head[3];
    char *text = malloc(size + 1u);
    char **lists = malloc((strings + 5u) * sizeof *lists);
    if (!text || !lists || receive_exactly(control, text, size) != 0)
        _exit(126);
    char *end = text + size, *at = text;
    char **directory = lists, **candidates = directory + 2;
    char **arguments = candidates + head[1] + 1, **environment = arguments + head[2] + 1;
    if (!(at = take_strings(at, end, directory, 1)) || !(at = take_strings(at, end, candidates, head[1])) ||
        !(at = take_strings(at, end, arguments, head[2])) || !take_strings(at, end, environment, head[3]))
        _exit(126);
    if (directory[0][0] && chdir(directory[0]) != 0) {
        zks_nsrun_fail(report, ZKS_NSRUN_CHDIR, errno, directory[0]);
        return;
    }
    zks_nsrun_fail(report, ZKS_NSRUN_EXEC, ENOENT, head[2] ? arguments[0] : "");
    for (uint32_t i = 0; i < head[1]; i++) {
        execve(candidates[i], arguments, environment);
        /* As execvp: one that is there but cannot be executed is remembered, the search goes on. */
        if (errno != ENOENT && errno != ENOTDIR)
            zks_nsrun_fail(report, ZKS_NSRUN_EXEC, errno, candidates[i]);
    }
}

/* Python ignores these two; a command expects them as every shell gives them. Handlers of Python's must
 * not run here. What the caller ignores (nohup) stays ignored. */
static void default_signals(void)
{
    for (int number = 1; number < NSIG; number++) {
        struct sigaction action;
        if (sigaction(number, NULL, &action) != 0)
            continue;
        if (action.sa_handler == SIG_IGN && number != SIGPIPE && number != SIGXFSZ)
            continue;
        memset(&action, 0, sizeof action);
        action.sa_handler = SIG_DFL;
        sigaction(number, &action, NULL);
    }
}

static void helper(const struct zks_nsrun_config *config, int control, pid_t parent, const sigset_t *mask)
{
    struct zks_nsrun_report report;
    memset(&report, 0, sizeof report);
    zks_nsrun_die_with(parent);
    default_signals();
    sigprocmask(SIG_SETMASK, mask, NULL);
    control = zks_nsrun_keep_only(control);
    /* /proc/self belongs to root otherwise, where the interpreter is not readable. */
    prctl(PR_SET_DUMPABLE, 1);
    int tun = -1;
    if (enter_namespaces(config->user_namespace, &report) == 0) {
        zks_nsrun_die_with(parent); /* a change of credentials clears it */
        report.ping = open_ping(config->user_namespace);
        open_ports();
        tun = zks_nsrun_network(config, &report);
    }
    if (tun < 0 || zks_nsrun_mounts(config, &report) != 0) {
        zks_nsrun_send(control, &report, sizeof report, -1);
        _exit(1);
    }
    if (zks_nsrun_send(control, &report, sizeof report, tun) != 0)
        _exit(1);
    close(tun);
    execute(control, &report);
    zks_nsrun_send(control, &report, sizeof report, -1);
    _exit(report.error == ENOENT ? 127 : 126);
}

int zks_nsrun_spawn(const struct zks_nsrun_config *config, struct zks_nsrun_report *report, int *pid, int *control,
                    int *tun)
{
    int pair[2];
    sigset_t all, mask;
    pid_t parent = getpid();
    memset(report, 0, sizeof *report);
    *pid = *control = *tun = -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return -errno;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &mask);
    pid_t child = fork();
    int error = errno;
    if (child == 0)
        helper(config, pair[1], parent, &mask);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    close(pair[1]);
    if (child < 0) {
        close(pair[0]);
        zks_nsrun_fail(report, ZKS_NSRUN_FORK, error, "fork");
        return -error;
    }
    if (receive_report(pair[0], report, tun) != (ssize_t)sizeof *report)
        zks_nsrun_fail(report, ZKS_NSRUN_FORK, ECHILD, "the helper died");
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

static const int forwarded[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
#define FORWARDED (sizeof forwarded / sizeof forwarded[0])
static struct sigaction replaced[FORWARDED];
static volatile sig_atomic_t target = -1;

static void forward(int number, siginfo_t *info, void *context)
{
    (void)context;
    int saved = errno;
    /* si_code > 0: from the kernel. A terminal signals its whole foreground process group, the command
     * included; only a hang-up may reach the session's leader alone. */
    if (target >= 0 && (info->si_code <= 0 || number == SIGHUP))
        syscall(SYS_pidfd_send_signal, (int)target, number, NULL, 0);
    errno = saved;
}

int zks_nsrun_forward(int pidfd)
{
    struct sigaction action;
    if (target >= 0)
        return -EBUSY;
    target = pidfd;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = forward;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    sigfillset(&action.sa_mask);
    for (size_t i = 0; i < FORWARDED; i++)
        sigaction(forwarded[i], &action, &replaced[i]);
    return 0;
}

int zks_nsrun_forward_stop(void)
{
    if (target < 0)
        return 0;
    for (size_t i = 0; i < FORWARDED; i++)
        sigaction(forwarded[i], &replaced[i], NULL);
    target = -1;
    return 0;
}

#else

int zks_nsrun_spawn(const struct zks_nsrun_config *config, struct zks_nsrun_report *report, int *pid, int *control,
                    int *tun)
{
    (void)config, (void)report, (void)pid, (void)control, (void)tun;
    return -ENOSYS;
}

int zks_nsrun_forward(int pidfd)
{
    (void)pidfd;
    return -ENOSYS;
}

int zks_nsrun_forward_stop(void) { return -ENOSYS; }

#endif
