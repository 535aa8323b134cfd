/* Bulk. A stream begins with what the client does: u sends, d receives, b both. Of b two bytes follow that say which
 * run it is of; r asks for how much has come up in a run, again and again.
 *
 * Both ways, what either end has received when the time is over counts, and all that is still under way then is
 * dropped: a client that waited for it would measure how much fits into the buffers. */
#include "load.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 256 * 1024, RUNS = 1 << 16 };

/* Of the far end: what has come up on streams both ways. Of a run that has ended something may still come. */
static _Atomic uint64_t came_up[RUNS];

static uint64_t receive_all(int fd, _Atomic uint64_t *also)
{
    static __thread char buffer[CHUNK];
    uint64_t total = 0;
    ssize_t n;

    while ((n = recv(fd, buffer, sizeof buffer, 0)) > 0) {
        total += (uint64_t)n;
        if (also)
            *also += (uint64_t)n;
    }
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

static void tell_what_came_up(int fd, uint16_t run)
{
    uint64_t total;
    char what;

    do {
        total = came_up[run];
    } while (send(fd, &total, sizeof total, MSG_NOSIGNAL) == sizeof total && recv(fd, &what, 1, 0) == 1);
}

static void *serve_stream(void *argument)
{
    int fd = (int)(intptr_t)argument;
    uint64_t total;
    uint16_t run = 0;
    char what = 0;

    if (recv(fd, &what, 1, 0) == 1) {
        if ((what == 'b' || what == 'r') && recv(fd, &run, sizeof run, MSG_WAITALL) != sizeof run)
            what = 0;
        if (what == 'b')
            start(send_until_closed, (void *)(intptr_t)dup(fd));
        if (what == 'd') {
            send_until_closed(argument);
        } else if (what == 'r') {
            tell_what_came_up(fd, run);
        } else {
            total = receive_all(fd, what == 'b' ? &came_up[run] : NULL);
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
    _Atomic uint64_t received;
    pthread_t sender, receiver;
};

static void *send_for(void *argument)
{
    static const char buffer[CHUNK];
    struct stream *s = argument;

    while ((s->what == 'b' || now() < s->until) && send(s->fd, buffer, sizeof buffer, MSG_NOSIGNAL) > 0)
        continue;
    shutdown(s->fd, SHUT_WR);
    return NULL;
}

static void *receive_for(void *argument)
{
    static __thread char buffer[CHUNK];
    struct stream *s = argument;
    ssize_t n = 0;

    while ((s->what == 'b' || now() < s->until) && (n = recv(s->fd, buffer, sizeof buffer, 0)) > 0)
        s->received += (uint64_t)n;
    if (n <= 0 && now() < s->until)
        die("bulk");
    return NULL;
}

static uint64_t read_what_came_up(int fd)
{
    uint64_t total;

    if (recv(fd, &total, sizeof total, MSG_WAITALL) != sizeof total)
        die("what came up");
    return total;
}

static void sleep_until(double then)
{
    double left = then - now();
    struct timespec t = {.tv_sec = (time_t)left, .tv_nsec = (long)((left - (double)(time_t)left) * 1e9)};

    if (left > 0)
        nanosleep(&t, NULL);
}

/* Say which run a stream is of. */
static void send_run(int fd)
{
    uint16_t run = (uint16_t)getpid();

    if (send(fd, &run, sizeof run, MSG_NOSIGNAL) != sizeof run)
        die("send");
}

/* End what the threads of a stream wait for, and at the end of the process all that is under way. */
static void drop(int fd)
{
    struct linger none = {.l_onoff = 1};

    setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    shutdown(fd, SHUT_RDWR);
}

/* Wait until the time is over, and return what has come both ways until then. */
static uint64_t receive_both(struct stream *streams, int count, int asking, uint64_t before, double *ended)
{
    uint64_t up, down = 0;
    int i;

    sleep_until(streams[0].until);
    if (send(asking, "r", 1, MSG_NOSIGNAL) != 1)
        die("send");
    up = read_what_came_up(asking) - before;
    for (i = 0; i < count; i++)
        down += streams[i].received;
    *ended = now();
    for (i = 0; i < count; i++)
        drop(streams[i].fd);
    return up + down;
}

void bulk(const char *way, int count, double seconds)
{
    struct stream *streams = calloc((size_t)count, sizeof *streams);
    uint64_t total = 0, before = 0, took;
    double begun, ended = 0;
    int i, asking = -1;

    if (!streams)
        die("memory");
    if (way[0] == 'b') {
        asking = dial(BULK_PORT);
        limit(asking, seconds + 30);
        if (send(asking, "r", 1, MSG_NOSIGNAL) != 1)
            die("send");
        send_run(asking);
        before = read_what_came_up(asking);
    }
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
        if (s->what == 'b')
            send_run(s->fd);
        if (s->what != 'd' && pthread_create(&s->sender, NULL, send_for, s))
            die("thread");
        if (s->what != 'u' && pthread_create(&s->receiver, NULL, receive_for, s))
            die("thread");
    }
    if (way[0] == 'b')
        total = receive_both(streams, count, asking, before, &ended);
    for (i = 0; i < count; i++) {
        struct stream *s = &streams[i];

        if (s->what != 'u')
            pthread_join(s->receiver, NULL);
        if (s->what != 'd')
            pthread_join(s->sender, NULL);
        if (s->what == 'd')
            total += s->received;
    }
    for (i = 0; i < count && way[0] == 'u'; i++) {
        if (recv(streams[i].fd, &took, sizeof took, MSG_WAITALL) != sizeof took)
            die("what the far end received");
        total += took;
    }
    if (way[0] != 'b')
        ended = now();
    printf("%llu %.6f\n", (unsigned long long)total, ended - begun);
}
