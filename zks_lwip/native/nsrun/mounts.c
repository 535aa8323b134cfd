/* Private files over those of the host, in a mount namespace of our own. mount(2) only: execve would
 * drop the capabilities that a helper program needs. */
#ifdef __linux__
#define _GNU_SOURCE

#include "mounts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "helper.h"

#define TMPFS_FLAGS (MS_NOSUID | MS_NODEV | MS_NOEXEC)
/* Any directory that is always there, and that no descriptor in use here is looked up below. */
#define STAGING "/etc"

static int tmpfs_on(const char *path) { return mount("tmpfs", path, "tmpfs", TMPFS_FLAGS, "mode=0755,size=16m"); }

/* As Linux writes /proc/self/fd/N: names a file whatever has been mounted over its path since. */
static void fd_path(char *buffer, size_t size, int fd, const char *name)
{
    snprintf(buffer, size, "/proc/self/fd/%d%s%s", fd, name ? "/" : "", name ? name : "");
}

static int put_file(const char *path, const char *content, mode_t mode)
{
    size_t length = strlen(content);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return -1;
    int result = fchmod(fd, mode);
    if (result == 0 && write(fd, content, length) != (ssize_t)length)
        result = -1;
    close(fd);
    return result;
}

/* The new file is born in a tmpfs that is mounted for just as long: the bind mount keeps it alive. */
static int bind_file(const char *path, const char *content, mode_t mode)
{
    char target[64];
    int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int result = tmpfs_on(STAGING);
    if (result == 0) {
        fd_path(target, sizeof target, fd, NULL);
        result = put_file(STAGING "/zks", content, mode);
        if (result == 0)
            result = mount(STAGING "/zks", target, NULL, MS_BIND, NULL);
        int saved = errno;
        umount2(STAGING, MNT_DETACH);
        errno = saved;
    }
    int saved = errno;
    close(fd);
    errno = saved;
    return result;
}

static int listed(const char *list, const char *name)
{
    size_t length = strlen(name);
    while (list && *list) {
        const char *end = strchr(list, '\n');
        size_t size = end ? (size_t)(end - list) : strlen(list);
        if (size == length && memcmp(list, name, length) == 0)
            return 1;
        list = end ? end + 1 : NULL;
    }
    return 0;
}

/* One entry of the directory `original` in the tmpfs at `target`. What may not be bound (gone in the
 * meantime, an unbindable mount) is left out: absent is never less closed than present. */
static int mirror_entry(int original, const char *name, const char *target)
{
    struct stat status;
    char source[PATH_MAX];
    if (fstatat(original, name, &status, AT_SYMLINK_NOFOLLOW) != 0)
        return 0;
    if (S_ISLNK(status.st_mode)) {
        ssize_t length = readlinkat(original, name, source, sizeof source - 1);
        if (length < 0)
            return 0;
        source[length] = '\0';
        return symlink(source, target);
    }
    if (S_ISDIR(status.st_mode)) {
        if (mkdir(target, 0755) != 0)
            return -1;
    } else if (put_file(target, "", 0644) != 0) {
        return -1;
    }
    fd_path(source, sizeof source, original, name);
    /* MS_REC: mounts below it are locked together with it in a less privileged namespace. */
    if (mount(source, target, NULL, MS_BIND | MS_REC, NULL) != 0)
        return S_ISDIR(status.st_mode) ? rmdir(target) : unlink(target);
    return 0;
}

static int mirror(const char *path, const char *skip)
{
    char target[PATH_MAX];
    int result = 0;
    int original = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (original < 0)
        return -1;
    DIR *directory = fdopendir(original);
    if (!directory) {
        close(original);
        return -1;
    }
    if (tmpfs_on(path) != 0)
        result = -1;
    while (result == 0) {
        errno = 0;
        struct dirent *entry = readdir(directory);
        if (!entry) {
            result = errno ? -1 : 0;
            break;
        }
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || listed(skip, name))
            continue;
        if (snprintf(target, sizeof target, "%s/%s", path, name) >= (int)sizeof target)
            continue;
        result = mirror_entry(original, name, target);
    }
    int saved = errno;
    closedir(directory);
    errno = saved;
    return result;
}

int zks_nsrun_mounts(const struct zks_nsrun_config *config, struct zks_nsrun_report *report)
{
    /* Slave: what the host mounts later is seen here, never the other way round. */
    if (mount("none", "/", NULL, MS_REC | MS_SLAVE, NULL) != 0)
        return zks_nsrun_fail(report, ZKS_NSRUN_MOUNT, errno, "/");
    for (uint32_t i = 0; i < config->mount_count; i++) {
        const struct zks_nsrun_mount *m = &config->mounts[i];
        int result = -1;
        errno = EINVAL;
        if (m->kind == ZKS_NSRUN_FILE)
            result = bind_file(m->path, m->content, m->mode & 0777);
        else if (m->kind == ZKS_NSRUN_COVER)
            result = tmpfs_on(m->path);
        else if (m->kind == ZKS_NSRUN_MIRROR)
            result = mirror(m->path, m->content);
        else if (m->kind == ZKS_NSRUN_PUT)
            result = put_file(m->path, m->content, m->mode & 0777);
        if (result != 0)
            return zks_nsrun_fail(report, ZKS_NSRUN_MOUNT, errno, m->path);
    }
    return 0;
}

#else
typedef int zks_nsrun_mount_is_for_linux;
#endif
