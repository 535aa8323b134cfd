/* A table of answers, four places for each hash; it is bounded, and what is old gives way. */
#include "zks_hot.h"

#include <stdlib.h>
#include <string.h>

#include "hot.h"
#include "internal.h"
#include "platform.h"

#define SLOTS 16384u
#define WAYS 4u
#define MOST_KEY 512u
#define MOST_TTLS 64u

struct hot_answer {
    uint64_t hash, since_ms, until_ms;
    uint8_t *data; /* key, then answer, then the offsets of its TTLs; NULL: free */
    uint16_t key_length, answer_length, ttls;
};

struct hot {
    struct hot *next;
    zks_core *core;
    uint64_t hits;
    struct hot_answer slots[SLOTS];
};

/* One for each core that has ever been given an answer; usually one. */
static struct hot *tables;

static struct hot *table_of(const zks_core *core)
{
    struct hot *table = tables;
    while (table && table->core != core)
        table = table->next;
    return table;
}

static uint64_t hash_of(const uint8_t *key, size_t length)
{
    uint64_t hash = 0xcbf29ce484222325ull; /* FNV-1a: a collision costs an entry, nothing more */
    size_t i;
    for (i = 0; i < length; i++)
        hash = (hash ^ key[i]) * 0x100000001b3ull;
    return hash ^ hash >> 32;
}

static int is(const struct hot_answer *slot, uint64_t hash, const uint8_t *key, size_t length)
{
    return slot->data && slot->hash == hash && slot->key_length == length && !memcmp(slot->data, key, length);
}

static void release(struct hot_answer *slot)
{
    free(slot->data);
    memset(slot, 0, sizeof *slot);
}

const struct hot_answer *hot_find(zks_core *core, const uint8_t *key, uint32_t length)
{
    struct hot *table = table_of(core);
    uint64_t hash;
    uint32_t way;
    if (!table || !length || length > MOST_KEY)
        return NULL;
    hash = hash_of(key, length);
    for (way = 0; way < WAYS; way++) {
        struct hot_answer *slot = &table->slots[(hash ^ way) & (SLOTS - 1)];
        if (!is(slot, hash, key, length))
            continue;
        if (zks_now_ms() >= slot->until_ms) {
            release(slot);
            return NULL;
        }
        table->hits++;
        return slot;
    }
    return NULL;
}

uint32_t hot_length(const struct hot_answer *answer) { return answer->answer_length; }

void hot_write(const struct hot_answer *answer, uint8_t *out)
{
    const uint8_t *offsets = answer->data + answer->key_length + answer->answer_length;
    uint64_t age = (zks_now_ms() - answer->since_ms) / 1000u;
    uint32_t i;
    memcpy(out, answer->data + answer->key_length, answer->answer_length);
    for (i = 0; i < answer->ttls; i++) {
        uint8_t *ttl = out + zks_get16(offsets + 2 * i);
        uint32_t value = zks_get32(ttl);
        zks_put32(ttl, value > age ? value - (uint32_t)age : 0);
    }
}

void hot_teardown(zks_core *core)
{
    struct hot **link = &tables, *table;
    uint32_t i;
    while (*link && (*link)->core != core)
        link = &(*link)->next;
    table = *link;
    if (!table)
        return;
    *link = table->next;
    for (i = 0; i < SLOTS; i++)
        release(&table->slots[i]);
    free(table);
}

int zks_hot_put(zks_core *core, const uint8_t *key, size_t key_length, const uint8_t *answer, size_t answer_length,
                const uint16_t *ttls, size_t count, uint32_t age_ms, uint32_t valid_ms)
{
    struct hot *table;
    struct hot_answer *slot;
    uint64_t hash;
    uint8_t *data;
    size_t i;
    uint32_t way;
    if (!core || !key_length || key_length > MOST_KEY || !answer_length || answer_length > HOT_MOST_ANSWER ||
        count > MOST_TTLS)
        return 0;
    for (i = 0; i < count; i++)
        if (ttls[i] + 4u > answer_length)
            return 0;
    data = malloc(key_length + answer_length + 2 * count);
    if (!data)
        return 0;
    memcpy(data, key, key_length);
    memcpy(data + key_length, answer, answer_length);
    for (i = 0; i < count; i++)
        zks_put16(data + key_length + answer_length + 2 * i, ttls[i]);
    hash = hash_of(key, key_length);
    core_enter(core);
    table = table_of(core);
    if (!table) {
        table = calloc(1, sizeof *table);
        if (!table) {
            core_leave(core);
            free(data);
            return 0;
        }
        table->core = core;
        table->next = tables;
        tables = table;
    }
    slot = NULL;
    for (way = 0; way < WAYS; way++) {
        struct hot_answer *one = &table->slots[(hash ^ way) & (SLOTS - 1)];
        if (is(one, hash, key, key_length)) {
            slot = one;
            break;
        }
        if (!slot || one->until_ms < slot->until_ms) /* a free one is as old as can be */
            slot = one;
    }
    release(slot);
    slot->hash = hash;
    slot->since_ms = zks_now_ms() - age_ms;
    slot->until_ms = zks_now_ms() + valid_ms;
    slot->data = data;
    slot->key_length = (uint16_t)key_length;
    slot->answer_length = (uint16_t)answer_length;
    slot->ttls = (uint16_t)count;
    core_leave(core);
    return 1;
}

void zks_hot_clear(zks_core *core)
{
    struct hot *table;
    uint32_t i;
    if (!core)
        return;
    core_enter(core);
    table = table_of(core);
    for (i = 0; table && i < SLOTS; i++)
        release(&table->slots[i]);
    core_leave(core);
}

uint64_t zks_hot_hits(zks_core *core)
{
    struct hot *table;
    uint64_t hits;
    if (!core)
        return 0;
    core_enter(core);
    table = table_of(core);
    hits = table ? table->hits : 0;
    core_leave(core);
    return hits;
}
