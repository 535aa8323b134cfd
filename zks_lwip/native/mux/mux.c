/* The streams of a session: by id, and in the lines in which they send. */
#include "mux.h"

#include <stdlib.h>

#define FIRST_TABLE 8u

struct zks_mux *zks_mux_new(int client, uint32_t max_data, uint32_t secret)
{
    struct zks_mux *mux = calloc(1, sizeof *mux);
    if (!mux)
        return NULL;
    mux->table = calloc(FIRST_TABLE, sizeof(*mux->table));
    if (!mux->table) {
        free(mux);
        return NULL;
    }
    mux->table_mask = FIRST_TABLE - 1;
    mux->client = client != 0;
    mux->max_data = max_data;
    mux->secret = secret;
    return mux;
}

void zks_mux_free(struct zks_mux *mux)
{
    if (!mux)
        return;
    free(mux->table);
    free(mux);
}

/* ---- by id ---- */
/* Returns where a stream stands in the table. (The mixing is MurmurHash3's, of which every bit counts.) */
static struct zks_mux_stream **place(const struct zks_mux *mux, uint32_t id)
{
    uint32_t hash = id ^ mux->secret;
    hash = (hash ^ hash >> 16) * 0x85ebca6bu;
    hash = (hash ^ hash >> 13) * 0xc2b2ae35u;
    return &mux->table[(hash ^ hash >> 16) & mux->table_mask];
}

struct zks_mux_stream *mux_find(const struct zks_mux *mux, uint32_t id)
{
    struct zks_mux_stream *stream = *place(mux, id);
    while (stream && stream->id != id)
        stream = stream->table_next;
    return stream;
}

/* Makes the table twice as large; without memory for that it stays, and is slower. */
static void grow(struct zks_mux *mux)
{
    struct zks_mux_stream **old = mux->table, **at;
    uint32_t size = (mux->table_mask + 1) * 2, i, before = mux->table_mask;
    struct zks_mux_stream **table = size ? calloc(size, sizeof *table) : NULL;
    if (!table)
        return;
    mux->table = table;
    mux->table_mask = size - 1;
    for (i = 0; i <= before; i++) {
        while (old[i]) {
            struct zks_mux_stream *stream = old[i];
            old[i] = stream->table_next;
            at = place(mux, stream->id);
            stream->table_next = *at;
            *at = stream;
        }
    }
    free(old);
}

void zks_mux_add(struct zks_mux *mux, struct zks_mux_stream *stream)
{
    struct zks_mux_stream **at;
    if (mux->streams > mux->table_mask)
        grow(mux);
    stream->line = ZKS_LINE_NONE;
    stream->line_prev = stream->line_next = NULL;
    stream->gone = 0;
    at = place(mux, stream->id);
    stream->table_next = *at;
    *at = stream;
    mux->streams++;
}

void zks_mux_remove(struct zks_mux *mux, struct zks_mux_stream *stream)
{
    struct zks_mux_stream **at = place(mux, stream->id);
    while (*at && *at != stream)
        at = &(*at)->table_next;
    if (!*at)
        return;
    *at = stream->table_next;
    stream->table_next = NULL;
    mux->streams--;
    mux_unline(mux, stream);
    stream->gone = 1;
    stream->target = NULL;
    stream->pulls = stream->pushes = 0;
    if (mux->current == stream)
        mux->current = NULL;
}

/* ---- in line ---- */
void mux_unline(struct zks_mux *mux, struct zks_mux_stream *stream)
{
    struct zks_mux_line *line;
    if (stream->line == ZKS_LINE_NONE)
        return;
    line = &mux->lines[stream->line];
    mux->lined--;
    if (stream->line_prev)
        stream->line_prev->line_next = stream->line_next;
    else
        line->first = stream->line_next;
    if (stream->line_next)
        stream->line_next->line_prev = stream->line_prev;
    else
        line->last = stream->line_prev;
    stream->line_prev = stream->line_next = NULL;
    stream->line = ZKS_LINE_NONE;
}

void mux_line(struct zks_mux *mux, struct zks_mux_stream *stream, int line)
{
    struct zks_mux_line *to = &mux->lines[line];
    mux->lined++;
    stream->line = (uint8_t)line;
    stream->line_next = NULL;
    stream->line_prev = to->last;
    if (to->last)
        to->last->line_next = stream;
    else
        to->first = stream;
    to->last = stream;
}

int zks_mux_schedule(struct zks_mux *mux, struct zks_mux_stream *stream)
{
    if (stream->gone || !stream->credit || !stream->supplied || stream->eof_sent || !stream->ready ||
        !(mux->client || stream->connected))
        return 0;
    if (stream->line == ZKS_LINE_NONE)
        mux_line(mux, stream, stream->bulk ? ZKS_LINE_BULK : ZKS_LINE_FRESH);
    return 1;
}

int zks_mux_ready(struct zks_mux *mux, uint32_t id)
{
    struct zks_mux_stream *stream = mux_find(mux, id);
    if (!stream || stream->ready || stream->eof_sent)
        return 0;
    stream->ready = 1;
    return zks_mux_schedule(mux, stream);
}

/* ---- targets ---- */
void mux_enter(struct zks_mux *mux, struct zks_mux_target *target)
{
    if (mux->entered == target)
        return;
    mux_leave(mux);
    if (target->enter)
        target->enter(target->context);
    mux->entered = target;
}

void mux_leave(struct zks_mux *mux)
{
    struct zks_mux_target *target = mux->entered;
    mux->entered = NULL;
    if (target && target->leave)
        target->leave(target->context);
}
