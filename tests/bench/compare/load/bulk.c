/* Bulk. A stream begins with what the client does: u sends, d receives, b both. */
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CHUNK = 256 * 1024 };

static uint64_t receive_all(int fd)
{
    static __thread char buffer[CHUNK];
    uint64_t total = 0;
    ssize_t n;

    while ((n = recv(fd, buffer, sizeof buffer, 0)) > 0)
        total += (uint64_t)n;
    return total;
}

static void *send_until_closed(void *argument)
{
    static const char buffer[CHUNK];
    int fd = (int)(intptr_t)argument;

    while (send(fd, buffer, sizeof buffer, MSG_NOSIGNAL) > 0)
        continue;
    return NULL;
}

static void *serve_stream(void *argument)
{
    int fd = (int)(intptr_t)argument;
    uint64_t total;
    char what = 0;

    if (recv(fd, &what, 1, 0) == 1) {
        if (what == 'b')
            start(send_until_closed, (void *)(intptr_t)dup(fd));
        if (what == 'd') {
            send_until_closed(argument);
        } else {
            total = receive_all(fd);
            if (what == 'u')
                send(fd, &total, sizeof total, MSG_NOSIGNAL);
            shutdown(fd, SHUT_RDWR);
        }
    }
    close(fd);
    return NULL;
}

void *serve_bulk(void *argument)
{
    int listener = (int)(intptr_t)argument, fd;

    while ((fd = accept(listener, NULL, NULL)) >= 0)
        start(serve_stream, (void *)(intptr_t)fd);
    die("accept");
    return NULL;
}

struct stream {
    int fd;
    char what;
    double until;
    uint64_t received;
    pthread_t sender, receiver;
};

static void *send_for(void *argument)
{
    static const char buffer[CHUNK];
    struct stream *s = argument;

    while (now() < s->until && send(s->fd, buffer, sizeof buffer, MSG_NOSIGNAL) > 0)
        continue;
    shutdown(s->fd, SHUT_WR);
    return NULL;
}

static void *receive_for(void *argument)
{
    static __thread char buffer[CHUNK];
    struct stream *s = argument;
    ssize_t n = 0;

    while (now() < s->until && (n = recv(s->fd, buffer, sizeof buffer, 0)) > 0)
        s->received += (uint64_t)n;
    /* Both ways, the far end closes when it has been told that the time is over. */
    if (n <= 0 && now() < s->until)
        die("bulk");
    return NULL;
}

void bulk(const char *way, int count, double seconds)
{
    struct stream *streams = calloc((size_t)count, sizeof *streams);
    uint64_t up = 0, down = 0, took;
    double begun, ended;
    int i;

    if (!streams)
        die("memory");
    for (i = 0; i < count; i++) {
        streams[i].fd = dial(BULK_PORT);
        streams[i].what = way[0];
        limit(streams[i].fd, seconds + 30);
    }
    begun = now();
    for (i = 0; i < count; i++) {
        struct stream *s = &streams[i];

        s->until = begun + seconds;
        if (send(s->fd, &s->what, 1, MSG_NOSIGNAL) != 1)
            die("send");
        if (s->what != 'd' && pthread_create(&s->sender, NULL, send_for, s))
            die("thread");
        if (s->what != 'u' && pthread_create(&s->receiver, NULL, receive_for, s))
            die("thread");
    }
    for (i = 0; i < count; i++) {
        struct stream *s = &streams[i];

        if (s->what != 'u')
            pthread_join(s->receiver, NULL);
        if (s->what != 'd')
            pthread_join(s->sender, NULL);
        down += s->received;
    }
    for (i = 0; i < count && way[0] == 'u'; i++) {
        if (recv(streams[i].fd, &took, sizeof took, MSG_WAITALL) != sizeof took)
            die("what the far end received");
        up += took;
    }
    ended = now();
    printf("%llu %.6f\n", (unsigned long long)(up + down), ended - begun);
}
