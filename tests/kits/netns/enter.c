/* Enters a network namespace, arranges a private mount namespace, changes user, then becomes a command:
 *
 *     enter [--net PATH] [--sysfs] [--cgroups] [--run-tmpfs] [--bind SOURCE TARGET]... [--etc DIR]
 *           [--expose DIR]... [--user UID] -- CMD ARGS...
 *
 * Runs as root. The process id stays, so that the process that started this can signal CMD. All mounts are private to
 * the command, and are made in the order in which they are given. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

/* Ends with a message, and the reason if `number` is one of errno's. */
__attribute__((format(printf, 2, 3))) static _Noreturn void fail(int number, const char *format, ...)
{
    va_list arguments;
    fprintf(stderr, "enter: ");
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, number ? ": %s\n" : "\n", strerror(number));
    exit(1);
}

static void enter_net(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET) != 0)
        fail(errno, "setns %s", path);
    close(fd);
}

static void do_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)
{
    if (mount(source, target, type, flags, data) != 0)
        fail(errno, "mount %s on %s", source, target);
}

/* The first mount of the command makes its mount namespace. */
static void be_private(void)
{
    static bool done;
    if (done)
        return;
    if (unshare(CLONE_NEWNS) != 0)
        fail(errno, "unshare");
    do_mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
    done = true;
}

/* Makes a folder reachable for other users although a parent (say /root) is closed to them: that parent is covered,
 * for this command only, by an open tmpfs that holds just the path. */
static void expose(const char *folder)
{
    char path[PATH_MAX], held[64];
    if (realpath(folder, path) == NULL)
        fail(errno, "%s", folder);
    size_t length = strlen(path), closed = 0;
    for (size_t end = 1; end < length && !closed; end++) {
        struct stat about;
        if (path[end] != '/')
            continue;
        path[end] = '\0';
        if (stat(path, &about) != 0)
            fail(errno, "%s", path);
        if (!(about.st_mode & S_IXOTH))
            closed = end;
        path[end] = '/';
    }
    if (!closed)
        return;
    int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0)
        fail(errno, "%s", path);
    path[closed] = '\0';
    do_mount("tmpfs", path, "tmpfs", 0, "mode=0755");
    path[closed] = '/';
    for (size_t end = closed + 1; end <= length; end++) {
        if (end < length && path[end] != '/')
            continue;
        path[end] = '\0';
        if (mkdir(path, 0755) != 0 || chmod(path, 0755) != 0) /* whatever the umask is */
            fail(errno, "%s", path);
        if (end < length)
            path[end] = '/';
    }
    snprintf(held, sizeof held, "/proc/self/fd/%d", fd);
    do_mount(held, path, NULL, MS_BIND | MS_REC, NULL);
    close(fd);
}

/* Covers /etc with a folder's files: those that the machine need not have. */
static void cover_etc(const char *folder)
{
    char data[PATH_MAX + 32];
    int length = snprintf(data, sizeof data, "lowerdir=%s:/etc", folder);
    if (length < 0 || (size_t)length >= sizeof data)
        fail(ENAMETOOLONG, "%s", folder);
    do_mount("overlay", "/etc", "overlay", 0, data);
}

static void become(const char *text)
{
    char *end;
    errno = 0;
    unsigned long user = strtoul(text, &end, 10);
    if (errno || *end || end == text || user >= UINT_MAX)
        fail(0, "no user id: %s", text);
    if (setgroups(0, NULL) != 0 || setresgid((gid_t)user, (gid_t)user, (gid_t)user) != 0 ||
        setresuid((uid_t)user, (uid_t)user, (uid_t)user) != 0)
        fail(errno, "user %lu", user);
}

static bool is_option(const char *word, const char *name, int left, int wanted)
{
    if (strcmp(word, name) != 0)
        return false;
    if (left < wanted)
        fail(0, "%s lacks an argument", name);
    return true;
}

int main(int argc, char **argv)
{
    const char *user = NULL;
    int at = 1;
    for (; at < argc && strcmp(argv[at], "--") != 0; at++) {
        const char *word = argv[at];
        int left = argc - at - 1;
        if (is_option(word, "--net", left, 1)) {
            enter_net(argv[++at]);
        } else if (is_option(word, "--user", left, 1)) {
            user = argv[++at];
        } else if (is_option(word, "--bind", left, 2)) {
            be_private();
            do_mount(argv[at + 1], argv[at + 2], NULL, MS_BIND, NULL);
            at += 2;
        } else if (is_option(word, "--expose", left, 1)) {
            be_private();
            expose(argv[++at]);
        } else if (is_option(word, "--etc", left, 1)) {
            be_private();
            cover_etc(argv[++at]);
        } else if (is_option(word, "--run-tmpfs", left, 0)) {
            be_private();
            do_mount("tmpfs", "/run", "tmpfs", 0, "mode=0755");
            if (mkdir("/run/sshd", 0755) != 0)
                fail(errno, "/run/sshd");
        } else if (is_option(word, "--cgroups", left, 0)) {
            be_private();
            do_mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, NULL);
        } else if (is_option(word, "--sysfs", left, 0)) {
            be_private();
            if (umount2("/sys", MNT_DETACH) != 0)
                fail(errno, "umount /sys");
            do_mount("sysfs", "/sys", "sysfs", 0, NULL);
        } else {
            fail(0, "unknown option %s", word);
        }
    }
    if (at + 1 >= argc)
        fail(0, "no command");
    if (user)
        become(user);
    unsetenv("LD_PRELOAD"); /* of a sanitizer: for us, not for the command */
    execvp(argv[at + 1], argv + at + 1);
    fail(errno, "%s", argv[at + 1]);
}
