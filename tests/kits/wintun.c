/* Stands for wintun.dll: rings with the layout and the rules of Wintun's
 * (api/session.c), events and the three functions of Windows that the pump
 * calls. The driver's side, and what it has seen, are named fake_*. */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_IP 0xffffu
#define ALIGNED(size) (((uint32_t)(size) + 3u) & ~3u)
#define HEADER 4u                           /* the size of a packet, before it */
#define MAX_PACKET ALIGNED(HEADER + MAX_IP) /* with its header */
#define RELEASED 0x80000000u                /* in a size: allocated, and not sent or given back yet */
#define WRAP(ring, value) ((value) & ((ring)->capacity - 1))

enum { HANDLE_EOF = 38, INVALID_DATA = 13, BUFFER_OVERFLOW = 111, NO_MORE_ITEMS = 259 };
enum { FOREVER = 0xffffffff, TIMEOUT = 258 };

struct event {
    int set;
};

struct ring {
    uint32_t head, tail, capacity; /* a head of at least capacity: the end of the ring's life */
    uint32_t reserved;             /* how far the client has allocated, or read */
    uint32_t count;                /* packets that are allocated or read, and not sent or released */
    uint8_t data[];
};

struct session {
    struct ring *to_client, *to_driver;
    struct event readable, stop, kick;
    uint32_t last_wait, waits;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static _Thread_local uint32_t last_error;
static struct session *newest;

uint32_t GetLastError(void) { return last_error; }

int32_t SetEvent(void *event)
{
    pthread_mutex_lock(&mutex);
    ((struct event *)event)->set = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
    return 1;
}

uint32_t WaitForMultipleObjects(uint32_t count, void *const *events, int32_t all, uint32_t ms)
{
    struct timespec until;
    uint32_t result = TIMEOUT, i;
    int late = 0;
    if (all)
        return 0xffffffff;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&mutex);
    newest->last_wait = ms;
    newest->waits++;
    pthread_cond_broadcast(&changed);
    while (result == TIMEOUT) {
        for (i = 0; i < count && result == TIMEOUT; i++) {
            if (((struct event *)events[i])->set) {
                ((struct event *)events[i])->set = 0; /* auto-reset */
                result = i;
            }
        }
        if (result != TIMEOUT || late)
            break;
        if (ms == FOREVER)
            pthread_cond_wait(&changed, &mutex);
        else
            late = pthread_cond_timedwait(&changed, &mutex, &until) != 0;
    }
    newest->last_wait = 0;
    pthread_mutex_unlock(&mutex);
    return result;
}

static uint32_t get(const uint8_t *b)
{
    uint32_t value;
    memcpy(&value, b, 4);
    return value;
}

static void put(uint8_t *b, uint32_t value) { memcpy(b, &value, 4); }

static struct ring *ring_new(uint32_t capacity)
{
    struct ring *ring = calloc(1, sizeof *ring + capacity + MAX_PACKET - 4);
    if (ring)
        ring->capacity = capacity;
    return ring;
}

/* Bytes that may be written without the tail meeting the head. */
static uint32_t room(const struct ring *ring, uint32_t tail) { return WRAP(ring, ring->head - tail - 4u); }

uint8_t *WintunReceivePacket(void *of, uint32_t *length)
{
    struct ring *ring = ((struct session *)of)->to_client;
    uint8_t *packet = NULL;
    uint32_t content, size;
    pthread_mutex_lock(&mutex);
    content = WRAP(ring, ring->tail - ring->reserved);
    if (ring->tail >= ring->capacity) {
        last_error = HANDLE_EOF;
    } else if (!content) {
        last_error = NO_MORE_ITEMS;
    } else {
        size = get(ring->data + ring->reserved);
        if (size > MAX_IP || ALIGNED(HEADER + size) > content) {
            last_error = INVALID_DATA;
        } else {
            packet = ring->data + ring->reserved + HEADER;
            ring->reserved = WRAP(ring, ring->reserved + ALIGNED(HEADER + size));
            ring->count++;
            *length = size;
        }
    }
    pthread_mutex_unlock(&mutex);
    return packet;
}

void WintunReleaseReceivePacket(void *of, const uint8_t *packet)
{
    struct ring *ring = ((struct session *)of)->to_client;
    uint8_t *header = (uint8_t *)(uintptr_t)packet - HEADER;
    pthread_mutex_lock(&mutex);
    put(header, get(header) | RELEASED);
    for (; ring->count && get(ring->data + ring->head) & RELEASED; ring->count--)
        ring->head = WRAP(ring, ring->head + ALIGNED(HEADER + (get(ring->data + ring->head) & ~RELEASED)));
    pthread_mutex_unlock(&mutex);
}

uint8_t *WintunAllocateSendPacket(void *of, uint32_t length)
{
    struct ring *ring = ((struct session *)of)->to_driver;
    uint8_t *packet = NULL;
    pthread_mutex_lock(&mutex);
    if (ring->head >= ring->capacity) {
        last_error = HANDLE_EOF;
    } else if (length > MAX_IP || ALIGNED(HEADER + length) > room(ring, ring->reserved)) {
        last_error = BUFFER_OVERFLOW;
    } else {
        put(ring->data + ring->reserved, length | RELEASED);
        packet = ring->data + ring->reserved + HEADER;
        ring->reserved = WRAP(ring, ring->reserved + ALIGNED(HEADER + length));
        ring->count++;
    }
    pthread_mutex_unlock(&mutex);
    return packet;
}

void WintunSendPacket(void *of, const uint8_t *packet)
{
    struct ring *ring = ((struct session *)of)->to_driver;
    uint8_t *header = (uint8_t *)(uintptr_t)packet - HEADER;
    pthread_mutex_lock(&mutex);
    put(header, get(header) & ~RELEASED);
    for (; ring->count && !(get(ring->data + ring->tail) & RELEASED); ring->count--)
        ring->tail = WRAP(ring, ring->tail + ALIGNED(HEADER + get(ring->data + ring->tail)));
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

void *WintunGetReadWaitEvent(void *of) { return &((struct session *)of)->readable; }

/* ---- the driver ---- */
void *fake_start(uint32_t capacity)
{
    struct session *session = calloc(1, sizeof *session);
    if (session) {
        session->to_client = ring_new(capacity);
        session->to_driver = ring_new(capacity);
    }
    newest = session;
    return session;
}

void fake_end(void *of)
{
    struct session *session = of;
    free(session->to_client);
    free(session->to_driver);
    free(session);
}

void *fake_stop(void *of) { return &((struct session *)of)->stop; }
void *fake_kick(void *of) { return &((struct session *)of)->kick; }

/* Gives a packet to the client; 0: the ring is full. */
int fake_put(void *of, const uint8_t *packet, uint32_t length)
{
    struct session *session = of;
    struct ring *ring = session->to_client;
    int fits;
    pthread_mutex_lock(&mutex);
    fits = ALIGNED(HEADER + length) <= room(ring, ring->tail);
    if (fits) {
        put(ring->data + ring->tail, length);
        memcpy(ring->data + ring->tail + HEADER, packet, length);
        ring->tail = WRAP(ring, ring->tail + ALIGNED(HEADER + length));
        session->readable.set = 1;
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&mutex);
    return fits;
}

/* Takes a packet of the client's; waits at most so long, and returns its length
 * or 0. */
uint32_t fake_take(void *of, uint8_t *buffer, uint32_t ms)
{
    struct ring *ring = ((struct session *)of)->to_driver;
    struct timespec until;
    uint32_t length = 0;
    int late = 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += ms / 1000;
    pthread_mutex_lock(&mutex);
    while (ring->head == ring->tail && !late)
        late = pthread_cond_timedwait(&changed, &mutex, &until) != 0;
    if (ring->head != ring->tail) {
        length = get(ring->data + ring->head);
        memcpy(buffer, ring->data + ring->head + HEADER, length);
        ring->head = WRAP(ring, ring->head + ALIGNED(HEADER + length));
    }
    pthread_mutex_unlock(&mutex);
    return length;
}

/* The adapter goes. */
void fake_remove(void *of)
{
    struct session *session = of;
    pthread_mutex_lock(&mutex);
    session->to_client->tail = session->to_driver->head = 0xffffffff;
    session->readable.set = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

/* A size in the ring that cannot be. */
void fake_corrupt(void *of)
{
    struct session *session = of;
    struct ring *ring = session->to_client;
    pthread_mutex_lock(&mutex);
    put(ring->data + ring->tail, MAX_IP + 1);
    ring->tail = WRAP(ring, ring->tail + 8);
    session->readable.set = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

/* Whether packets are read and not released, or allocated and not sent. */
uint32_t fake_held(void *of)
{
    struct session *session = of;
    return session->to_client->count + session->to_driver->count;
}

/* Waits until the client waits, without end or for at most so many
 * milliseconds; 0: it does not within a minute. */
int fake_waits(void *of, uint32_t at_most)
{
    struct session *session = of;
    struct timespec until;
    int late = 0, does = 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 60;
    pthread_mutex_lock(&mutex);
    for (;;) {
        does =
            session->last_wait && (at_most == FOREVER ? session->last_wait == FOREVER : session->last_wait <= at_most);
        if (does || late)
            break;
        late = pthread_cond_timedwait(&changed, &mutex, &until) != 0;
    }
    pthread_mutex_unlock(&mutex);
    return does;
}
