/* A command in network, mount and (without root) user namespaces of its own, with a TUN as its only
 * way out. Linux only: elsewhere every function returns -ENOSYS. The decisions (what to mount where,
 * which addresses) are made in Python; this is what has to happen between fork and exec.
 */
#ifndef ZKS_NSRUN_H
#define ZKS_NSRUN_H

#include <stdint.h>

/* What the helper was doing when it failed. */
enum zks_nsrun_step {
    ZKS_NSRUN_DONE,
    ZKS_NSRUN_FORK,
    ZKS_NSRUN_USERNS,     /* unshare(CLONE_NEWUSER) */
    ZKS_NSRUN_IDMAP,      /* /proc/self/uid_map, gid_map */
    ZKS_NSRUN_NAMESPACES, /* unshare(CLONE_NEWNS | CLONE_NEWNET) */
    ZKS_NSRUN_TUN_OPEN,   /* open() of the node */
    ZKS_NSRUN_TUN_CREATE, /* TUNSETIFF */
    ZKS_NSRUN_NETWORK,    /* netlink */
    ZKS_NSRUN_MOUNT,
    ZKS_NSRUN_CHDIR,
    ZKS_NSRUN_EXEC,
    ZKS_NSRUN_ENTER /* setns() of the maker of sockets */
};

/* FILE: bind a new file that holds `content` over the existing file `path`.
 * COVER: an empty tmpfs over the directory `path`.
 * MIRROR: a tmpfs over the directory `path` with all its entries bound into it, except those that
 *         `content` names (one a line).
 * PUT: a new file `path` with `content`, in a tmpfs of an operation before. */
enum zks_nsrun_mount_kind { ZKS_NSRUN_FILE, ZKS_NSRUN_COVER, ZKS_NSRUN_MIRROR, ZKS_NSRUN_PUT };

struct zks_nsrun_mount {
    int kind;
    const char *path;
    const char *content;
    uint32_t mode; /* permission bits of the new file: FILE, PUT */
};

struct zks_nsrun_config {
    int user_namespace; /* 0: only with CAP_SYS_ADMIN and CAP_NET_ADMIN */
    const char *tun_node;
    const char *tun_name;
    uint32_t mtu;
    uint32_t queue_length;
    int vnet_hdr;
    const char *address4;
    uint32_t prefix4;
    const char *address6;
    uint32_t prefix6;
    const struct zks_nsrun_mount *mounts;
    uint32_t mount_count;
};

/* What the helper sends over its socket: once when the namespaces stand (with the TUN's descriptor),
 * or when something failed; and once more if the command cannot be executed. */
struct zks_nsrun_report {
    int32_t step;
    int32_t error; /* errno */
    int32_t ipv6;  /* the kernel has IPv6 */
    int32_t ping;  /* ping_group_range is open */
    char detail[240];
};

/* Forks the helper and waits until its namespaces stand. 0, or -errno of the fork; what the helper
 * met is in `report`, and only if its step is ZKS_NSRUN_DONE are pid, control and tun to be used.
 * The caller is to send to `control` (a stream socket) what to execute:
 *   u32 size of the rest, u32 candidates, u32 arguments, u32 environment entries (native order), then
 *   as NUL-terminated strings: working directory (empty: the caller's, whatever its path is),
 *   candidates (paths tried in order), arguments, environment entries.
 * The end of that socket is the helper's end; so is the end of the calling thread. */
int zks_nsrun_spawn(const struct zks_nsrun_config *config, struct zks_nsrun_report *report, int *pid, int *control,
                    int *tun);

/* A request to the maker of sockets, and its answer, both in native order. */
struct zks_nsrun_socket_request {
    int32_t family; /* AF_INET, AF_INET6 */
    int32_t type;   /* SOCK_STREAM, SOCK_DGRAM */
};

/* Forks a child that enters the namespaces of the process `target` and makes sockets there, which stay
 * in its network namespace, whichever process uses them. Waits until it is inside. For each request, a message on
 * `control` (SOCK_SEQPACKET), it answers with an int32 (0 or errno) and, on success, the non-blocking
 * socket (SCM_RIGHTS). It has no other descriptor, heeds no signal, and ends with `control` and with
 * the calling thread. 0, or -errno of the fork; `report` as of zks_nsrun_spawn. */
int zks_nsrun_sockets(int target, int user_namespace, struct zks_nsrun_report *report, int *pid, int *control);

/* From now on SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1 and SIGUSR2 go to the process of `pidfd`, except
 * SIGINT and SIGQUIT that a terminal sends, which has sent them to that process too. */
int zks_nsrun_forward(int pidfd);
/* Puts back the handlers that zks_nsrun_forward replaced. */
int zks_nsrun_forward_stop(void);

#endif
