#ifdef __linux__
#define _GNU_SOURCE

#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

int zks_nsrun_fail(struct zks_nsrun_report *report, int step, int error, const char *detail)
{
    report->step = step;
    report->error = error;
    snprintf(report->detail, sizeof report->detail, "%s", detail);
    return -1;
}

int zks_nsrun_write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t length = (ssize_t)strlen(text);
    int result = write(fd, text, (size_t)length) == length ? 0 : -1;
    int saved = errno;
    close(fd);
    errno = saved;
    return result;
}

int zks_nsrun_keep_only(int control)
{
    if (control != 3) {
        dup2(control, 3);
        control = 3;
    }
    fcntl(control, F_SETFD, FD_CLOEXEC);
    if (syscall(SYS_close_range, 4, ~0U, 0) == 0)
        return control;
    long limit = sysconf(_SC_OPEN_MAX);
    for (int fd = 4; fd < (limit > 0 && limit < 65536 ? limit : 65536); fd++)
        close(fd);
    return control;
}

void zks_nsrun_die_with(pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(0);
}

int zks_nsrun_send(int control, const void *data, size_t size, int fd)
{
    struct iovec part = {(void *)data, size};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } ancillary;
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        memset(&ancillary, 0, sizeof ancillary);
        message.msg_control = &ancillary;
        message.msg_controllen = sizeof ancillary;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
    }
    return sendmsg(control, &message, MSG_NOSIGNAL) == (ssize_t)size ? 0 : -1;
}

#else
typedef int zks_nsrun_helper_is_for_linux;
#endif
