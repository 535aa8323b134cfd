/* DNS: every name has the address 192.0.2.1. */
#include "load.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_DNS = 256 };

void *serve_dns(void *argument)
{
    static const unsigned char answer[16] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1};
    int fd = (int)(intptr_t)argument;
    struct sockaddr_in from;
    socklen_t size;
    unsigned char m[512];
    ssize_t n, end;

    for (;;) {
        size = sizeof from;
        n = recvfrom(fd, m, sizeof m, 0, (void *)&from, &size);
        if (n < 17)
            continue;
        for (end = 12; end < n && m[end]; end += m[end] + 1)
            continue;
        end += 5; /* the root's label, type and class; what follows (EDNS) is not echoed */
        if (end > n || end + (ssize_t)sizeof answer > (ssize_t)sizeof m)
            continue;
        m[2] = 0x84 | (m[2] & 1);
        m[3] = 0x80;
        memset(m + 6, 0, 6);
        if (m[end - 3] == 1) { /* an address; of other types there is none */
            m[7] = 1;
            memcpy(m + end, answer, sizeof answer);
            end += (ssize_t)sizeof answer;
        }
        sendto(fd, m, (size_t)end, 0, (void *)&from, size);
    }
    return NULL;
}

static ssize_t make_query(unsigned char *m, unsigned id, unsigned long name)
{
    char label[32];
    int length = snprintf(label, sizeof label, "n%016lx", name);

    memset(m, 0, 12);
    m[0] = (unsigned char)(id >> 8);
    m[1] = (unsigned char)id;
    m[2] = m[5] = 1;
    m[12] = (unsigned char)length;
    memcpy(m + 13, label, (size_t)length);
    memcpy(m + 13 + length, "\5bench\4test\0\0\1\0\1", 16);
    return 13 + length + 16;
}

void dns(int at_once, double seconds)
{
    struct sockaddr_in there = at(DNS_PORT);
    double begun[MAX_DNS], until = now() + seconds, asked = 0;
    unsigned long name = (unsigned long)(now() * 1e9) << 8 ^ (unsigned long)getpid();
    int fd = udp_socket(0), open = 0, id, lost = 0, ended = 0;
    unsigned char m[512];
    ssize_t n;

    if (at_once > MAX_DNS || connect(fd, (void *)&there, sizeof there))
        die("dns");
    limit(fd, 3);
    for (id = 0; id < at_once; id++)
        begun[id] = 0;
    id = 0;
    while (!ended || open) {
        for (; !ended && open < at_once; open++) {
            while (begun[id] > 0)
                id = (id + 1) % at_once;
            n = make_query(m, (unsigned)id, name++);
            begun[id] = now();
            if (send(fd, m, (size_t)n, 0) != n)
                die("query");
            asked++;
        }
        n = recv(fd, m, sizeof m, 0);
        ended = now() >= until;
        if (n < 0) {
            lost += open;
            if (lost > 100 + (int)(asked / 100))
                die("queries are lost");
            open = 0;
            for (id = 0; id < at_once; id++)
                begun[id] = 0;
            id = 0;
            continue;
        }
        id = m[0] << 8 | m[1];
        if (n < 12 || id >= at_once || begun[id] <= 0)
            continue;
        if ((m[3] & 15) || m[7] != 1)
            die("an answer is wrong");
        printf("%.1f\n", (now() - begun[id]) * 1e6);
        begun[id] = 0;
        open--;
    }
}
