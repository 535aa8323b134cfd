/* The multiplexer, between a hostile peer's messages, targets that do what they like, and an owner who keeps to its
 * page: every byte is somewhere, no credit is exceeded, and what is written is frames. */
#include <stdlib.h>
#include <string.h>

#include "env.h"
#include "mux/zks_mux.h"

#define STREAMS 12
#define MESSAGE 70000u
#define MAX_DATA 3000u

struct end {
    struct zks_mux_stream *stream; /* exactly as large as it is, so that what goes past it shows */
    uint64_t granted, sent;        /* to us, and spent of it */
    uint64_t pushed;               /* to the target */
};

static struct zks_mux *mux;
static struct end ends[STREAMS + 1];
static struct zks_mux_target target;
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
    size_t i;
    unsigned sum = 0;
    CHECK(inside && context == &target && handle >= 1 && handle <= STREAMS && length && length <= MAX_DATA);
    CHECK(ends[handle].stream && ends[handle].stream->pushes && !ends[handle].stream->gone);
    for (i = 0; i < length; i++)
        sum += data[i]; /* all of it is to be read */
    if (taken > 0)
        ends[handle].pushed += (uint64_t)taken + (sum & 0);
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
        CHECK(ends[id].sent + stream->credit == ends[id].granted && stream->credit <= 0x7fffffffu);
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

static void close_stream(uint32_t id)
{
    struct zks_mux_stream *stream = ends[id].stream;
    if (!stream)
        return;
    zks_mux_remove(mux, stream);
    CHECK(stream->gone);
    free(stream);
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
    stream->size = stream->initial = stream->available = 1 + word() * 4;
    ends[id].granted = stream->credit = word() * 4;
    stream->supplied = 1;
    stream->connected = byte() & 1;
    stream->target = &target;
    ends[id].stream = stream;
    zks_mux_add(mux, stream);
}

/* Takes the grants of a stream, as WINDOW frames would, and consumes what is held. */
static void consume(uint32_t id)
{
    struct zks_mux_stream *stream = ends[id].stream;
    uint32_t size = word();
    if (!stream)
        return;
    if (size > stream->held) {
        CHECK(zks_mux_consume(stream, size) == -1);
        return;
    }
    if (zks_mux_consume(stream, size) == 1) {
        CHECK((uint64_t)stream->consumed * 2 >= stream->size);
        stream->available += stream->consumed;
        stream->consumed = 0;
    }
}

/* ---- messages that come ---- */
static size_t make(uint8_t *message)
{
    size_t size = 0;
    int frames = byte() % 20;
    while (frames-- && size + 13 + 4000 < MESSAGE) {
        uint8_t kind = byte(), id = byte() % (STREAMS + 2);
        uint32_t length = kind & 0x80 ? word() % 4000 : byte();
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
            memset(at + 9, kind, length);
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

/* Applies a message, against what the page says of each frame that is taken. */
static void apply(void)
{
    uint8_t *scratch = malloc(MESSAGE), *message;
    size_t size = make(scratch), position = 0;
    message = malloc(size ? size : 1);
    memcpy(message, scratch, size);
    free(scratch);
    while (position < size) {
        uint64_t pushed = target.pushed, left = 0, came = 0;
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
                at += 9 + length;
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
            } else {
                CHECK(record->kind == ZKS_RECORD_GRANT || (record->kind == ZKS_RECORD_ERRNO && record->length == 104));
            }
        }
        CHECK(target.pushed - pushed + left == came);
        check();
        if (mux->position == position)
            break; /* the owner reads this one, and would end the session */
        position = mux->position;
    }
    free(message);
}

/* ---- messages that go ---- */
static void fill(void)
{
    size_t size = 100 + word() % (MESSAGE - 100), position = byte() % 64, at;
    uint32_t most = 1 + word() % 20000, id;
    uint64_t frames = mux->frames, payload = mux->payload;
    uint8_t *buffer = malloc(size);
    int64_t got = 0;
    uint32_t asked = 0;
    zks_mux_begin(mux, buffer, position, size, most);
    while ((id = zks_mux_fill(mux, got)) != 0) {
        struct zks_mux_stream *stream;
        CHECK(id <= STREAMS && ends[id].stream && !inside && mux->room);
        stream = ends[id].stream;
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
    mux = zks_mux_new(byte() & 1, MAX_DATA, 42);
    CHECK(mux);
    while (input_left) {
        uint8_t what = byte();
        struct zks_mux_stream *stream;
        id = 1 + byte() % STREAMS;
        stream = ends[id].stream;
        switch (what % 12) {
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
