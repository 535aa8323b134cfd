/* The multiplexer, between a hostile peer's messages, targets that do what they like, and an owner who keeps to its
 * page: every byte is somewhere, no credit is exceeded, and what is written is frames. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "env.h"
#include "mux/zks_mux.h"
#include "mux_peer.h"

#define STREAMS 12
#define MESSAGE 70000u
#define MAX_DATA 3000u

struct end {
    struct zks_mux_stream *stream; /* exactly as large as it is, so that what goes past it shows */
    uint64_t granted, sent;        /* to us, and spent of it */
    struct peer *peer;             /* of its socket; NULL: it is one of the other target's */
    uint32_t taken;                /* digest of what the target is said to have taken */
    uint32_t seen;                 /* and of what it took, if that is no socket */
    int asked;                     /* its owner was, by this message */
};

static struct zks_mux *mux;
static struct end ends[STREAMS + 1];
static struct zks_mux_target target, sockets;
static const uint8_t *input;
static size_t input_left;
static int inside;

static uint8_t byte(void)
{
    if (!input_left)
        return 0;
    input_left--;
    return *input++;
}

static uint32_t word(void)
{
    uint32_t high = byte();
    return high << 8 | byte();
}

static uint32_t get32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* ---- the target ---- */
static void enter(void *context)
{
    CHECK(context == &target && !inside);
    inside = 1;
}

static void leave(void *context)
{
    CHECK(context == &target && inside);
    inside = 0;
}

static int64_t verdict(size_t size)
{
    switch (byte() % 8) {
    case 0:
        return 0;
    case 1:
        return ZKS_MUX_EOF;
    case 2:
        return ZKS_MUX_ERRNO - 104;
    case 3:
        return -2;
    case 4:
        return (int64_t)(size / 2);
    case 5:
        return 1 < size ? 1 : (int64_t)size;
    default:
        return (int64_t)size;
    }
}

static int64_t pull(void *context, uint64_t handle, uint8_t *buffer, size_t size)
{
    int64_t got = verdict(size);
    CHECK(inside && context == &target && handle >= 1 && handle <= STREAMS && size && size <= MESSAGE);
    CHECK(ends[handle].stream && ends[handle].stream->pulls && !ends[handle].stream->gone);
    if (got > 0)
        memset(buffer, (int)handle, (size_t)got);
    return got;
}

static int64_t push(void *context, uint64_t handle, const uint8_t *data, size_t length)
{
    int64_t taken = verdict(length);
    uint8_t *all = malloc(length); /* all of it is to be read */
    CHECK(inside && context == &target && handle >= 1 && handle <= STREAMS && length && length <= MAX_DATA);
    CHECK(ends[handle].stream && ends[handle].stream->pushes && !ends[handle].stream->gone);
    CHECK(all);
    memcpy(all, data, length);
    if (taken > 0)
        ends[handle].seen = digest(ends[handle].seen, all, (size_t)taken);
    free(all);
    return taken;
}

/* ---- the owner ---- */
static void check(void)
{
    uint32_t id, open = 0;
    int line;
    CHECK(!inside);
    for (id = 1; id <= STREAMS; id++) {
        struct zks_mux_stream *stream = ends[id].stream;
        if (!stream)
            continue;
        open++;
        CHECK((uint64_t)stream->available + stream->held + stream->consumed + stream->due == stream->size);
        CHECK((uint64_t)stream->consumed * 4 < stream->size);
        CHECK(ends[id].sent + stream->credit == ends[id].granted && stream->credit <= 0x7fffffffu);
        CHECK(ends[id].peer || ends[id].seen == ends[id].taken);
    }
    CHECK(open == mux->streams);
    for (line = 0; line < 2; line++) {
        struct zks_mux_stream *stream = mux->lines[line].first, *before = NULL;
        for (; stream; before = stream, stream = stream->line_next) {
            CHECK(stream->line == line && stream->line_prev == before && !stream->gone);
            CHECK(ends[stream->id].stream == stream && stream->ready && stream->credit && !stream->eof_sent);
            CHECK(mux->client || stream->connected);
        }
        CHECK(mux->lines[line].last == before);
    }
}

/* Has the far end of a stream's socket read. */
static void hear(uint32_t id, size_t most)
{
    struct peer *peer = ends[id].peer;
    if (!peer || peer->far < 0)
        return;
    peer_read(peer, most);
    CHECK(most < SIZE_MAX || peer->seen == ends[id].taken);
}

static void close_stream(uint32_t id)
{
    struct zks_mux_stream *stream = ends[id].stream;
    if (!stream)
        return;
    zks_mux_remove(mux, stream);
    CHECK(stream->gone);
    free(stream);
    if (ends[id].peer) {
        hear(id, SIZE_MAX);
        peer_close(ends[id].peer);
    }
    memset(&ends[id], 0, sizeof ends[id]);
}

static void open_stream(uint32_t id)
{
    struct zks_mux_stream *stream;
    if (ends[id].stream)
        return;
    stream = calloc(1, sizeof *stream);
    stream->id = id;
    stream->handle = id;
    stream->size = stream->initial = stream->available = 1 + (byte() & 1 ? word() * 4 : byte() * 16u);
    ends[id].granted = stream->credit = word() * 4;
    stream->supplied = 1;
    stream->connected = byte() & 1;
    stream->target = &target;
    if (byte() & 1) {
        ends[id].peer = peer_open();
        stream->target = &sockets;
        stream->handle = (uint64_t)ends[id].peer->near;
    }
    ends[id].stream = stream;
    env_fail_in = byte() % 4 ? -1 : 0; /* the table stays as small as it is */
    zks_mux_add(mux, stream);
    env_fail_in = -1;
}

/* Grants what was consumed, as WINDOW frames would. It is time to, once that is a quarter. */
static void grant(struct zks_mux_stream *stream)
{
    CHECK((uint64_t)stream->consumed * 4 >= stream->size);
    stream->available += stream->consumed;
    stream->consumed = 0;
}

/* Consumes what is held. */
static void consume(uint32_t id)
{
    struct zks_mux_stream *stream = ends[id].stream;
    uint32_t size = byte() & 1 ? word() : byte();
    if (!stream)
        return;
    if (size > stream->held) {
        CHECK(zks_mux_consume(stream, size) == -1);
        return;
    }
    if (zks_mux_consume(stream, size) == 1)
        grant(stream);
}

/* Lets the far end of a stream's socket do something. */
static void act(uint32_t id)
{
    struct peer *peer = ends[id].peer;
    uint8_t what = byte();
    if (!peer)
        return;
    switch (what % 8) {
    case 0:
        peer_end(peer);
        break;
    case 1:
        if (what & 0x80)
            peer_go(peer);
        break;
    case 2:
        hear(id, byte() * 16u);
        break;
    case 3:
        hear(id, SIZE_MAX);
        break;
    default:
        peer_write(peer, (uint8_t)id, what & 0x80 ? word() : byte());
    }
    if (what & 0x40)
        zks_mux_ready(mux, id);
}

/* ---- messages that come ---- */
static size_t make(uint8_t *message)
{
    size_t size = 0;
    int frames = byte() % 20;
    while (frames-- && size + 13 + 4000 < MESSAGE) {
        uint8_t kind = byte(), id = byte() % (STREAMS + 2);
        uint32_t length = kind & 0x80 ? word() % 4000 : byte(), i;
        uint32_t said = kind & 0x40 ? length : length + byte();
        uint8_t *at = message + size;
        memset(at, 0, 13);
        at[4] = id;
        if (kind % 8 < 5) {
            at[0] = 0x02;
            at[7] = (uint8_t)(said >> 8);
            at[8] = (uint8_t)said;
            if (kind % 8 == 4)
                at[5] = byte();
            for (i = 0; i < length; i++)
                at[9 + i] = (uint8_t)(kind + i * 7u);
            size += 9 + length;
        } else if (kind % 8 < 7) {
            at[0] = 0x42;
            at[8] = kind & 0x20 ? 4 : byte();
            at[9] = byte();
            at[11] = byte();
            at[12] = byte();
            size += 13;
        } else {
            at[0] = byte();
            size += 5;
        }
    }
    return size - (size && byte() % 4 == 0 ? byte() % (size < 20 ? size : 20) : 0);
}

/* Returns how many of the bytes of a frame, [from..to[ in the message, its target took: those before what is left. */
static size_t taken(const struct zks_mux_record *records, int count, size_t from, size_t to)
{
    for (; count--; records++) {
        if (records->kind == ZKS_RECORD_DATA && records->offset >= from && records->offset < to) {
            CHECK(records->offset + records->length == to);
            return records->offset - from;
        }
    }
    return to - from;
}

/* Whether a target of this stream may have failed so. */
static int may_fail(uint32_t id, uint32_t said)
{
    if (!ends[id].peer)
        return said == 104;
    return ends[id].peer->far < 0 && (said == EPIPE || said == ECONNRESET);
}

/* Applies a message, against what the page says of each frame that is taken. */
static void apply(void)
{
    uint8_t *scratch = malloc(MESSAGE), *message;
    size_t size = make(scratch), position = 0;
    message = malloc(size ? size : 1);
    memcpy(message, scratch, size);
    free(scratch);
    while (position < size) {
        uint64_t pushed = target.pushed + sockets.pushed, left = 0, came = 0;
        size_t at = position;
        uint32_t frames = 0;
        struct zks_mux_record records[ZKS_MUX_RECORDS];
        int count = zks_mux_apply(mux, message, size, position, 1.0, records), i;
        CHECK(count >= 0 && count <= ZKS_MUX_RECORDS && !inside);
        CHECK(mux->position >= position && mux->position <= size);
        while (at < mux->position) {
            struct zks_mux_stream *stream;
            CHECK(size - at >= 13 || message[at] == 0x02);
            CHECK(get32(message + at + 1) >= 1 && get32(message + at + 1) <= STREAMS);
            stream = ends[get32(message + at + 1)].stream;
            CHECK(stream && (!mux->client || stream->connected));
            if (message[at] == 0x02) {
                uint32_t length = get32(message + at + 5);
                CHECK(length && length <= MAX_DATA && length <= mux->position - at - 9 && !stream->eof_taken);
                came += length;
                at += 9;
                ends[stream->id].taken =
                    digest(ends[stream->id].taken, message + at, taken(records, count, at, at + length));
                at += length;
            } else {
                CHECK(message[at] == 0x42 && get32(message + at + 5) == 4);
                ends[stream->id].granted += get32(message + at + 9);
                at += 13;
            }
            frames++;
        }
        CHECK(at == mux->position && frames == mux->applied && came == mux->data_in);
        for (i = 0; i < count; i++) {
            const struct zks_mux_record *record = &records[i];
            CHECK(record->stream >= 1 && record->stream <= STREAMS && ends[record->stream].stream);
            if (record->kind == ZKS_RECORD_DATA) {
                CHECK(record->length && record->offset >= position && record->offset + record->length <= mux->position);
                CHECK(!ends[record->stream].stream->pushes);
                left += record->length;
            } else if (record->kind == ZKS_RECORD_GRANT) {
                if (ends[record->stream].stream->consumed) /* it may be told twice */
                    grant(ends[record->stream].stream);
            } else {
                CHECK(record->kind == ZKS_RECORD_ERRNO && may_fail(record->stream, record->length));
            }
        }
        CHECK(target.pushed + sockets.pushed - pushed + left == came);
        check();
        if (mux->position == position)
            break; /* the owner reads this one, and would end the session */
        position = mux->position;
    }
    free(message);
}

/* ---- messages that go ---- */
/* Whether it was right to ask the owner of a socket's stream, and not to ask. */
static void check_asked(uint32_t id)
{
    const struct peer *peer = ends[id].peer;
    if (!peer || !ends[id].stream->pulls)
        return;
    if (mux->error)
        CHECK(may_fail(id, (uint32_t)mux->error));
    else
        CHECK(peer_look(peer) == PEER_ENDED);
}

static void check_dry(uint32_t id, int was_in_line)
{
    const struct zks_mux_stream *stream = ends[id].stream;
    if (!stream || !was_in_line || !ends[id].peer || !stream->pulls || stream->ready || ends[id].asked)
        return;
    CHECK(peer_look(ends[id].peer) == PEER_EMPTY);
}

static void fill(void)
{
    size_t size = 100 + word() % (MESSAGE - 100), position = byte() % 64, at;
    uint32_t most = 1 + word() % 20000, id;
    uint64_t frames = mux->frames, payload = mux->payload;
    uint8_t *buffer = malloc(size);
    int64_t got = 0;
    uint32_t asked = 0;
    int in_line[STREAMS + 1];
    for (id = 1; id <= STREAMS; id++) {
        ends[id].asked = 0;
        in_line[id] = ends[id].stream && ends[id].stream->line != ZKS_LINE_NONE;
    }
    zks_mux_begin(mux, buffer, position, size, most);
    while ((id = zks_mux_fill(mux, got)) != 0) {
        struct zks_mux_stream *stream;
        CHECK(id <= STREAMS && ends[id].stream && !inside && mux->room);
        stream = ends[id].stream;
        check_asked(id);
        ends[id].asked = 1;
        CHECK(mux->at + 9 + mux->filled + mux->room <= size - 9);
        CHECK(mux->filled + mux->room <= stream->credit && mux->filled + mux->room <= most);
        got = mux->error ? 0 : verdict(mux->room);
        if (got < 0)
            got = -1;
        if (got > 0)
            memset(buffer + mux->at + 9 + mux->filled, (int)id, (size_t)got);
        if (asked++ > 400)
            got = 0;
        switch (byte() % 16) { /* what a source may do meanwhile */
        case 0:
            close_stream(id);
            break;
        case 1:
            close_stream(1 + byte() % STREAMS);
            break;
        case 2:
            zks_mux_ready(mux, 1 + byte() % STREAMS);
            break;
        default:
            break;
        }
    }
    CHECK(mux->at >= position && mux->at <= size && !inside);
    for (at = position; at < mux->at;) {
        uint32_t stream = get32(buffer + at + 1), length = get32(buffer + at + 5), i;
        CHECK(stream >= 1 && stream <= STREAMS);
        if (buffer[at] == 0x02) {
            CHECK(length && length <= most && length <= mux->at - at - 9);
            for (i = 0; i < length; i++)
                CHECK(buffer[at + 9 + i] == stream);
            if (ends[stream].stream) /* it may have been closed behind that */
                ends[stream].sent += length;
            payload++;
            payload += length - 1;
        } else {
            CHECK(buffer[at] == 0x41 && !length);
        }
        frames++;
        at += 9 + length;
    }
    CHECK(at == mux->at && frames == mux->frames && payload == mux->payload);
    for (id = 1; id <= STREAMS; id++)
        check_dry(id, in_line[id]);
    free(buffer);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint32_t id;
    input = data;
    input_left = size;
    memset(&target, 0, sizeof target);
    target.pull = pull;
    target.push = push;
    target.enter = enter;
    target.leave = leave;
    target.context = &target;
    CHECK(zks_mux_sockets(&sockets) == 1);
    mux = zks_mux_new(byte() & 1, MAX_DATA, 42);
    CHECK(mux);
    while (input_left) {
        uint8_t what = byte();
        struct zks_mux_stream *stream;
        id = 1 + byte() % STREAMS;
        stream = ends[id].stream;
        switch (what % 14) {
        case 0:
        case 1:
            open_stream(id);
            break;
        case 2:
            close_stream(id);
            break;
        case 3:
            zks_mux_ready(mux, id);
            break;
        case 4:
            if (stream) {
                stream->connected = 1;
                zks_mux_schedule(mux, stream);
            }
            break;
        case 5:
            if (stream)
                stream->pulls = byte() & 1;
            break;
        case 6:
            if (stream && !stream->held)
                stream->pushes = 1;
            break;
        case 7:
            consume(id);
            break;
        case 8:
            if (stream)
                stream->eof_taken = 1;
            break;
        case 9:
        case 10:
            act(id);
            break;
        case 11:
        case 12:
            apply();
            break;
        default:
            fill();
        }
        check();
    }
    for (id = 1; id <= STREAMS; id++)
        close_stream(id);
    CHECK(!mux->streams && !mux->lines[0].first && !mux->lines[1].first);
    zks_mux_free(mux);
    CHECK(env_live == 0);
    return 0;
}
