/*
 * UDP. A datagram begins with the number of the run and what it is: 'd' data, 'q' how many of this
 * run have come, 's' send at a rate for a time.
 */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { DATAGRAM = 1200, MAX_BATCH = 32 };

struct head {
    uint64_t run;
    uint64_t count;
    double rate, seconds;
    char what;
};

static uint64_t send_at(int fd, const struct sockaddr_in *to, uint64_t run, double rate, double seconds)
{
    static __thread char packets[MAX_BATCH][DATAGRAM];
    static __thread struct mmsghdr messages[MAX_BATCH];
    static __thread struct iovec vectors[MAX_BATCH];
    struct sockaddr_in there = *to;
    struct timespec little = {.tv_nsec = 50000};
    double begun = now(), passed;
    uint64_t sent = 0;
    long due;
    int i, n;

    for (i = 0; i < MAX_BATCH; i++) {
        ((struct head *)(void *)packets[i])->run = run;
        ((struct head *)(void *)packets[i])->what = 'd';
        vectors[i] = (struct iovec){.iov_base = packets[i], .iov_len = DATAGRAM};
        messages[i].msg_hdr =
            (struct msghdr){.msg_name = &there, .msg_namelen = sizeof there, .msg_iov = &vectors[i], .msg_iovlen = 1};
    }
    while ((passed = now() - begun) < seconds) {
        due = (long)(rate * passed) - (long)sent;
        if (due <= 0) {
            nanosleep(&little, NULL);
            continue;
        }
        n = sendmmsg(fd, messages, due < MAX_BATCH ? (unsigned)due : MAX_BATCH, 0);
        if (n < 0 && errno != EAGAIN && errno != ENOBUFS && errno != ECONNREFUSED)
            die("send");
        sent += n > 0 ? (uint64_t)n : 0;
    }
    return sent;
}

struct wanted {
    int fd;
    struct sockaddr_in from;
    struct head head;
};

static void *send_wanted(void *argument)
{
    struct wanted *w = argument;
    struct head end = {.run = w->head.run, .what = 'e'};
    struct timespec pause = {.tv_nsec = 50000000};
    int i;

    end.count = send_at(w->fd, &w->from, w->head.run, w->head.rate, w->head.seconds);
    for (i = 0; i < 20; i++) {
        nanosleep(&pause, NULL);
        sendto(w->fd, &end, sizeof end, 0, (void *)&w->from, sizeof w->from);
    }
    free(w);
    return NULL;
}

void *serve_udp(void *argument)
{
    static char packets[MAX_BATCH][DATAGRAM];
    static struct mmsghdr messages[MAX_BATCH];
    static struct iovec vectors[MAX_BATCH];
    static struct sockaddr_in from[MAX_BATCH];
    int fd = (int)(intptr_t)argument, i, n;
    uint64_t run = 0, count = 0;
    struct wanted *w;

    for (;;) {
        for (i = 0; i < MAX_BATCH; i++) {
            vectors[i] = (struct iovec){.iov_base = packets[i], .iov_len = DATAGRAM};
            messages[i].msg_hdr = (struct msghdr){
                .msg_name = &from[i], .msg_namelen = sizeof from[i], .msg_iov = &vectors[i], .msg_iovlen = 1};
        }
        n = recvmmsg(fd, messages, MAX_BATCH, MSG_WAITFORONE, NULL);
        for (i = 0; i < n; i++) {
            struct head *head = (void *)packets[i];

            if (messages[i].msg_len < sizeof *head)
                continue;
            if (head->run != run && head->what == 'd') {
                run = head->run;
                count = 0;
            }
            if (head->what == 'd') {
                count++;
            } else if (head->what == 'q') {
                head->count = head->run == run ? count : 0;
                sendto(fd, head, sizeof *head, 0, (void *)&from[i], sizeof from[i]);
            } else if (head->what == 's' && (w = malloc(sizeof *w))) {
                *w = (struct wanted){.fd = fd, .from = from[i], .head = *head};
                start(send_wanted, w);
            }
        }
    }
    return NULL;
}

void udp(const char *way, double rate, double seconds)
{
    static char packets[MAX_BATCH][DATAGRAM];
    static struct mmsghdr messages[MAX_BATCH];
    static struct iovec vectors[MAX_BATCH];
    struct sockaddr_in there = at(UDP_PORT);
    struct timespec pause = {.tv_nsec = 200000000};
    struct head head = {.what = 'q', .rate = rate, .seconds = seconds}, answer;
    int fd = udp_socket(0), i, n, tries;
    uint64_t sent = 0, received = 0;

    head.run = (uint64_t)(now() * 1e9) ^ ((uint64_t)getpid() << 48);
    if (connect(fd, (void *)&there, sizeof there))
        die("connect");
    limit(fd, 1);
    /* The way is made, and its first datagram is over. */
    for (tries = 0;; tries++) {
        if (send(fd, &head, sizeof head, 0) == sizeof head && recv(fd, &answer, sizeof answer, 0) == sizeof answer)
            break;
        if (tries == 10)
            die("no datagram comes back");
    }
    if (way[0] == 'u') {
        sent = send_at(fd, &there, head.run, rate, seconds);
        nanosleep(&pause, NULL);
        for (tries = 0; tries < 20; tries++) {
            if (send(fd, &head, sizeof head, 0) == sizeof head &&
                recv(fd, &answer, sizeof answer, 0) == sizeof answer && answer.run == head.run) {
                received = answer.count;
                break;
            }
        }
        if (tries == 20)
            die("what the far end received");
    } else {
        head.what = 's';
        if (send(fd, &head, sizeof head, 0) != sizeof head)
            die("send");
        limit(fd, seconds + 5);
        while (!sent) {
            for (i = 0; i < MAX_BATCH; i++) {
                vectors[i] = (struct iovec){.iov_base = packets[i], .iov_len = DATAGRAM};
                messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
            }
            n = recvmmsg(fd, messages, MAX_BATCH, MSG_WAITFORONE, NULL);
            if (n <= 0)
                die("what the far end sent");
            for (i = 0; i < n; i++) {
                struct head *got = (void *)packets[i];

                if (got->run != head.run || messages[i].msg_len < sizeof *got)
                    continue;
                received += got->what == 'd';
                if (got->what == 'e')
                    sent = got->count;
            }
        }
    }
    printf("%llu %llu\n", (unsigned long long)sent, (unsigned long long)received);
}
