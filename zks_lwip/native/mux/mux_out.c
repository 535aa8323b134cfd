/* Which stream's bytes go into the next message: those with little to send before bulk ones.
 *
 * A stream that becomes ready stands in the fresh line and is served first, once, with a small quantum. One that still
 * has bytes after that joins the bulk line, which is served round-robin. It is fresh again once it ran dry. Fresh
 * streams get half of a message while bulk ones wait, so that thousands of small senders cannot starve them. */
#include "mux.h"

#define DATA 0x02u
#define EOF_COMMAND 0x41u
#define FRESH_QUANTUM (16u << 10)
#define SPARSE_SIZE 1460u    /* bytes of all that a stream has, up to which it is sparse: one segment */
#define BULK_QUANTUM 62780u  /* 43 x 1,460: a client's stack gives it to its device as one segment */
#define MIN_PIECE (2u << 10) /* room below which no bulk stream starts a frame at the end of a message, */
#define MIN_SHARE 8u         /* or below this part of the message: behind large frames a short one costs as much */

static void put_header(uint8_t *at, uint8_t command, uint32_t id, uint32_t length)
{
    int shift;
    *at++ = command;
    for (shift = 24; shift >= 0; shift -= 8)
        *at++ = (uint8_t)(id >> shift);
    for (shift = 24; shift >= 0; shift -= 8)
        *at++ = (uint8_t)(length >> shift);
}

static size_t least(size_t one, size_t other) { return one < other ? one : other; }

/* Whether what is left of the message is too little to start a frame of a bulk stream in. */
static int is_scrap(const struct zks_mux *mux)
{
    size_t left = mux->end - mux->at;
    return mux->at > mux->start && (left < MIN_PIECE || left < (mux->end - mux->start) / MIN_SHARE);
}

/* Takes the next stream out of line, with its share of the message; NULL: the message is full, or none waits. */
static struct zks_mux_stream *next(struct zks_mux *mux, size_t *share)
{
    struct zks_mux_line *fresh = &mux->lines[ZKS_LINE_FRESH], *bulk = &mux->lines[ZKS_LINE_BULK];
    struct zks_mux_stream *stream;
    if (mux->phase == ZKS_LINE_FRESH) {
        if (fresh->first && mux->fresh_end > mux->at + MUX_HEADER) {
            stream = fresh->first;
            mux_unline(mux, stream);
            *share = mux->fresh_end;
            if (fresh->first || bulk->first)
                *share = least(*share, mux->at + MUX_HEADER + FRESH_QUANTUM);
            return stream;
        }
        mux->phase = ZKS_LINE_BULK;
    }
    if (!bulk->first || mux->end <= mux->at + MUX_HEADER || is_scrap(mux))
        return NULL;
    stream = bulk->first;
    mux_unline(mux, stream);
    *share = mux->end;
    if (bulk->first)
        *share = least(*share, mux->at + MUX_HEADER + BULK_QUANTUM);
    return stream;
}

/* Notes the size of a stream's frame: a stream that sends little, and has done so before, is sparse. */
static void judge(struct zks_mux *mux, struct zks_mux_stream *stream, int is_all)
{
    int little = is_all && !stream->bulk && mux->filled <= SPARSE_SIZE;
    if (little && stream->little && mux->lines[ZKS_LINE_BULK].first)
        mux->sparse++;
    stream->little = (uint8_t)little;
}

/* Ends the frame of the current stream. got: what the last pull gave. */
static void finish(struct zks_mux *mux, int64_t got)
{
    struct zks_mux_stream *stream = mux->current;
    mux->current = NULL;
    if (mux->filled) {
        judge(mux, stream, got <= 0);
        put_header(mux->buffer + mux->at, DATA, stream->id, (uint32_t)mux->filled);
        mux->at += MUX_HEADER + mux->filled;
        stream->credit -= (uint32_t)mux->filled;
        mux->frames++;
        mux->payload += mux->filled;
    }
    if (got > 0) {
        stream->bulk = 1;
        if (stream->credit && stream->line == ZKS_LINE_NONE)
            mux_line(mux, stream, ZKS_LINE_BULK);
        return;
    }
    stream->ready = stream->bulk = 0;
    if (got < 0) {
        put_header(mux->buffer + mux->at, EOF_COMMAND, stream->id, 0);
        mux->at += MUX_HEADER;
        mux->frames++;
        stream->eof_sent = 1;
    }
}

/* Pulls from the target of the current stream; returns whether its owner is to be asked instead. */
static int pull(struct zks_mux *mux, int64_t *got)
{
    struct zks_mux_stream *stream = mux->current;
    struct zks_mux_target *target = stream->target;
    int64_t result;
    if (!stream->pulls || !target || target->closed)
        return 1;
    mux_enter(mux, target);
    result = target->pull(target->context, stream->handle, mux->buffer + mux->at + MUX_HEADER + mux->filled, mux->room);
    if (result == ZKS_MUX_EOF || result < ZKS_MUX_ERRNO) {
        mux->error = result < ZKS_MUX_ERRNO ? (int32_t)(ZKS_MUX_ERRNO - result) : 0;
        return 1;
    }
    *got = result < 0 ? 0 : (int64_t)least((size_t)result, mux->room);
    target->pulled += (uint64_t)*got;
    return 0;
}

/* Counts what a pull has given; returns whether the frame is at its end. */
static int add(struct zks_mux *mux, int64_t got)
{
    if (got <= 0)
        return 1;
    mux->filled += (size_t)got;
    mux->room -= (size_t)got;
    return !mux->room;
}

void zks_mux_begin(struct zks_mux *mux, uint8_t *buffer, size_t position, size_t size, uint32_t most)
{
    mux->buffer = buffer;
    mux->start = mux->at = position;
    mux->end = size > MUX_HEADER ? size - MUX_HEADER : 0; /* an EOF must always fit behind the last DATA */
    if (mux->end < position)
        mux->end = position;
    mux->fresh_end = mux->lines[ZKS_LINE_BULK].first ? (position + mux->end) / 2 : mux->end;
    mux->most = most;
    mux->phase = ZKS_LINE_FRESH;
    mux->current = NULL;
    mux->error = 0;
}

uint32_t zks_mux_fill(struct zks_mux *mux, int64_t got)
{
    mux->error = 0;
    if (mux->current) { /* its owner has supplied */
        if (got > (int64_t)mux->room)
            got = (int64_t)mux->room;
        if (add(mux, got))
            finish(mux, got);
    }
    for (;;) {
        if (!mux->current) {
            size_t share;
            mux->current = next(mux, &share);
            if (!mux->current)
                break;
            mux->filled = 0;
            mux->room = least(least(share - mux->at - MUX_HEADER, mux->current->credit), mux->most);
            if (mux->room > BULK_QUANTUM) /* or its last segment would be short */
                mux->room -= mux->room % BULK_QUANTUM;
        }
        got = 0;
        if (mux->room && pull(mux, &got)) {
            mux_leave(mux);
            return mux->current->id;
        }
        if (add(mux, got))
            finish(mux, got);
    }
    mux_leave(mux);
    return 0;
}
