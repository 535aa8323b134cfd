/*
 * The load of the benchmark: a server for the far end, and clients that print what they measured.
 *
 *   load serve ADDRESS N                      every server, echo by N processes; prints "ready"
 *   load bulk ADDRESS up|down|both N SECONDS  N streams: bytes received and seconds
 *   load ping ADDRESS COUNT SECONDS           one byte there and back: microseconds, one a line
 *   load connect ADDRESS N COUNT SECONDS      connect, a byte there and back, close; N at a time
 *   load hold ADDRESS COUNT                   opens streams, prints "open"; then, for each line of
 *                                             its input, that many pings on random ones,
 *                                             and "done"; for 10 s at most
 *   load udp ADDRESS up|down RATE SECONDS     datagrams of 1,200 bytes: sent and received
 *   load dns ADDRESS N SECONDS                queries for fresh names, N at a time: as ping
 *
 * All of it is IPv4. What goes wrong ends a client with 1 and a line on standard error.
 */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct in_addr load_address;

void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, errno ? strerror(errno) : "it ended");
    exit(1);
}

double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

struct sockaddr_in at(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};

    a.sin_addr = load_address;
    return a;
}

void set(int fd, int level, int name, int value) { setsockopt(fd, level, name, &value, sizeof value); }

void limit(int fd, double seconds)
{
    struct timeval t = {.tv_sec = (time_t)seconds, .tv_usec = 1};

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
}

int listen_at(int port)
{
    struct sockaddr_in a = at(port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (fd < 0 || bind(fd, (void *)&a, sizeof a) || listen(fd, 32768))
        die("listen");
    return fd;
}

int dial(int port)
{
    struct sockaddr_in a = at(port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd < 0 || connect(fd, (void *)&a, sizeof a))
        die("connect");
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    return fd;
}

int udp_socket(int port)
{
    struct sockaddr_in a = at(port);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    set(fd, SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20);
    set(fd, SOL_SOCKET, SO_SNDBUFFORCE, 4 << 20);
    if (fd < 0 || (port ? bind(fd, (void *)&a, sizeof a) : 0))
        die("udp");
    return fd;
}

void start(void *(*run)(void *), void *argument)
{
    pthread_t thread;
    pthread_attr_t small;

    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 1 << 20); /* thread-local buffers count */
    pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
    errno = pthread_create(&thread, &small, run, argument);
    if (errno)
        die("thread");
}

static void serve(int echoes)
{
    int echo = listen_at(ECHO_PORT);

    while (--echoes > 0) {
        pid_t child = fork();

        if (child < 0)
            die("fork");
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            serve_echo((void *)(intptr_t)echo);
        }
    }
    start(serve_bulk, (void *)(intptr_t)listen_at(BULK_PORT));
    start(serve_udp, (void *)(intptr_t)udp_socket(UDP_PORT));
    start(serve_dns, (void *)(intptr_t)udp_socket(DNS_PORT));
    printf("ready\n");
    fflush(stdout);
    serve_echo((void *)(intptr_t)echo);
}

int main(int count, char **words)
{
    struct rlimit most;

    if (!getrlimit(RLIMIT_NOFILE, &most)) {
        most.rlim_cur = most.rlim_max;
        setrlimit(RLIMIT_NOFILE, &most);
    }
    errno = 0;
    if (count < 3 || !inet_aton(words[2], &load_address)) {
        fprintf(stderr, "usage: load WHAT ADDRESS ..., see load.c\n");
        return 2;
    }
    if (!strcmp(words[1], "serve") && count == 4)
        serve(atoi(words[3]));
    else if (!strcmp(words[1], "bulk") && count == 6)
        bulk(words[3], atoi(words[4]), atof(words[5]));
    else if (!strcmp(words[1], "ping") && count == 5)
        ping(atoi(words[3]), atof(words[4]));
    else if (!strcmp(words[1], "connect") && count == 6)
        connect_rate(atoi(words[3]), atoi(words[4]), atof(words[5]));
    else if (!strcmp(words[1], "hold") && count == 4)
        hold(atoi(words[3]));
    else if (!strcmp(words[1], "udp") && count == 6)
        udp(words[3], atof(words[4]), atof(words[5]));
    else if (!strcmp(words[1], "dns") && count == 5)
        dns(atoi(words[3]), atof(words[4]));
    else
        return 2;
    return 0;
}
