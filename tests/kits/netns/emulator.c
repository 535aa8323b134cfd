/* A link between two network namespaces, with delay, loss, rate and a bounded queue; see link.py.
 *
 *     emulator SEED NETNS DEVICE NETNS DEVICE [segments]
 *
 * makes a TUN device in each namespace and forwards packets between the two: "up" is from the first to the second.
 * Both go with this process, which ends at the end of its standard input. Commands, one a line, are answered by a line,
 * "ok" or "error: ..." or what was asked for:
 *
 *     set up|down|both KEY NUMBER...   delay, jitter (ns), loss (packets of 10^9), rate (bit/s; 0: without limit),
 *                                      queue (bytes), blackhole (0, 1)
 *     carrier 0|1                      of the first device
 *     nat INSIDE OUTSIDE               IPv4: what INSIDE sends comes from OUTSIDE, and the other way round; what goes
 *                                      down to another address is lost
 *     nat off
 *     stats                            JSON: what each way has done
 *
 * A packet waits in the queue until those before it are sent (bytes at the rate), then travels for delay, give or take
 * jitter, and never overtakes another. A change holds for packets that come after it; a blackhole takes also those that
 * are on their way. The same packets and the same seed lose the same ones.
 *
 * With "segments", the TCP segments that a kernel sends at once come as one, which takes a third of the CPU time: they
 * count with a header each, but arrive, and are lost, together; there is no translation. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define BILLION 1000000000
#define SLOTS 65536u /* packets on their way in one direction: 1 Gbit/s for 780 ms */
#define BATCH 64     /* packets that are read before others are sent */

struct packet {
    int64_t sent, due;      /* its last bit has left, has arrived (CLOCK_MONOTONIC, ns) */
    uint32_t length, whole; /* on the wire, and in data */
    bool lost;
    uint8_t data[];
};

struct settings {
    uint64_t delay, jitter, loss, rate, queue, blackhole;
};

struct way {
    const char *name;
    int from, to;
    struct settings settings;
    struct packet *ring[SLOTS];
    uint32_t first, waiting, end; /* [first, waiting) travels, [waiting, end) is in the queue */
    uint64_t queued;              /* bytes */
    int64_t free_at, last_due;    /* the link has sent all; the last packet arrives */
    uint64_t random;
    uint64_t packets, bytes;                        /* delivered */
    uint64_t lost, overflowed, blackholed, refused; /* packets; refused: by the device, or by the translation */
    uint64_t late, latest;                          /* ns that packets arrived after they were due: sum, most */
};

static uint8_t buffer[sizeof(struct virtio_net_hdr) + 65536];
static uint32_t prefix;          /* bytes before a packet: its virtio_net_hdr, where segments come together */
static uint32_t inside, outside; /* network byte order; 0: no translation */

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int64_t now(void)
{
    struct timespec t;
    if (clock_gettime(CLOCK_MONOTONIC, &t) < 0)
        fail("clock_gettime");
    return (int64_t)t.tv_sec * BILLION + t.tv_nsec;
}

/* splitmix64: the next of a way's own numbers. */
static uint64_t next_random(struct way *way)
{
    uint64_t z = (way->random += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int open_tun(const char *netns, const char *name)
{
    int space = open(netns, O_RDONLY | O_CLOEXEC);
    if (space < 0 || setns(space, CLONE_NEWNET) < 0)
        fail(netns);
    close(space);
    int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    struct ifreq request = {.ifr_flags = (short)(IFF_TUN | IFF_NO_PI | (prefix ? IFF_VNET_HDR : 0))};
    if (strlen(name) >= sizeof(request.ifr_name)) {
        fprintf(stderr, "%s is too long for a device\n", name);
        exit(1);
    }
    strcpy(request.ifr_name, name);
    if (tun < 0 || ioctl(tun, TUNSETIFF, &request) < 0)
        fail(name);
    if (prefix && ioctl(tun, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) < 0)
        fail(name);
    return tun;
}

/* Change a 16-bit checksum for a change of 32 bits that it covers (RFC 1624 section 3). */
static void adjust(uint8_t *checksum, uint32_t before, uint32_t after)
{
    before = ntohl(before);
    after = ntohl(after);
    uint32_t sum = (uint16_t)~(checksum[0] << 8 | checksum[1]);
    sum += (uint16_t)~(before >> 16);
    sum += (uint16_t)~before;
    sum += (after >> 16) + (after & 0xffff);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    checksum[0] = (uint8_t)(~sum >> 8);
    checksum[1] = (uint8_t)~sum;
}

/* Translate the address at `offset` of an IPv4 packet; false: it is not `from`. Others' packets pass. */
static bool translate(uint8_t *data, uint32_t length, uint32_t offset, uint32_t from, uint32_t to)
{
    uint32_t head = (data[0] & 15u) * 4;
    if (length < 20 || data[0] >> 4 != 4 || length < head)
        return true;
    uint32_t found;
    memcpy(&found, data + offset, 4);
    if (found != from)
        return false;
    memcpy(data + offset, &to, 4);
    adjust(data + 10, from, to);
    bool is_first = !((data[6] & 0x1f) | data[7]);
    uint8_t *sum = data[9] == IPPROTO_TCP ? data + head + 16 : data + head + 6;
    if (!is_first || (data[9] != IPPROTO_TCP && data[9] != IPPROTO_UDP) || sum + 2 > data + length)
        return true;
    if (data[9] == IPPROTO_UDP && !sum[0] && !sum[1])
        return true; /* RFC 768: without a checksum */
    adjust(sum, from, to);
    if (data[9] == IPPROTO_UDP && !sum[0] && !sum[1])
        sum[0] = sum[1] = 0xff;
    return true;
}

static void leave_queue(struct way *way, int64_t at)
{
    while (way->waiting != way->end && way->ring[way->waiting % SLOTS]->sent <= at)
        way->queued -= way->ring[way->waiting++ % SLOTS]->length;
}

/* Bytes on the wire of what is in the buffer: segments that came together have headers each. */
static uint32_t on_wire(uint32_t length)
{
    struct virtio_net_hdr is;
    uint32_t segments;
    if (!prefix)
        return length;
    length -= prefix;
    memcpy(&is, buffer, sizeof(is));
    if (is.gso_type == VIRTIO_NET_HDR_GSO_NONE || !is.gso_size || length <= is.hdr_len)
        return length;
    segments = (length - is.hdr_len + is.gso_size - 1) / is.gso_size;
    return length + (segments - 1) * is.hdr_len;
}

static void take(struct way *way, uint32_t whole, int64_t at)
{
    uint32_t length = on_wire(whole);
    const struct settings *is = &way->settings;
    bool lost = next_random(way) % BILLION < is->loss;
    uint64_t swing = next_random(way) % (2 * is->jitter + 1);
    leave_queue(way, at);
    if (is->blackhole) {
        way->blackholed++;
        return;
    }
    bool is_full = is->rate && way->queued && way->queued + length > is->queue;
    if (is_full || way->end - way->first == SLOTS) {
        way->overflowed++;
        return;
    }
    struct packet *packet = malloc(sizeof(*packet) + whole);
    if (!packet)
        fail("malloc");
    int64_t start = way->free_at > at ? way->free_at : at;
    int64_t travel = (int64_t)(is->delay + swing) - (int64_t)is->jitter;
    packet->sent = start + (is->rate ? (int64_t)(length * 8ull * BILLION / is->rate) : 0);
    packet->due = packet->sent + (travel > 0 ? travel : 0);
    if (packet->due < way->last_due)
        packet->due = way->last_due;
    packet->length = length;
    packet->whole = whole;
    packet->lost = lost;
    memcpy(packet->data, buffer, whole);
    way->free_at = packet->sent;
    way->last_due = packet->due;
    way->queued += length;
    way->ring[way->end++ % SLOTS] = packet;
}

static void deliver(struct way *way, struct packet *packet, int64_t at)
{
    if (packet->lost) {
        way->lost++;
        return;
    }
    ssize_t written = write(way->to, packet->data, packet->whole);
    if (written < 0) { /* EIO: the device is down */
        way->refused++;
        return;
    }
    uint64_t late = (uint64_t)(at - packet->due);
    way->late += late;
    way->latest = late > way->latest ? late : way->latest;
    way->packets++;
    way->bytes += packet->length;
}

/* Deliver what is due; return when the next packet is, INT64_MAX: there is none. */
static int64_t deliver_due(struct way *way)
{
    while (way->first != way->end) {
        struct packet *packet = way->ring[way->first % SLOTS];
        int64_t at = now();
        if (packet->due > at)
            return packet->due;
        leave_queue(way, at);
        way->first++;
        deliver(way, packet, at);
        free(packet);
    }
    return INT64_MAX;
}

static void drop_all(struct way *way)
{
    leave_queue(way, INT64_MAX);
    for (; way->first != way->end; way->blackholed++)
        free(way->ring[way->first++ % SLOTS]);
    way->free_at = way->last_due = 0;
}

static void read_packets(struct way *way, bool goes_up)
{
    for (int i = 0; i < BATCH; i++) {
        ssize_t length = read(way->from, buffer, sizeof(buffer));
        if (length < 0 && errno != EAGAIN && errno != EINTR)
            fail("read");
        if (length <= 0)
            return;
        bool passes = !outside || (goes_up ? translate(buffer, (uint32_t)length, 12, inside, outside)
                                           : translate(buffer, (uint32_t)length, 16, outside, inside));
        if (passes)
            take(way, (uint32_t)length, now());
        else
            way->refused++;
    }
}

/* Carry out "KEY NUMBER..." of `set`; the error, or NULL. */
static const char *change(struct way *ways, bool both)
{
    struct settings *is = &ways[0].settings;
    const struct {
        const char *name;
        uint64_t *value, most;
    } known[] = {
        {"delay", &is->delay, 100ull * BILLION},
        {"jitter", &is->jitter, 100ull * BILLION},
        {"loss", &is->loss, BILLION},
        {"rate", &is->rate, 1000ull * BILLION},
        {"queue", &is->queue, 1000ull * BILLION},
        {"blackhole", &is->blackhole, 1},
    };
    const char *key, *number;
    while ((key = strtok(NULL, " "))) {
        char *end = NULL;
        size_t i = 0, count = sizeof(known) / sizeof(*known);
        while (i < count && strcmp(known[i].name, key))
            i++;
        number = strtok(NULL, " ");
        errno = 0;
        uint64_t value = number && *number >= '0' && *number <= '9' ? strtoull(number, &end, 10) : 0;
        if (i == count || !end || *end || errno || value > known[i].most)
            return "no such setting";
        *known[i].value = value;
        if (both)
            *(uint64_t *)((char *)known[i].value + sizeof(struct way)) = value;
    }
    for (int i = 0; i <= both; i++)
        if (ways[i].settings.blackhole)
            drop_all(&ways[i]);
    return NULL;
}

static const char *translate_from_now(void)
{
    const char *first = strtok(NULL, " "), *second = strtok(NULL, " ");
    struct in_addr a = {0}, b = {0};
    bool is_off = first && !strcmp(first, "off");
    if (prefix)
        return "not with segments";
    if (!is_off && (!first || !second || !inet_aton(first, &a) || !inet_aton(second, &b)))
        return "no addresses";
    inside = a.s_addr;
    outside = b.s_addr;
    return NULL;
}

static void show(const struct way *way)
{
    printf("\"%s\": {\"packets\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"lost\": %" PRIu64 ", \"overflowed\": %" PRIu64
           ", \"blackholed\": %" PRIu64 ", \"refused\": %" PRIu64 ", \"queued\": %" PRIu64 ", \"travelling\": %" PRIu32
           ", \"late\": %.9f, \"latest\": %.9f}",
           way->name, way->packets, way->bytes, way->lost, way->overflowed, way->blackholed, way->refused, way->queued,
           way->end - way->first, (double)way->late / BILLION, (double)way->latest / BILLION);
}

static void carry_out(struct way *ways, char *line)
{
    const char *command = strtok(line, " "), *error = "no such command", *which;
    if (!command)
        command = "";
    if (!strcmp(command, "stats")) {
        printf("{");
        show(&ways[0]);
        printf(", ");
        show(&ways[1]);
        printf("}\n");
        return;
    }
    if (!strcmp(command, "set") && (which = strtok(NULL, " "))) {
        bool both = !strcmp(which, "both"), down = !strcmp(which, "down");
        if (both || down || !strcmp(which, "up"))
            error = change(&ways[down], both);
    } else if (!strcmp(command, "carrier") && (which = strtok(NULL, " "))) {
        int on = !strcmp(which, "1");
        error = ioctl(ways[0].from, TUNSETCARRIER, &on) < 0 ? strerror(errno) : NULL;
    } else if (!strcmp(command, "nat")) {
        error = translate_from_now();
    }
    if (error)
        printf("error: %s\n", error);
    else
        printf("ok\n");
}

/* Carry out the commands that have come; false: there will be none. */
static bool obey(struct way *ways)
{
    static char text[4096];
    static size_t used;
    ssize_t got = read(STDIN_FILENO, text + used, sizeof(text) - 1 - used);
    if (got <= 0)
        return false;
    used += (size_t)got;
    text[used] = 0;
    char *line = text, *end;
    while ((end = strchr(line, '\n'))) {
        *end = 0;
        carry_out(ways, line);
        line = end + 1;
    }
    used = (size_t)(text + used - line);
    memmove(text, line, used);
    return used < sizeof(text) - 1;
}

int main(int count, char **arguments)
{
    static struct way ways[2];
    if (count == 7 && !strcmp(arguments[6], "segments"))
        prefix = sizeof(struct virtio_net_hdr);
    if (count != (prefix ? 7 : 6)) {
        fprintf(stderr, "usage: %s SEED NETNS DEVICE NETNS DEVICE [segments]\n", arguments[0]);
        return 2;
    }
    if (prctl(PR_SET_TIMERSLACK, 1) < 0 || setpriority(PRIO_PROCESS, 0, -20) < 0)
        fail("priority");
    int near = open_tun(arguments[2], arguments[3]), far = open_tun(arguments[4], arguments[5]);
    uint64_t seed = strtoull(arguments[1], NULL, 10);
    const struct settings fast = {.queue = 1 << 20};
    ways[0] = (struct way){.name = "up", .from = near, .to = far, .settings = fast, .random = seed};
    ways[1] = (struct way){.name = "down", .from = far, .to = near, .settings = fast, .random = ~seed};
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("ready\n");
    struct pollfd watched[3] = {{STDIN_FILENO, POLLIN, 0}, {near, POLLIN, 0}, {far, POLLIN, 0}};
    while (true) {
        int64_t up = deliver_due(&ways[0]), down = deliver_due(&ways[1]);
        int64_t next = up < down ? up : down, pause = next - now();
        pause = pause < 0 ? 0 : pause;
        struct timespec t = {pause / BILLION, pause % BILLION};
        if (ppoll(watched, 3, next == INT64_MAX ? NULL : &t, NULL) < 0 && errno != EINTR)
            fail("ppoll");
        for (int i = 0; i < 2; i++)
            if (watched[1 + i].revents)
                read_packets(&ways[i], i == 0);
        if (watched[0].revents && !obey(ways))
            return 0;
    }
}
