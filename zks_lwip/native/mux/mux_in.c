/* What a message that came does to the streams: the part of it that is usual (PROTOCOL.md §2, §4). */
#include "mux.h"

#define DATA 0x02u
#define WINDOW 0x42u
#define WINDOW_LENGTH 13u
#define MAX_FRAMES 512u /* at a time: tiny ones take as long each as large ones */

static uint32_t get32(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static void record(struct zks_mux *mux, uint32_t kind, uint32_t stream, size_t offset, uint32_t length)
{
    struct zks_mux_record *to = &mux->records[mux->records_count++];
    to->kind = kind;
    to->stream = stream;
    to->offset = (uint32_t)offset;
    to->length = length;
}

/* At a quarter of the window: TCP's slow start sends twice in a round trip what it has sent in the last, and a window
 * that doubles is ahead of that where no more than a quarter of it was consumed before. */
int zks_mux_consume(struct zks_mux_stream *stream, uint32_t size)
{
    if (size > stream->held)
        return -1;
    stream->held -= size;
    stream->consumed += size;
    return (uint64_t)stream->consumed * 4 >= stream->size;
}

/* Gives the target what it takes of a payload; returns how many bytes that is. */
static uint32_t push(struct zks_mux *mux, struct zks_mux_stream *stream, const uint8_t *payload, uint32_t length)
{
    struct zks_mux_target *target = stream->target;
    int64_t result;
    uint32_t taken;
    if (!stream->pushes || !target || target->closed)
        return 0;
    mux_enter(mux, target);
    result = target->push(target->context, stream->handle, payload, length);
    taken = result <= 0 ? 0 : result < length ? (uint32_t)result : length;
    target->pushed += taken;
    if (taken < length)
        stream->pushes = 0; /* until the owner has passed on the rest */
    if (result < ZKS_MUX_ERRNO)
        record(mux, ZKS_RECORD_ERRNO, stream->id, 0, (uint32_t)(ZKS_MUX_ERRNO - result));
    return taken;
}

/* Takes one DATA; 0: it is left. */
static size_t take_data(struct zks_mux *mux, const uint8_t *message, size_t size, size_t position, double now)
{
    struct zks_mux_stream *stream;
    uint32_t length, taken;
    if (size - position < MUX_HEADER)
        return 0;
    length = get32(message + position + 5);
    if (length > size - position - MUX_HEADER || length > mux->max_data || !length)
        return 0;
    stream = mux_find(mux, get32(message + position + 1));
    if (!stream || stream->eof_taken || (mux->client && !stream->connected) || length > stream->available)
        return 0;
    stream->available -= length;
    stream->held += length;
    if (stream->since == 0.0)
        stream->since = now;
    mux->data_in += length;
    position += MUX_HEADER;
    taken = push(mux, stream, message + position, length);
    if (taken && zks_mux_consume(stream, taken) == 1)
        record(mux, ZKS_RECORD_GRANT, stream->id, 0, 0);
    if (taken < length)
        record(mux, ZKS_RECORD_DATA, stream->id, position + taken, length - taken);
    return MUX_HEADER + length;
}

/* Takes one WINDOW; 0: it is left. At a client the stream's CONNECT may not have left before CONNECTED has come. */
static size_t take_window(struct zks_mux *mux, const uint8_t *message, size_t size, size_t position)
{
    struct zks_mux_stream *stream;
    uint32_t credit;
    if (size - position < WINDOW_LENGTH || get32(message + position + 5) != 4)
        return 0;
    stream = mux_find(mux, get32(message + position + 1));
    credit = get32(message + position + 9);
    if (!stream || (mux->client && !stream->connected) || (uint64_t)stream->credit + credit > MUX_MAX_WINDOW)
        return 0;
    stream->credit += credit;
    zks_mux_schedule(mux, stream);
    return WINDOW_LENGTH;
}

int zks_mux_apply(struct zks_mux *mux, const uint8_t *message, size_t size, size_t position, double now,
                  struct zks_mux_record *records)
{
    mux->records = records;
    mux->applied = mux->records_count = 0;
    mux->data_in = 0;
    /* A frame gives three records at most. */
    while (position < size && mux->applied < MAX_FRAMES && mux->records_count + 3 <= ZKS_MUX_RECORDS) {
        size_t length = 0;
        if (message[position] == DATA)
            length = take_data(mux, message, size, position, now);
        else if (message[position] == WINDOW)
            length = take_window(mux, message, size, position);
        if (!length)
            break;
        position += length;
        mux->applied++;
    }
    mux_leave(mux);
    mux->position = position;
    mux->records = NULL;
    return (int)mux->records_count;
}
