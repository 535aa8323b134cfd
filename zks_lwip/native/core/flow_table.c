/* The flows: their lists, the hash table that finds them by packet, the slots that find them by id. No lwIP. */
#include "flow_table.h"

#include <string.h>

#include "flow_budget.h"
#include "flow_rx.h"
#include "siphash.h"

/* ---- lists ---- */
static void flow_list_remove(zks_core *core, struct flow *flow)
{
    struct flow_list *list = &core->lists[flow->list];
    if (flow->list == LIST_NONE)
        return;
    *(flow->prev ? &flow->prev->next : &list->first) = flow->next;
    *(flow->next ? &flow->next->prev : &list->last) = flow->prev;
    list->count--;
    flow->prev = flow->next = NULL;
    flow->list = LIST_NONE;
}

void flow_list_move(zks_core *core, struct flow *flow, uint8_t to)
{
    struct flow_list *list = &core->lists[to];
    if (flow->list == to)
        return;
    flow_list_remove(core, flow);
    if (to == LIST_NONE)
        return;
    flow->list = to;
    flow->prev = list->last;
    *(list->last ? &list->last->next : &list->first) = flow;
    list->last = flow;
    list->count++;
}

void flow_rest(zks_core *core, struct flow *flow)
{
    if (flow->list == LIST_IDLE || flow->list == LIST_ASKED)
        return; /* what we do is no sign of the peer's life */
    flow->since_ms = core->now_ms;
    flow_list_move(core, flow, LIST_IDLE);
}

void flow_heard(zks_core *core, struct flow *flow)
{
    if (flow->list == LIST_IDLE || flow->list == LIST_ASKED)
        flow_list_move(core, flow, LIST_NONE); /* flow_settle puts it behind the others */
}

/* ---- the table ---- */
uint32_t flow_hash_of(const zks_core *core, const struct zks_address *source, uint16_t source_port,
                      const struct zks_address *destination, uint16_t destination_port)
{
    return (uint32_t)siphash_tuple(core->config.seed, source->bytes, source_port, destination->bytes, destination_port);
}

struct flow *flow_find(const zks_core *core, const struct zks_packet *packet, uint32_t hash)
{
    struct flow *flow = core->table[hash & core->table_mask];
    for (; flow; flow = flow->hash_next)
        if (flow->hash == hash && flow->source_port == packet->source_port &&
            flow->destination_port == packet->destination_port && flow->source.family == packet->source.family &&
            !memcmp(flow->source.bytes, packet->source.bytes, 16) &&
            !memcmp(flow->destination.bytes, packet->destination.bytes, 16))
            return flow;
    return NULL;
}

void flow_table_remove(zks_core *core, struct flow *flow)
{
    struct flow **at = &core->table[flow->hash & core->table_mask];
    while (*at && *at != flow)
        at = &(*at)->hash_next;
    if (*at) {
        *at = flow->hash_next;
        core->flow_count--;
    }
}

static void table_grow(zks_core *core)
{
    uint32_t size = (core->table_mask + 1) * 2, i;
    struct flow **table = calloc(size, sizeof *table);
    if (!table)
        return; /* longer chains, until memory comes back */
    for (i = 0; i <= core->table_mask; i++) {
        struct flow *flow = core->table[i], *next;
        for (; flow; flow = next) {
            next = flow->hash_next;
            flow->hash_next = table[flow->hash & (size - 1)];
            table[flow->hash & (size - 1)] = flow;
        }
    }
    free(core->table);
    core->table = table;
    core->table_mask = size - 1;
}

void flow_table_add(zks_core *core, struct flow *flow)
{
    struct flow **at;
    if (core->flow_count > core->table_mask)
        table_grow(core);
    at = &core->table[flow->hash & core->table_mask];
    flow->hash_next = *at;
    *at = flow;
    core->flow_count++;
}

uint16_t flow_mss(const zks_core *core, const struct zks_packet *reply)
{
    const struct flow *flow = core->current;
    if (!flow)
        flow = flow_find(
            core, reply,
            flow_hash_of(core, &reply->source, reply->source_port, &reply->destination, reply->destination_port));
    return flow && flow->mss ? flow->mss : 536;
}

/* ---- ids: a slot in the low half, how often it has been used in the high half ---- */
static int slot_take(zks_core *core, struct flow *flow)
{
    uint32_t slot, count = core->slot_count;
    if (core->flow_count >= count / 4 * 3) {
        /* A quarter of them stays free, so that the search below is short. */
        struct flow **slots;
        uint32_t *generations;
        count = count ? count * 2 : 64;
        slots = realloc(core->slots, count * sizeof *slots);
        if (!slots)
            return -1;
        core->slots = slots;
        generations = realloc(core->generations, count * sizeof *generations);
        if (!generations)
            return -1;
        core->generations = generations;
        memset(slots + core->slot_count, 0, (count - core->slot_count) * sizeof *slots);
        memset(generations + core->slot_count, 0, (count - core->slot_count) * sizeof *generations);
        core->slot_count = count;
    }
    slot = core->slot_hint & (count - 1);
    while (core->slots[slot])
        slot = (slot + 1) & (count - 1);
    core->slot_hint = slot + 1;
    core->slots[slot] = flow;
    flow->id = (uint64_t)++core->generations[slot] << 32 | slot;
    return 0;
}

struct flow *flow_get(const zks_core *core, uint64_t id)
{
    uint32_t slot = (uint32_t)id;
    struct flow *flow;
    if (slot >= core->slot_count)
        return NULL;
    flow = core->slots[slot];
    return flow && flow->id == id && flow->owned ? flow : NULL;
}

/* ---- life of a flow ---- */
struct flow *flow_new(zks_core *core, const struct zks_address *source, uint16_t source_port,
                      const struct zks_address *destination, uint16_t destination_port)
{
    struct flow *flow = calloc(1, sizeof *flow);
    if (!flow)
        return NULL;
    flow->source = *source;
    flow->destination = *destination;
    flow->source_port = source_port;
    flow->destination_port = destination_port;
    flow->hash = flow_hash_of(core, source, source_port, destination, destination_port);
    flow->since_ms = core->now_ms;
    if (slot_take(core, flow) != 0) {
        free(flow);
        return NULL;
    }
    flow->owned = 1;
    flow_table_add(core, flow);
    return flow;
}

static void ready_remove(zks_core *core, struct flow *flow)
{
    struct flow **at = &core->ready_first, *before = NULL;
    if (!flow->ready)
        return;
    while (*at != flow) {
        before = *at;
        at = &(*at)->ready_next;
    }
    *at = flow->ready_next;
    if (core->ready_last == flow)
        core->ready_last = before;
    flow->ready = 0;
}

static void ack_remove(zks_core *core, struct flow *flow)
{
    struct flow **at = &core->ack_first;
    if (!flow->ack_due)
        return;
    while (*at != flow)
        at = &(*at)->ack_next;
    *at = flow->ack_next;
    flow->ack_due = 0;
}

void flow_reap(zks_core *core, struct flow *flow)
{
    if (flow->state == FLOW_DEAD && !flow->owned) {
        ack_remove(core, flow);
        flow_list_remove(core, flow);
        flow_table_remove(core, flow);
        core->slots[(uint32_t)flow->id] = NULL;
        core->charged -= flow->charge;
        free(flow->syn);
        free(flow);
    }
}

void flow_release(zks_core *core, struct flow *flow)
{
    if (flow->owned) {
        ready_remove(core, flow);
        flow->owned = 0;
        rx_clear(core, flow);
    }
    if (flow->state == FLOW_OPEN) {
        flow->state = FLOW_LINGER;
        flow->since_ms = core->now_ms;
    }
    budget_charge(core, flow);
}

void flow_died(zks_core *core, struct flow *flow, uint8_t event)
{
    if (flow->events & ZKS_EV_SYN)
        flow_release(core,
                     flow); /* its owner has not been told of it, and need not be: a flood leaves nothing behind */
    flow->pcb = NULL;
    flow->state = FLOW_DEAD;
    budget_charge(core, flow);
    flow_list_move(core, flow, LIST_DEAD);
    if (!flow->ended) {
        flow->ended = 1;
        if (event)
            core_ready(core, flow, event);
    }
}
