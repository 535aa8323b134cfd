/* Echo, on any number of streams by one thread; pings, connections, and streams that are held open. */
#include "load.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_PINGING = 10 }; /* seconds */

void *serve_echo(void *argument)
{
    int listener = (int)(intptr_t)argument, ready = epoll_create1(0), i, n, fd, on = 1;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
    char buffer[4096];
    ssize_t got;

    if (ioctl(listener, FIONBIO, &on))
        die("echo");
    epoll_ctl(ready, EPOLL_CTL_ADD, listener, &event);
    while ((n = epoll_wait(ready, events, 256, -1)) >= 0 || errno == EINTR) {
        for (i = 0; i < n; i++) {
            fd = events[i].data.fd;
            if (fd == listener) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
                    event.data.fd = fd;
                    epoll_ctl(ready, EPOLL_CTL_ADD, fd, &event);
                }
                continue;
            }
            got = recv(fd, buffer, sizeof buffer, 0);
            if (got < 0 && errno == EAGAIN)
                continue;
            if (got <= 0 || send(fd, buffer, (size_t)got, MSG_NOSIGNAL) != got)
                close(fd);
        }
    }
    die("echo");
    return NULL;
}

static double ping_once(int fd)
{
    double begun = now();
    char byte = 'x';

    if (send(fd, &byte, 1, MSG_NOSIGNAL) != 1)
        die("ping");
    errno = 0;
    if (recv(fd, &byte, 1, 0) != 1)
        die("pong");
    return (now() - begun) * 1e6;
}

void ping(int count, double seconds)
{
    int fd = dial(ECHO_PORT), i;
    double until;

    limit(fd, 30);
    for (i = 0; i < 20; i++)
        ping_once(fd);
    until = now() + seconds;
    for (i = 0; i < count && (i == 0 || now() < until); i++)
        printf("%.1f\n", ping_once(fd));
}

struct rate {
    int left;
    double until;
    pthread_mutex_t lock;
    int done;
};

static void *connect_again(void *argument)
{
    struct rate *r = argument;
    int fd, more;

    for (;;) {
        pthread_mutex_lock(&r->lock);
        more = r->left > 0 && now() < r->until;
        r->left -= more;
        pthread_mutex_unlock(&r->lock);
        if (!more)
            return NULL;
        fd = dial(ECHO_PORT);
        limit(fd, 30);
        ping_once(fd);
        close(fd);
        pthread_mutex_lock(&r->lock);
        r->done++;
        pthread_mutex_unlock(&r->lock);
    }
}

void connect_rate(int at_once, int count, double seconds)
{
    struct rate r = {.left = count, .until = now() + seconds};
    pthread_t threads[256];
    double begun = now();
    int i;

    pthread_mutex_init(&r.lock, NULL);
    if (at_once > 256)
        die("at most 256 at a time");
    for (i = 0; i < at_once; i++)
        if (pthread_create(&threads[i], NULL, connect_again, &r))
            die("thread");
    for (i = 0; i < at_once; i++)
        pthread_join(threads[i], NULL);
    printf("%d %.6f\n", r.done, now() - begun);
}

void hold(int count)
{
    struct sockaddr_in a = at(ECHO_PORT);
    int *fds = calloc((size_t)count, sizeof *fds), begun = 0, ended = 0, i, code;
    socklen_t size = sizeof code;
    struct pollfd one;
    char line[64];

    if (!fds)
        die("memory");
    /* Up to 256 connect at a time. */
    while (ended < count) {
        while (begun < count && begun - ended < 256) {
            fds[begun] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
            if (fds[begun] < 0 || (connect(fds[begun], (void *)&a, sizeof a) && errno != EINPROGRESS))
                die("connect");
            begun++;
        }
        one = (struct pollfd){.fd = fds[ended], .events = POLLOUT};
        if (poll(&one, 1, 60000) != 1)
            die("connect: too late");
        if (getsockopt(fds[ended], SOL_SOCKET, SO_ERROR, &code, &size) || code) {
            errno = code;
            die("connect");
        }
        ended++;
    }
    for (i = 0; i < count; i++) {
        code = 0;
        set(fds[i], IPPROTO_TCP, TCP_NODELAY, 1);
        if (ioctl(fds[i], FIONBIO, &code))
            die("blocking");
        limit(fds[i], 30);
    }
    printf("open\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        unsigned long next = 1;
        int pings = atoi(line);
        double until = now() + MAX_PINGING;

        for (i = 0; i < pings && now() < until; i++) {
            next = next * 6364136223846793005UL + 1442695040888963407UL;
            printf("%.1f\n", ping_once(fds[(next >> 33) % (unsigned long)count]));
        }
        printf("done\n");
        fflush(stdout);
    }
}
