/* A table of answers, four places for each hash; it is bounded, and what is old gives way. */
#include "packet_cache.h"

#include <stdlib.h>
#include <string.h>

#include "context.h"
#include "platform.h"
#include "zks_packet_cache.h"

#define SLOTS 16384u
#define WAYS 4u
#define MAX_KEY 512u
#define MAX_TTLS 64u

struct cached_answer {
    uint64_t hash, since_ms, until_ms;
    uint8_t *data; /* key, then answer, then the offsets of its TTLs; NULL: free */
    uint16_t key_length, answer_length, ttls;
};

struct packet_cache {
    struct packet_cache *next;
    zks_core *core;
    uint64_t hits;
    struct cached_answer slots[SLOTS];
};

/* One for each core that has ever been given an answer; usually one. */
static struct packet_cache *tables;

static struct packet_cache *table_of(const zks_core *core)
{
    struct packet_cache *table = tables;
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

static int is(const struct cached_answer *slot, uint64_t hash, const uint8_t *key, size_t length)
{
    return slot->data && slot->hash == hash && slot->key_length == length && !memcmp(slot->data, key, length);
}

static void release(struct cached_answer *slot)
{
    free(slot->data);
    memset(slot, 0, sizeof *slot);
}

const struct cached_answer *packet_cache_find(zks_core *core, const uint8_t *key, uint32_t length)
{
    struct packet_cache *table = table_of(core);
    uint64_t hash;
    uint32_t way;
    if (!table || !length || length > MAX_KEY)
        return NULL;
    hash = hash_of(key, length);
    for (way = 0; way < WAYS; way++) {
        struct cached_answer *slot = &table->slots[(hash ^ way) & (SLOTS - 1)];
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

uint32_t packet_cache_length(const struct cached_answer *answer) { return answer->answer_length; }

void packet_cache_write(const struct cached_answer *answer, uint8_t *out)
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

void packet_cache_teardown(zks_core *core)
{
    struct packet_cache **link = &tables, *table;
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

int zks_packet_cache_put(zks_core *core, const uint8_t *key, size_t key_length, const uint8_t *answer,
                         size_t answer_length, const uint16_t *ttls, size_t count, uint32_t age_ms, uint32_t valid_ms)
{
    struct packet_cache *table;
    struct cached_answer *slot;
    uint64_t hash;
    uint8_t *data;
    size_t i;
    uint32_t way;
    if (!core || !key_length || key_length > MAX_KEY || !answer_length || answer_length > PACKET_CACHE_MAX_ANSWER ||
        count > MAX_TTLS)
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
        struct cached_answer *one = &table->slots[(hash ^ way) & (SLOTS - 1)];
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

void zks_packet_cache_clear(zks_core *core)
{
    struct packet_cache *table;
    uint32_t i;
    if (!core)
        return;
    core_enter(core);
    table = table_of(core);
    for (i = 0; table && i < SLOTS; i++)
        release(&table->slots[i]);
    core_leave(core);
}

uint64_t zks_packet_cache_hits(zks_core *core)
{
    struct packet_cache *table;
    uint64_t hits;
    if (!core)
        return 0;
    core_enter(core);
    table = table_of(core);
    hits = table ? table->hits : 0;
    core_leave(core);
    return hits;
}
