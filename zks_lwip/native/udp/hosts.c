/* The table of hosts: two hashes of sets, in each of which the place that was filled first is filled again. */
#include "hosts.h"

#include <stdlib.h>

#define SETS 256u
#define WAYS 8u

struct set {
    struct udp_host hosts[WAYS];
    uint8_t next;
};

struct zks_udp_hosts {
    struct set by_text[SETS], by_address[SETS];
    uint32_t seed;
};

/* FNV-1a */
static uint32_t hash(uint32_t seed, const uint8_t *bytes, uint32_t length)
{
    uint32_t value = 2166136261u ^ seed, i;
    for (i = 0; i < length; i++)
        value = (value ^ bytes[i]) * 16777619u;
    return (value ^ value >> 15) % SETS;
}

static uint32_t width(int family) { return family == 4 ? 4 : 16; }

static int has_text(const struct udp_host *host, const uint8_t *text, uint32_t length)
{
    return host->verdict && host->length == length && !memcmp(host->text, text, length);
}

static int has_address(const struct udp_host *host, int family, const uint8_t *address)
{
    return host->verdict && host->family == family && !memcmp(host->address, address, width(family));
}

const struct udp_host *udp_host_by_text(const zks_udp_hosts *hosts, const uint8_t *text, uint32_t length)
{
    const struct set *set = &hosts->by_text[hash(hosts->seed, text, length)];
    uint32_t i;
    for (i = 0; i < WAYS; i++)
        if (has_text(&set->hosts[i], text, length))
            return &set->hosts[i];
    return NULL;
}

const struct udp_host *udp_host_by_address(const zks_udp_hosts *hosts, int family, const uint8_t *address)
{
    const struct set *set = &hosts->by_address[hash(hosts->seed, address, width(family))];
    uint32_t i;
    for (i = 0; i < WAYS; i++)
        if (has_address(&set->hosts[i], family, address))
            return &set->hosts[i];
    return NULL;
}

zks_udp_hosts *zks_udp_hosts_new(uint32_t seed)
{
    zks_udp_hosts *hosts = calloc(1, sizeof *hosts);
    if (hosts)
        hosts->seed = seed;
    return hosts;
}

void zks_udp_hosts_free(zks_udp_hosts *hosts) { free(hosts); }

void zks_udp_hosts_clear(zks_udp_hosts *hosts)
{
    memset(hosts->by_text, 0, sizeof hosts->by_text);
    memset(hosts->by_address, 0, sizeof hosts->by_address);
}

static void fill(struct set *set, struct udp_host *old, int verdict, int family, const uint8_t *address,
                 const uint8_t *text, size_t length)
{
    struct udp_host *host = old;
    if (!host) {
        host = &set->hosts[set->next];
        set->next = (uint8_t)((set->next + 1) % WAYS);
    }
    memset(host, 0, sizeof *host);
    host->verdict = (uint8_t)verdict;
    host->family = (uint8_t)family;
    host->length = (uint8_t)length;
    memcpy(host->text, text, length);
    memcpy(host->address, address, width(family));
}

static int sane(int verdict, int family, size_t length)
{
    return verdict >= ZKS_UDP_ALLOWED && verdict <= ZKS_UDP_NONSENSE && (family == 4 || family == 6) && length >= 1 &&
           length <= UDP_FRAME_HOST;
}

void zks_udp_hosts_put(zks_udp_hosts *hosts, const uint8_t *host, size_t length, int verdict, int family,
                       const uint8_t *address)
{
    struct set *set;
    if (!sane(verdict, family, length))
        return;
    set = &hosts->by_text[hash(hosts->seed, host, (uint32_t)length)];
    fill(set, (struct udp_host *)udp_host_by_text(hosts, host, (uint32_t)length), verdict, family, address, host,
         length);
}

void zks_udp_hosts_put_source(zks_udp_hosts *hosts, int family, const uint8_t *address, int verdict,
                              const uint8_t *host, size_t length)
{
    struct set *set;
    if (!sane(verdict, family, length))
        return;
    set = &hosts->by_address[hash(hosts->seed, address, width(family))];
    fill(set, (struct udp_host *)udp_host_by_address(hosts, family, address), verdict, family, address, host, length);
}
