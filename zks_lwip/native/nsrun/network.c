/* The network of the helper's namespace: TUN, loopback, addresses, default routes; by ioctl(2) and
 * rtnetlink(7). */
#ifdef __linux__
#define _GNU_SOURCE

#include "network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "helper.h"

struct request {
    struct nlmsghdr header;
    char body[256];
};

static void *reserve(struct request *request, size_t size)
{
    void *at = (char *)request + NLMSG_ALIGN(request->header.nlmsg_len);
    request->header.nlmsg_len = NLMSG_ALIGN(request->header.nlmsg_len) + (uint32_t)size;
    return at;
}

static void attribute(struct request *request, int type, const void *data, size_t size)
{
    struct rtattr *attr = reserve(request, RTA_LENGTH(size));
    attr->rta_type = (unsigned short)type;
    attr->rta_len = (unsigned short)RTA_LENGTH(size);
    memcpy(RTA_DATA(attr), data, size);
}

static void *begin(struct request *request, int type, int flags, size_t size)
{
    memset(request, 0, sizeof *request);
    request->header.nlmsg_len = NLMSG_HDRLEN;
    request->header.nlmsg_type = (uint16_t)type;
    request->header.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags);
    return reserve(request, size);
}

/* 0, or errno. */
static int transact(int fd, struct request *request)
{
    union {
        struct nlmsghdr header;
        char bytes[4096];
    } answer;
    if (send(fd, request, request->header.nlmsg_len, 0) < 0)
        return errno;
    ssize_t size = recv(fd, &answer, sizeof answer, 0);
    if (size < 0)
        return errno;
    if (!NLMSG_OK(&answer.header, (size_t)size) || answer.header.nlmsg_type != NLMSG_ERROR)
        return EPROTO;
    return -((struct nlmsgerr *)NLMSG_DATA(&answer.header))->error;
}

static int link_up(int fd, int index, uint32_t mtu, uint32_t queue_length)
{
    struct request request;
    struct ifinfomsg *info = begin(&request, RTM_NEWLINK, 0, sizeof *info);
    info->ifi_family = AF_UNSPEC;
    info->ifi_index = index;
    info->ifi_flags = info->ifi_change = IFF_UP;
    if (mtu)
        attribute(&request, IFLA_MTU, &mtu, sizeof mtu);
    if (queue_length)
        attribute(&request, IFLA_TXQLEN, &queue_length, sizeof queue_length);
    return transact(fd, &request);
}

static int add_address(int fd, int index, int family, const void *address, size_t size, uint32_t prefix)
{
    struct request request;
    struct ifaddrmsg *info = begin(&request, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, sizeof *info);
    info->ifa_family = (unsigned char)family;
    info->ifa_prefixlen = (unsigned char)prefix;
    info->ifa_flags = family == AF_INET6 ? IFA_F_NODAD : 0;
    info->ifa_index = (unsigned)index;
    attribute(&request, IFA_LOCAL, address, size);
    attribute(&request, IFA_ADDRESS, address, size);
    return transact(fd, &request);
}

static int add_default_route(int fd, int index, int family)
{
    struct request request;
    struct rtmsg *info = begin(&request, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, sizeof *info);
    info->rtm_family = (unsigned char)family;
    info->rtm_table = RT_TABLE_MAIN;
    info->rtm_protocol = RTPROT_STATIC;
    info->rtm_scope = family == AF_INET ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE;
    info->rtm_type = RTN_UNICAST;
    attribute(&request, RTA_OIF, &index, sizeof index);
    return transact(fd, &request);
}

static int add_family(int fd, int index, int family, const char *text, uint32_t prefix)
{
    unsigned char address[16];
    if (inet_pton(family, text, address) != 1)
        return EINVAL;
    int error = add_address(fd, index, family, address, family == AF_INET ? 4 : 16, prefix);
    return error ? error : add_default_route(fd, index, family);
}

static int ipv6_setting(const char *interface, const char *name, const char *value)
{
    char path[128];
    snprintf(path, sizeof path, "/proc/sys/net/ipv6/conf/%s/%s", interface, name);
    return zks_nsrun_write_file(path, value);
}

static int open_tun(const struct zks_nsrun_config *config, struct zks_nsrun_report *report)
{
    struct ifreq request;
    /* After unshare: a TUN belongs to the namespace in which the node was opened. */
    int fd = open(config->tun_node, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return zks_nsrun_fail(report, ZKS_NSRUN_TUN_OPEN, errno, config->tun_node);
    memset(&request, 0, sizeof request);
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", config->tun_name);
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    if (config->vnet_hdr)
        request.ifr_flags |= IFF_VNET_HDR;
    if (ioctl(fd, TUNSETIFF, &request) != 0) {
        int error = errno;
        close(fd);
        return zks_nsrun_fail(report, ZKS_NSRUN_TUN_CREATE, error, config->tun_name);
    }
    return fd;
}

static int configure(int fd, const struct zks_nsrun_config *config, struct zks_nsrun_report *report)
{
    const char *name = config->tun_name;
    int index = (int)if_nametoindex(name);
    int error = link_up(fd, (int)if_nametoindex("lo"), 0, 0);
    if (error)
        return zks_nsrun_fail(report, ZKS_NSRUN_NETWORK, error, "lo");
    report->ipv6 = config->address6 && access("/proc/net/if_inet6", F_OK) == 0;
    if (report->ipv6) {
        /* The host's default may be off. These three only keep the link quiet: no link-local address,
         * no router solicitations. A kernel without one of them does no harm. */
        ipv6_setting("all", "disable_ipv6", "0");
        ipv6_setting(name, "disable_ipv6", "0");
        ipv6_setting(name, "accept_ra", "0");
        ipv6_setting(name, "router_solicitations", "0");
        ipv6_setting(name, "addr_gen_mode", "1");
    }
    error = link_up(fd, index, config->mtu, config->queue_length);
    if (!error)
        error = add_family(fd, index, AF_INET, config->address4, config->prefix4);
    if (!error && report->ipv6)
        error = add_family(fd, index, AF_INET6, config->address6, config->prefix6);
    return error ? zks_nsrun_fail(report, ZKS_NSRUN_NETWORK, error, name) : 0;
}

int zks_nsrun_network(const struct zks_nsrun_config *config, struct zks_nsrun_report *report)
{
    int tun = open_tun(config, report);
    if (tun < 0)
        return -1;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    int result = fd < 0 ? zks_nsrun_fail(report, ZKS_NSRUN_NETWORK, errno, "netlink") : configure(fd, config, report);
    if (fd >= 0)
        close(fd);
    if (result != 0) {
        close(tun);
        return -1;
    }
    return tun;
}

#else
typedef int zks_nsrun_net_is_for_linux;
#endif
