/* Runs of UDP frames, hostile ones too: found and cut as the plainest code does it; sent by sockets whose system calls
 * are played here, to allowed hosts only, each datagram once and in order; received, and told as frames. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "env.h"
#include "udp/zks_udp_frames.h"
#include "udp/zks_udp_sockets.h"

#define FLOWS 6u
#define MOST 300u

static const char *const hosts[] = {"192.0.2.1", "2001:db8::1", "10.0.0.1", "fd00::1", "1.2.3", "192.0.2.9"};
enum { KNOWN = 5, ALLOWED = 2, REFUSED = 4 }; /* the first are allowed, the next refused, one is nonsense */

static const uint8_t *at, *end;
static uint8_t u8(void) { return at < end ? *at++ : 0; }

/* ---- the plainest code that does the same ---- */
struct plain {
    uint32_t association, port, host_length, length, size;
    const uint8_t *host, *payload;
};

static int read_plain(struct plain *f, const uint8_t *p, size_t left)
{
    static const char literal[] = "0123456789abcdefABCDEF:.";
    uint32_t i;
    if (left < 9 || p[0] != 7)
        return 0;
    f->association = (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | p[4];
    f->port = (uint32_t)p[5] << 8 | p[6];
    f->host_length = (uint32_t)p[7] << 8 | p[8];
    f->host = p + 9;
    if (f->host_length < 1 || f->host_length > 45 || left < 9u + f->host_length + 4u)
        return 0;
    for (i = 0; i < f->host_length; i++)
        if (!f->host[i] || !strchr(literal, f->host[i]))
            return 0;
    p = f->host + f->host_length;
    f->length = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    f->payload = p + 4;
    f->size = 9 + f->host_length + 4 + f->length;
    return f->length <= 65507 && left - (9 + f->host_length + 4) >= f->length;
}

static void check_scan(const uint8_t *bytes, size_t size, struct zks_udp_run *run, uint32_t *ids)
{
    struct zks_udp_run plain;
    struct plain f;
    uint32_t i, most = 1 + u8() % 64, limit = 1 + u8(), count, all[64];
    size_t cut, place = 0;
    memset(&plain, 0, sizeof plain);
    CHECK(zks_udp_scan(bytes, size, limit, ids, most, run) == run->frames);
    while (plain.frames < limit && read_plain(&f, bytes + plain.size, size - plain.size) && f.association) {
        for (i = 0; i < plain.associations && all[i] != f.association; i++)
            ;
        if (i == plain.associations && i == most)
            break;
        if (i == plain.associations)
            all[plain.associations++] = f.association;
        plain.frames++;
        plain.size += f.size;
        plain.payload += f.length;
    }
    CHECK(!memcmp(&plain, run, sizeof plain) && !memcmp(all, ids, plain.associations * sizeof *all));
    cut = (size_t)u8() << u8() % 16;
    place = zks_udp_cut(bytes, run->size, cut, 0, &count);
    CHECK(place <= cut && place <= run->size && count <= run->frames);
    CHECK(count == run->frames || (read_plain(&f, bytes + place, run->size - place) && place + f.size > cut));
    place = zks_udp_cut(bytes, run->size, cut, 1, &count);
    CHECK(place <= run->size && (place >= cut || count == run->frames));
}

/* ---- the system ---- */
static struct {
    struct plain expected[MOST]; /* what may be sent, in order */
    uint8_t done[MOST];
    uint32_t count;
    uint32_t sent;
} far;

static int failure(void)
{
    static const int errors[] = {EAGAIN, ECONNREFUSED, EINVAL, EMSGSIZE, EINTR, ENETUNREACH, ENOBUFS, EPERM};
    uint8_t how = u8();
    if (how < 200)
        return 0;
    errno = errors[how % 8];
    return 1;
}

/* One datagram has been given to a socket: it must be one that is expected there, and none before it sent later. */
static void datagram_sent(int fd, const struct sockaddr *name, const uint8_t *payload, size_t length)
{
    uint32_t i, last = 0, found = MOST;
    for (i = 0; i < far.count; i++) {
        const struct plain *f = &far.expected[i];
        int four = memchr(f->host, ':', f->host_length) == NULL;
        if (fd != (int)(f->association * 2 + (four ? 0 : 1)))
            continue;
        if (far.done[i])
            last = i + 1;
        if (f->payload == payload)
            found = i;
        if (f->payload == payload) {
            char text[46];
            CHECK(f->length == length && !far.done[i]);
            CHECK(name->sa_family == (four ? AF_INET : AF_INET6));
            if (four) {
                const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)name;
                CHECK(ntohs(in->sin_port) == f->port && inet_ntop(AF_INET, &in->sin_addr, text, sizeof text));
            } else {
                const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)(const void *)name;
                CHECK(ntohs(in->sin6_port) == f->port && inet_ntop(AF_INET6, &in->sin6_addr, text, sizeof text));
            }
            CHECK(strlen(text) == f->host_length && !memcmp(text, f->host, f->host_length));
        }
    }
    CHECK(found < MOST && found >= last);
    far.done[found] = 1;
    far.sent++;
}

ssize_t sendto(int fd, const void *bytes, size_t length, int flags, const struct sockaddr *name, socklen_t size)
{
    (void)flags, (void)size;
    if (failure())
        return -1;
    datagram_sent(fd, name, bytes, length);
    return (ssize_t)length;
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
    unsigned n;
    size_t i;
    (void)flags;
    CHECK(count);
    for (n = 0; n < count; n++) {
        struct msghdr *m = &messages[n].msg_hdr;
        struct cmsghdr *control = m->msg_controllen ? CMSG_FIRSTHDR(m) : NULL;
        size_t total = 0;
        uint16_t each = 0;
        if (failure())
            return n ? (int)n : -1;
        CHECK(m->msg_iovlen == 1 || control);
        if (control) {
            CHECK(control->cmsg_level == 17 && control->cmsg_type == 103);
            memcpy(&each, CMSG_DATA(control), sizeof each);
            CHECK(m->msg_iovlen <= 64 && each);
        }
        for (i = 0; i < m->msg_iovlen; i++) {
            size_t length = m->msg_iov[i].iov_len;
            /* the system cuts at every `each` bytes, wherever a part begins */
            CHECK(!control || length == each || (i + 1 == m->msg_iovlen && length && length < each));
            datagram_sent(fd, m->msg_name, m->msg_iov[i].iov_base, length);
            total += length;
        }
        CHECK(total <= 65507);
        messages[n].msg_len = (unsigned)total;
    }
    return (int)n;
}

static struct {
    uint8_t bytes[16][65536];
    struct {
        struct sockaddr_in6 source;
        uint32_t length, each, host;
    } messages[16];
    int count, given;
} near;

static int give(struct sockaddr *name, uint8_t *bytes, size_t room, int *each)
{
    int n = near.given;
    if (n == near.count || failure()) {
        if (n == near.count)
            errno = EAGAIN;
        return -1;
    }
    CHECK(room >= near.messages[n].length);
    memcpy(bytes, near.bytes[n], near.messages[n].length);
    memcpy(name, &near.messages[n].source, sizeof near.messages[n].source);
    *each = (int)near.messages[n].each;
    return near.given++;
}

ssize_t recvfrom(int fd, void *bytes, size_t room, int flags, struct sockaddr *name, socklen_t *size)
{
    int each, n = give(name, bytes, room, &each);
    (void)fd, (void)flags, (void)size;
    if (n < 0)
        return -1;
    near.messages[n].each = near.messages[n].length; /* nothing tells */
    return (ssize_t)near.messages[n].length;
}

int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout)
{
    unsigned n;
    (void)fd, (void)flags, (void)timeout;
    for (n = 0; n < count; n++) {
        struct msghdr *m = &messages[n].msg_hdr;
        int each, got = give(m->msg_name, m->msg_iov[0].iov_base, m->msg_iov[0].iov_len, &each);
        if (got < 0)
            return n ? (int)n : -1;
        messages[n].msg_len = near.messages[got].length;
        if (each && (uint32_t)each < near.messages[got].length) {
            struct cmsghdr *control = m->msg_control;
            CHECK(m->msg_controllen >= CMSG_SPACE(sizeof each));
            control->cmsg_level = 17;
            control->cmsg_type = 104;
            control->cmsg_len = CMSG_LEN(sizeof each);
            memcpy(CMSG_DATA(control), &each, sizeof each);
        } else {
            m->msg_controllen = 0;
        }
    }
    return (int)n;
}

/* ---- what is done ---- */
static void know_hosts(zks_udp_hosts *table)
{
    uint8_t address[16];
    int i;
    for (i = 0; i < KNOWN; i++) {
        int family = strchr(hosts[i], ':') ? 6 : 4;
        int verdict = i < ALLOWED ? ZKS_UDP_ALLOWED : i < REFUSED ? ZKS_UDP_REFUSED : ZKS_UDP_NONSENSE;
        size_t length = strlen(hosts[i]);
        memset(address, 0, sizeof address);
        inet_pton(family == 4 ? AF_INET : AF_INET6, hosts[i], address);
        zks_udp_hosts_put(table, (const uint8_t *)hosts[i], length, verdict, family, address);
        zks_udp_hosts_put_source(table, family, address, verdict, (const uint8_t *)hosts[i], length);
    }
}

static int is_host(const struct plain *f, int i)
{
    return f->host_length == strlen(hosts[i]) && !memcmp(f->host, hosts[i], f->host_length);
}

static void send_run(const zks_udp_hosts *table, const uint8_t *frames, size_t size, const uint32_t *ids,
                     uint32_t count)
{
    struct zks_udp_flow flows[64];
    struct zks_udp_sent sent;
    struct zks_udp_problem problems[256];
    struct plain f;
    uint32_t i, refused = 0, told = 0, place;
    int result, flags = u8() % 4, h;
    for (i = 0; i < count; i++) {
        flows[i].association = ids[i];
        flows[i].errors = 0;
        flows[i].fd4 = (intptr_t)(ids[i] * 2);
        flows[i].fd6 = u8() < 230 ? (intptr_t)(ids[i] * 2 + 1) : -1;
        if (ids[i] > 1u << 20)
            flows[i].fd4 = -1;
    }
    memset(&far, 0, sizeof far);
    for (place = 0; far.count < MOST && read_plain(&f, frames + place, size - place); place += f.size)
        if (f.port && (is_host(&f, 0) || is_host(&f, 1)))
            far.expected[far.count++] = f;
    result = zks_udp_send(table, frames, size, flows, count, flags, &sent, problems);
    CHECK(sent.offset <= size && far.sent == sent.datagrams && sent.problems <= 256 && sent.problems <= sent.dropped);
    for (place = 0, i = 0; place < sent.offset; place += f.size, i++) {
        CHECK(read_plain(&f, frames + place, size - place));
        refused += f.port && (is_host(&f, 2) || is_host(&f, 3));
    }
    CHECK(place == sent.offset && i == sent.datagrams + sent.dropped);
    for (i = 0; i < sent.problems; i++) {
        CHECK(problems[i].offset < sent.offset && read_plain(&f, frames + problems[i].offset, size));
        told += !problems[i].error;
    }
    CHECK(told == refused);
    if (result != ZKS_UDP_DONE) {
        CHECK(read_plain(&f, frames + place, size - place));
        for (h = 0; h < KNOWN && !is_host(&f, h); h++)
            ;
        CHECK((h == KNOWN) == (result == ZKS_UDP_HOST));
    }
}

/* Bytes of the datagrams that a message is of. */
static uint32_t each_of(int message)
{
    uint32_t each = near.messages[message].each, length = near.messages[message].length;
    return each && each < length ? each : length;
}

static void receive_some(zks_udp_hosts *table)
{
    static uint8_t out[1 << 18];
    zks_udp_inbox *inbox = zks_udp_inbox_new();
    struct zks_udp_received received;
    struct plain f;
    uint32_t expected = 0, told = 0, j;
    int i, n, drained, result, rounds, next = 0, part = 0;
    if (!inbox)
        return;
    near.given = 0;
    near.count = u8() % 17;
    for (i = 0; i < near.count; i++) {
        uint32_t which = u8() % 6, length = ((uint32_t)u8() << 8 | u8()) >> u8() % 12;
        near.messages[i].length = length;
        near.messages[i].each = u8() & 1 ? 1 + (uint32_t)u8() * 9 : 0;
        if (near.messages[i].each && length / near.messages[i].each > 64)
            near.messages[i].each = length;
        near.messages[i].host = which;
        memset(&near.messages[i].source, 0, sizeof near.messages[i].source);
        if (strchr(hosts[which], ':')) {
            near.messages[i].source.sin6_family = AF_INET6;
            near.messages[i].source.sin6_port = htons((uint16_t)(1000 + i));
            inet_pton(AF_INET6, hosts[which], &near.messages[i].source.sin6_addr);
        } else {
            struct sockaddr_in *in = (struct sockaddr_in *)(void *)&near.messages[i].source;
            in->sin_family = AF_INET;
            in->sin_port = htons((uint16_t)(1000 + i));
            inet_pton(AF_INET, hosts[which], &in->sin_addr);
        }
        for (j = 0; j < length; j++)
            near.bytes[i][j] = (uint8_t)(j * 7 + (uint32_t)i);
    }
    n = zks_udp_receive(inbox, 3, u8() & 1, &drained);
    CHECK(n <= near.given && (n >= 0 || !near.given));
    for (i = 0; i < n; i++) {
        uint32_t each = each_of(i);
        expected += each ? (near.messages[i].length + each - 1) / each : 1;
    }
    for (rounds = 0; rounds < 2000; rounds++) {
        uint32_t size = 65565 + u8() * 256u, place;
        result = zks_udp_inbox_frames(inbox, table, 9, out, size, &received);
        CHECK(received.size <= size);
        told += received.datagrams + received.dropped;
        for (place = 0; place < received.size; place += f.size) {
            uint32_t each;
            CHECK(read_plain(&f, out + place, received.size - place) && f.association == 9);
            while (near.messages[next].host >= ALLOWED || each_of(next) > 65507) {
                next++;
                CHECK(next < n);
            }
            each = each_of(next);
            CHECK(f.port == 1000u + (uint32_t)next && is_host(&f, (int)near.messages[next].host));
            j = (uint32_t)part * each;
            CHECK(f.length == (near.messages[next].length - j < each ? near.messages[next].length - j : each));
            CHECK(!memcmp(f.payload, near.bytes[next] + j, f.length));
            part++;
            if (j + f.length == near.messages[next].length)
                next++, part = 0;
        }
        if (result == ZKS_UDP_DONE)
            break;
        if (result == ZKS_UDP_HOST) { /* the one that was not known */
            zks_udp_hosts_put_source(table, received.family, received.address, ZKS_UDP_REFUSED,
                                     (const uint8_t *)hosts[5], strlen(hosts[5]));
        } else {
            CHECK(result == ZKS_UDP_FULL && received.size);
        }
    }
    CHECK(rounds < 2000 && told == expected);
    zks_udp_inbox_free(inbox);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    zks_udp_hosts *table = zks_udp_hosts_new(1);
    struct zks_udp_run run;
    uint32_t ids[64], used = 0, count, i, last = 0;
    static uint8_t made[1 << 20];
    uint8_t *frames;
    at = data;
    end = data + size;
    know_hosts(table);
    count = u8();
    for (i = 0; i < count; i++) {
        uint8_t how = u8();
        const char *host = hosts[how & 1 ? 0 : u8() % 6];
        uint32_t length = how & 2 ? last : ((uint32_t)u8() << 8 | u8()) >> how % 16, bytes = (uint32_t)strlen(host);
        length %= 65510;
        if (used + 22 + bytes + length > sizeof made)
            break;
        last = length;
        memset(made + used, (int)i, 13 + bytes + length);
        made[used] = 7;
        memset(made + used + 1, 0, 8);
        made[used + 4] = (uint8_t)(1 + (how >> 2) % FLOWS);
        made[used + 6] = how < 250 ? 99 : 0;
        made[used + 8] = (uint8_t)bytes;
        memcpy(made + used + 9, host, bytes);
        made[used + 9 + bytes] = made[used + 10 + bytes] = 0;
        made[used + 11 + bytes] = (uint8_t)(length >> 8);
        made[used + 12 + bytes] = (uint8_t)length;
        used += 13 + bytes + length;
    }
    for (i = u8() % 4; i && used; i--)
        made[((uint32_t)u8() << 8 | u8()) % used] = u8();
    while (at < end && used < sizeof made && u8() > 250)
        made[used++] = u8();
    frames = malloc(used ? used : 1); /* so that reading past it shows */
    memcpy(frames, made, used);
    check_scan(frames, used, &run, ids);
    if (run.frames)
        send_run(table, frames, run.size, ids, run.associations);
    receive_some(table);
    free(frames);
    zks_udp_hosts_free(table);
    CHECK(!env_live);
    return 0;
}
