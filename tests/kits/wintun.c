/* Stands for wintun.dll: rings with the layout and the rules of Wintun's (api/session.c), and elsewhere than on Windows
 * for its events and the three functions of Windows that the pump calls. The driver's side, and what it has seen, are
 * named fake_*. */
#include "wintun.h"

#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
typedef HANDLE event;
static SRWLOCK mutex = SRWLOCK_INIT;
static CONDITION_VARIABLE changed = CONDITION_VARIABLE_INIT;
#define LOCK() AcquireSRWLockExclusive(&mutex)
#define UNLOCK() ReleaseSRWLockExclusive(&mutex)
#define TELL() WakeAllConditionVariable(&changed)
#define FAIL(error) SetLastError(error)
#define SIGNAL(one) SetEvent(one)
#define HANDLE_OF(one) (one)
#else
#include <pthread.h>
#include <time.h>
typedef struct {
    int set;
} event;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static _Thread_local uint32_t last_error;
#define LOCK() pthread_mutex_lock(&mutex)
#define UNLOCK() pthread_mutex_unlock(&mutex)
#define TELL() pthread_cond_broadcast(&changed)
#define FAIL(error) (last_error = (error))
#define SIGNAL(one) ((one).set = 1)
#define HANDLE_OF(one) (&(one))
#endif

#define MAX_IP 0xffffu
#define ALIGNED(size) (((uint32_t)(size) + 3u) & ~3u)
#define HEADER 4u                           /* the size of a packet, before it */
#define MAX_PACKET ALIGNED(HEADER + MAX_IP) /* with its header */
#define RELEASED 0x80000000u                /* in a size: allocated, and not sent or given back yet */
#define WRAP(ring, value) ((value) & ((ring)->capacity - 1))

enum { HANDLE_EOF = 38, INVALID_DATA = 13, BUFFER_OVERFLOW = 111, NO_MORE_ITEMS = 259 };

struct ring {
    uint32_t head, tail, capacity; /* a head of at least capacity: the end of the ring's life */
    uint32_t reserved;             /* how far the client has allocated, or read */
    uint32_t count;                /* packets that are allocated or read, and not sent or released */
    uint8_t data[];
};

struct session {
    struct ring *to_client, *to_driver;
    event readable, stop, kick;
    uint32_t last_wait;
};

#if !defined(_WIN32)
enum { FOREVER = 0xffffffff, TIMEOUT = 258 };

static struct session *newest;

uint32_t GetLastError(void) { return last_error; }

int32_t SetEvent(void *one)
{
    pthread_mutex_lock(&mutex);
    ((event *)one)->set = 1;
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
    pthread_cond_broadcast(&changed);
    while (result == TIMEOUT) {
        for (i = 0; i < count && result == TIMEOUT; i++) {
            if (((event *)events[i])->set) {
                ((event *)events[i])->set = 0; /* auto-reset */
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
#endif

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
    LOCK();
    content = WRAP(ring, ring->tail - ring->reserved);
    if (ring->tail >= ring->capacity) {
        FAIL(HANDLE_EOF);
    } else if (!content) {
        FAIL(NO_MORE_ITEMS);
    } else {
        size = get(ring->data + ring->reserved);
        if (size > MAX_IP || ALIGNED(HEADER + size) > content) {
            FAIL(INVALID_DATA);
        } else {
            packet = ring->data + ring->reserved + HEADER;
            ring->reserved = WRAP(ring, ring->reserved + ALIGNED(HEADER + size));
            ring->count++;
            *length = size;
        }
    }
    UNLOCK();
    return packet;
}

void WintunReleaseReceivePacket(void *of, const uint8_t *packet)
{
    struct ring *ring = ((struct session *)of)->to_client;
    uint8_t *header = (uint8_t *)(uintptr_t)packet - HEADER;
    LOCK();
    put(header, get(header) | RELEASED);
    for (; ring->count && get(ring->data + ring->head) & RELEASED; ring->count--)
        ring->head = WRAP(ring, ring->head + ALIGNED(HEADER + (get(ring->data + ring->head) & ~RELEASED)));
    UNLOCK();
}

uint8_t *WintunAllocateSendPacket(void *of, uint32_t length)
{
    struct ring *ring = ((struct session *)of)->to_driver;
    uint8_t *packet = NULL;
    LOCK();
    if (ring->head >= ring->capacity) {
        FAIL(HANDLE_EOF);
    } else if (length > MAX_IP || ALIGNED(HEADER + length) > room(ring, ring->reserved)) {
        FAIL(BUFFER_OVERFLOW);
    } else {
        put(ring->data + ring->reserved, length | RELEASED);
        packet = ring->data + ring->reserved + HEADER;
        ring->reserved = WRAP(ring, ring->reserved + ALIGNED(HEADER + length));
        ring->count++;
    }
    UNLOCK();
    return packet;
}

void WintunSendPacket(void *of, const uint8_t *packet)
{
    struct ring *ring = ((struct session *)of)->to_driver;
    uint8_t *header = (uint8_t *)(uintptr_t)packet - HEADER;
    LOCK();
    put(header, get(header) & ~RELEASED);
    for (; ring->count && !(get(ring->data + ring->tail) & RELEASED); ring->count--)
        ring->tail = WRAP(ring, ring->tail + ALIGNED(HEADER + get(ring->data + ring->tail)));
    TELL();
    UNLOCK();
}

void *WintunGetReadWaitEvent(void *of) { return HANDLE_OF(((struct session *)of)->readable); }

/* ---- the driver ---- */
void *fake_start(uint32_t capacity)
{
    struct session *session = calloc(1, sizeof *session);
    if (session) {
        session->to_client = ring_new(capacity);
        session->to_driver = ring_new(capacity);
    }
#if defined(_WIN32)
    if (session) {
        session->readable = CreateEventW(NULL, FALSE, FALSE, NULL);
        session->stop = CreateEventW(NULL, FALSE, FALSE, NULL);
        session->kick = CreateEventW(NULL, FALSE, FALSE, NULL);
    }
#else
    newest = session;
#endif
    return session;
}

void fake_end(void *of)
{
    struct session *session = of;
    free(session->to_client);
    free(session->to_driver);
    free(session);
}

void *fake_stop(void *of) { return HANDLE_OF(((struct session *)of)->stop); }
void *fake_kick(void *of) { return HANDLE_OF(((struct session *)of)->kick); }

/* Gives a packet to the client; 0: the ring is full. */
int fake_put(void *of, const uint8_t *packet, uint32_t length)
{
    struct session *session = of;
    struct ring *ring = session->to_client;
    int fits;
    LOCK();
    fits = ALIGNED(HEADER + length) <= room(ring, ring->tail);
    if (fits) {
        put(ring->data + ring->tail, length);
        memcpy(ring->data + ring->tail + HEADER, packet, length);
        ring->tail = WRAP(ring, ring->tail + ALIGNED(HEADER + length));
        SIGNAL(session->readable);
        TELL();
    }
    UNLOCK();
    return fits;
}

uint32_t fake_take(void *of, uint8_t *buffer, uint32_t ms)
{
    struct ring *ring = ((struct session *)of)->to_driver;
    uint32_t length = 0;
    int late = 0;
#if defined(_WIN32)
    LOCK();
    while (ring->head == ring->tail && !late)
        late = !SleepConditionVariableSRW(&changed, &mutex, ms, 0);
#else
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += ms / 1000;
    LOCK();
    while (ring->head == ring->tail && !late)
        late = pthread_cond_timedwait(&changed, &mutex, &until) != 0;
#endif
    if (ring->head != ring->tail) {
        length = get(ring->data + ring->head);
        memcpy(buffer, ring->data + ring->head + HEADER, length);
        ring->head = WRAP(ring, ring->head + ALIGNED(HEADER + length));
    }
    UNLOCK();
    return length;
}

/* The adapter goes. */
void fake_remove(void *of)
{
    struct session *session = of;
    LOCK();
    session->to_client->tail = session->to_driver->head = 0xffffffff;
    SIGNAL(session->readable);
    TELL();
    UNLOCK();
}

/* A size in the ring that cannot be. */
void fake_corrupt(void *of)
{
    struct session *session = of;
    struct ring *ring = session->to_client;
    LOCK();
    put(ring->data + ring->tail, MAX_IP + 1);
    ring->tail = WRAP(ring, ring->tail + 8);
    SIGNAL(session->readable);
    TELL();
    UNLOCK();
}

/* Whether packets are read and not released, or allocated and not sent. */
uint32_t fake_held(void *of)
{
    struct session *session = of;
    return session->to_client->count + session->to_driver->count;
}

#if !defined(_WIN32)
/* Waits until the client waits, without end or for at most so many
 * milliseconds; 0: it does not within a minute. */
int fake_waits(void *of, uint32_t at_most)
{
    struct session *session = of;
    struct timespec until;
    int late = 0, does = 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 60;
    LOCK();
    for (;;) {
        does =
            session->last_wait && (at_most == FOREVER ? session->last_wait == FOREVER : session->last_wait <= at_most);
        if (does || late)
            break;
        late = pthread_cond_timedwait(&changed, &mutex, &until) != 0;
    }
    UNLOCK();
    return does;
}
#endif
