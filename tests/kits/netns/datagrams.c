/* UDP load: datagrams at a steady rate, and their count at the other end.
 *
 *   datagrams send HOST PORT RATE SECONDS SIZE FLOWS    FLOWS sockets, in turn
 *   datagrams receive HOST PORT                         until nothing has come for 0.7 s after the first
 *   datagrams answer HOST PORT RATE SECONDS SIZE FLOWS  sends to the first FLOWS that have said something
 *   datagrams ask HOST PORT FLOWS                       says something by FLOWS sockets, and counts what comes
 *
 * Prints "ready", then "sent N in SECONDS" or "received N". The sender sends what is due every 200 µs; when it was kept
 * from running for more than 2 ms, what it is late with is not made up for: that would be a burst that was not asked
 * for. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST_FLOWS 1024
#define BATCH 64
#define STEP 200e-6
#define LATE 2e-3
#define ROOM (32 << 20)

static uint8_t payload[65536];
static struct mmsghdr messages[BATCH];
static struct iovec parts[BATCH];
static struct sockaddr_storage peers[MOST_FLOWS];
static socklen_t peer_sizes[MOST_FLOWS];
static int sockets[MOST_FLOWS];

static _Noreturn void fail(const char *what)
{
    perror(what);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int open_socket(const char *host, const char *port, int far)
{
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV}, *found;
    int fd, size = ROOM, failed;
    if (getaddrinfo(host, port, &hints, &found))
        fail("address");
    fd = socket(found->ai_family, SOCK_DGRAM, 0);
    if (fd < 0)
        fail("socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
    failed = far ? connect(fd, found->ai_addr, found->ai_addrlen) : bind(fd, found->ai_addr, found->ai_addrlen);
    if (failed)
        fail(far ? "connect" : "bind");
    freeaddrinfo(found);
    return fd;
}

static void prepare(size_t size)
{
    int i;
    for (i = 0; i < BATCH; i++) {
        parts[i].iov_base = payload;
        parts[i].iov_len = size;
        memset(&messages[i].msg_hdr, 0, sizeof messages[i].msg_hdr);
        messages[i].msg_hdr.msg_iov = &parts[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
}

/* Sends so many datagrams, by the sockets in turn, or by the first one to the peers in turn. */
static long send_some(long count, int flows, int answer)
{
    static int turn;
    long sent = 0;
    while (count > 0) {
        int n = 1, i, fd = sockets[answer ? 0 : turn];
        if (answer || flows == 1)
            n = count < BATCH ? (int)count : BATCH;
        for (i = 0; answer && i < n; i++) {
            messages[i].msg_hdr.msg_name = &peers[(turn + i) % flows];
            messages[i].msg_hdr.msg_namelen = peer_sizes[(turn + i) % flows];
        }
        i = sendmmsg(fd, messages, (unsigned)n, 0);
        if (i < 0 && errno != ECONNREFUSED && errno != ENOBUFS)
            fail("send");
        if (i < 0)
            i = 0;
        turn = (turn + n) % flows;
        sent += i;
        count -= n;
    }
    return sent;
}

static void send_at_rate(double rate, double seconds, int flows, int answer)
{
    double begin = now(), due = begin, at;
    long sent = 0;
    while ((at = now()) < begin + seconds) {
        struct timespec pause = {0, (long)(STEP * 1e9)};
        if (at - due > LATE)
            due = at - LATE;
        if (at > due) {
            long count = (long)((at - due) * rate);
            sent += send_some(count, flows, answer);
            due += (double)count / rate;
        }
        nanosleep(&pause, NULL);
    }
    printf("sent %ld in %.3f\n", sent, now() - begin);
}

/* Counts what comes by so many sockets until 0.7 s have passed without any. */
static void receive(int flows)
{
    static struct pollfd polled[MOST_FLOWS];
    long count = 0;
    int i;
    for (i = 0; i < flows; i++) {
        polled[i].fd = sockets[i];
        polled[i].events = POLLIN;
    }
    prepare(sizeof payload);
    while (poll(polled, (nfds_t)flows, count ? 700 : 20000) > 0)
        for (i = 0; i < flows; i++) {
            int n = 0;
            while (polled[i].revents && (n = recvmmsg(sockets[i], messages, BATCH, MSG_DONTWAIT, NULL)) > 0)
                count += n;
        }
    printf("received %ld\n", count);
}

int main(int argc, char **argv)
{
    int i, flows = 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 8 && !strcmp(argv[1], "send")) {
        flows = atoi(argv[7]);
        for (i = 0; i < flows && i < MOST_FLOWS; i++)
            sockets[i] = open_socket(argv[2], argv[3], 1);
        prepare((size_t)atoi(argv[6]));
        for (i = 0; i < flows; i++) /* each has its association before the load */
            if (send(sockets[i], payload, 1, 0) < 0)
                fail("send");
        nanosleep(&(struct timespec){0, 300000000}, NULL);
        puts("ready");
        send_at_rate(atof(argv[4]), atof(argv[5]), flows, 0);
    } else if (argc == 4 && !strcmp(argv[1], "receive")) {
        sockets[0] = open_socket(argv[2], argv[3], 0);
        puts("ready");
        receive(1);
    } else if (argc == 8 && !strcmp(argv[1], "answer")) {
        flows = atoi(argv[7]);
        sockets[0] = open_socket(argv[2], argv[3], 0);
        puts("ready");
        for (i = 0; i < flows && i < MOST_FLOWS; i++) {
            peer_sizes[i] = sizeof peers[i];
            if (recvfrom(sockets[0], payload, sizeof payload, 0, (struct sockaddr *)&peers[i], &peer_sizes[i]) < 0)
                fail("receive");
        }
        prepare((size_t)atoi(argv[6]));
        send_at_rate(atof(argv[4]), atof(argv[5]), flows, 1);
    } else if (argc == 5 && !strcmp(argv[1], "ask")) {
        flows = atoi(argv[4]);
        for (i = 0; i < flows && i < MOST_FLOWS; i++) {
            sockets[i] = open_socket(argv[2], argv[3], 1);
            if (send(sockets[i], payload, 1, 0) < 0)
                fail("send");
        }
        puts("ready");
        receive(flows);
    } else {
        fputs("datagrams send | receive | answer | ask: see the source\n", stderr);
        return 2;
    }
    return 0;
}
