/* The C core: lwIP for any address and any port, with one event queue and one packet pump.
 *
 * Every function may be called from any thread. What works on a core holds a lock for as long as it runs, one for all
 * cores, since lwIP's state is global; zks_pump_run holds it only while it handles packets. Addresses are 16 bytes in
 * network order: IPv6 as it is, IPv4 in the first four with the rest zero. A flow is named by an id that is never used
 * again, so a stale id is harmless (ZKS_GONE). So is a core of NULL, but not for zks_device_* and zks_pump_*. */
#ifndef ZKS_CORE_H
#define ZKS_CORE_H
#include <stddef.h>
#include <stdint.h>

typedef struct zks_core zks_core;

enum {
    ZKS_OK = 0,
    ZKS_EOF = -1,     /* the peer has sent FIN and everything before it has been taken */
    ZKS_GONE = -2,    /* no such flow, or not in a state that allows it */
    ZKS_NOMEM = -3,   /* out of memory */
    ZKS_INVALID = -4, /* an argument that makes no sense */
    ZKS_DEVICE = -5   /* the device has failed; zks_device_errno says how */
};

/* What has happened to a flow since the last look (struct zks_event.mask). */
enum {
    ZKS_EV_SYN = 1,         /* a new flow: its SYN is held until accept or reject */
    ZKS_EV_ESTABLISHED = 2, /* the handshake is done */
    ZKS_EV_READABLE = 4,    /* bytes or FIN have come */
    ZKS_EV_WRITABLE = 8,    /* there is room again after a short push */
    ZKS_EV_RESET = 16,      /* ended by RST, by time-out or by lack of memory; nothing more will come */
    ZKS_EV_CLOSED = 32,     /* both directions ended in order, or the peer, after its FIN, has forgotten the flow */
    ZKS_EV_DATAGRAM = 64,   /* flow 0: datagrams wait */
    ZKS_EV_DEVICE = 128     /* flow 0: the device was lent (zks_pump_lends) */
};

/* Why a flow that was opened from here was not connected, known once ZKS_EV_RESET has been told; or a datagram. */
enum {
    ZKS_WHY_NONE = 0,
    ZKS_WHY_RESET = 1,   /* refused: RST, or ICMP says that nothing listens there */
    ZKS_WHY_TIMEOUT = 2, /* no answer to any SYN; or out of memory */
    ZKS_WHY_NET_UNREACHABLE = 3,
    ZKS_WHY_HOST_UNREACHABLE = 4,
    ZKS_WHY_PROHIBITED = 5,
    ZKS_WHY_TOO_BIG = 6 /* of datagrams alone */
};

/* How a held SYN or a datagram is refused. */
enum {
    ZKS_REJECT_RST = 0,
    ZKS_REJECT_NET_UNREACHABLE = 1,
    ZKS_REJECT_HOST_UNREACHABLE = 2,
    ZKS_REJECT_PROHIBITED = 3,
    ZKS_REJECT_SILENT = 4,
    ZKS_REJECT_PORT_UNREACHABLE = 5,
    ZKS_REJECT_TOO_BIG = 6
};

/* How packets are framed on the device. */
enum {
    ZKS_FRAMING_RAW = 0,  /* an IP packet a read */
    ZKS_FRAMING_VNET = 1, /* a virtio_net_hdr of 10 bytes before it: Linux with IFF_VNET_HDR */
    ZKS_FRAMING_UTUN = 2  /* the address family, 4 bytes in network order, before it: macOS */
};

/* What is done with ICMP echo requests for other addresses than our own. */
enum { ZKS_ICMP_OFF = 0, ZKS_ICMP_REPLY = 1, ZKS_ICMP_TUNNEL = 2 };

struct zks_config {
    uint8_t seed[16];       /* random: keys the flow table and the initial sequence numbers */
    uint32_t mtu;           /* 576 to 65535 */
    uint32_t max_flows;     /* flows at a time, held ones included */
    uint32_t max_held;      /* held SYNs at a time; over it the oldest is refused */
    uint32_t max_datagrams; /* bytes of datagrams that wait for zks_datagram_take; over it the oldest go */
    uint32_t max_output;    /* bytes of packets that wait for zks_packet_output; over it new ones are dropped */
    uint32_t keepalive_ms;  /* of a peer's silence, until it is asked whether it still has the flow: 1,000 to
                             * 86,400,000 (a day), or 0: never. Twenty probes in vain end the flow, each a quarter
                             * of that after the one before, at most 15 s */
    int32_t icmp;           /* ZKS_ICMP_* */
    int32_t wake_fd;        /* a non-blocking socket that gets one byte when events wait, or -1 */
    uint8_t own4[16];       /* our own addresses, whose pings are always answered here; zero: none */
    uint8_t own6[16];
    uint64_t max_memory; /* bytes that flows may hold together; each may hold 32 KiB, whatever others do */
};

struct zks_event {
    uint64_t flow;
    uint32_t mask;
    uint32_t reserved;
};

struct zks_flow_info {
    uint64_t pulled, pushed; /* bytes so far */
    uint8_t source[16];
    uint8_t destination[16];
    uint16_t source_port;
    uint16_t destination_port;
    uint8_t family; /* 4 or 6 */
    uint8_t held;
    uint8_t reserved[2];
};

/* An error is an ICMP error about a UDP datagram that was sent from here to `source`, by `destination`; its hop limit
 * is ZKS_WHY_*, and it has no payload. */
enum { ZKS_KIND_UDP = 0, ZKS_KIND_ECHO = 1, ZKS_KIND_ERROR = 2 };

struct zks_datagram {
    uint8_t source[16];
    uint8_t destination[16];
    uint16_t source_port;      /* ICMP echo: the identifier */
    uint16_t destination_port; /* ICMP echo: the sequence number */
    uint8_t family;
    uint8_t kind; /* ZKS_KIND_* */
    uint8_t hop_limit;
    uint8_t traffic_class;
    uint32_t offset; /* of the payload in the caller's buffer */
    uint32_t length;
};

const char *zks_lwip_version(void);

/* Makes a core; NULL: out of memory, or a configuration out of its range. */
zks_core *zks_core_new(const struct zks_config *config);
/* Aborts the flows that are left (RST to the applications) and frees the core. The pump must have returned. */
void zks_core_free(zks_core *core);

/* Sets the device that packets go to and come from (framing: ZKS_FRAMING_*). Without one they wait for
 * zks_packet_output. ZKS_OK, ZKS_INVALID: no such device, ZKS_NOMEM. */
int zks_device_attach(zks_core *core, int fd, int framing);
/* The errno that has ended the pump; 0: none. */
int zks_device_errno(zks_core *core);
/* Moves packets until zks_pump_stop (ZKS_OK) or until the device fails (ZKS_DEVICE). Blocks. */
int zks_pump_run(zks_core *core);
/* Lets the pump lend its device to the owner while packets are few: ZKS_EV_DEVICE tells. Then it is for the owner to
 * call zks_pump_take whenever the device is readable, which saves each packet a wake-up from the pump to the owner. */
void zks_pump_lends(zks_core *core);
/* Takes packets as the pump does, without waiting; their events are to be taken at once, whether wake_fd tells or not.
 * Returns 0: nothing was done, since the pump has taken the device back. */
int zks_pump_take(zks_core *core);
/* Makes zks_pump_run return. */
void zks_pump_stop(zks_core *core);

/* Takes the place of the pump for a core without a device, together with the next two: handles one packet. */
int zks_packet_input(zks_core *core, const uint8_t *packet, size_t length);
/* Writes at most `most` whole packets, one behind the other, and their lengths; returns how many. */
int zks_packet_output(zks_core *core, uint8_t *buffer, size_t size, uint32_t *lengths, int most);
/* Runs the timers that are due at now_ms (by a clock of the caller that never goes back); returns the ms until the next
 * is due, if nothing else happens before, or -1: none. */
int64_t zks_tick(zks_core *core, uint64_t now_ms);

/* Takes at most `most` events; returns how many. */
int zks_events(zks_core *core, struct zks_event *events, int most);

/* Writes what is known of a flow: ZKS_OK, ZKS_GONE. */
int zks_flow_info(zks_core *core, uint64_t id, struct zks_flow_info *info);
/* Gives a held SYN to lwIP, which answers it: ZKS_OK, ZKS_GONE, ZKS_NOMEM. quiet: ZKS_EV_ESTABLISHED comes with the
 * next event of the flow, and wakes nothing by itself. */
int zks_flow_accept(zks_core *core, uint64_t id, int quiet);
/* Refuses a held SYN (how: ZKS_REJECT_*). The id is gone, also where the SYN had been given up before. */
int zks_flow_reject(zks_core *core, uint64_t id, int how);
/* Opens a flow to an application behind the device (an active open); returns its id, or 0: refused, out of memory. */
uint64_t zks_flow_connect(zks_core *core, int family, const uint8_t *from, uint16_t from_port, const uint8_t *to,
                          uint16_t to_port);
/* Returns why a flow has ended (ZKS_WHY_*), or ZKS_GONE. */
int zks_flow_why(zks_core *core, uint64_t id);
/* Takes received bytes, and opens the receive window; returns how many, or 0: none now, ZKS_EOF, ZKS_GONE. */
int64_t zks_flow_pull(zks_core *core, uint64_t id, uint8_t *buffer, size_t size);
/* Sends bytes; returns how many were taken, maybe fewer than length: then ZKS_EV_WRITABLE follows, as it does after a
 * push of nothing while more than half of the send buffer is in use. ZKS_GONE, ZKS_NOMEM: no event will follow. */
int64_t zks_flow_push(zks_core *core, uint64_t id, const uint8_t *data, size_t length);
/* The same for many flows of a core, with its lock taken once: enter, any number of the other two, leave. In between
 * nothing else of this page may be called by the same thread. core: a zks_core, not NULL. */
void zks_flows_enter(void *core);
void zks_flows_leave(void *core);
int64_t zks_flows_pull(void *core, uint64_t id, uint8_t *buffer, size_t size);
int64_t zks_flows_push(void *core, uint64_t id, const uint8_t *data, size_t length);
/* Returns how many pushed bytes have not been acknowledged, or ZKS_GONE. */
int64_t zks_flow_unacked(zks_core *core, uint64_t id);
/* Sends FIN after what has been pushed, once: ZKS_OK, ZKS_GONE. */
int zks_flow_shutdown(zks_core *core, uint64_t id);
/* Ends the flow in order: FIN, and RST for whatever still comes; RST at once if bytes wait unread. The id is gone
 * afterwards: ZKS_OK, ZKS_GONE. */
int zks_flow_close(zks_core *core, uint64_t id);
/* Ends the flow by RST. The id is gone afterwards: ZKS_OK, ZKS_GONE. */
int zks_flow_abort(zks_core *core, uint64_t id);

/* Takes at most `most` datagrams, their payloads one behind the other into buffer; returns how many. */
int zks_datagram_take(zks_core *core, struct zks_datagram *datagrams, int most, uint8_t *buffer, size_t size);
/* Whether ICMP errors about UDP datagrams that were sent from here are queued, too; at first they are not. */
void zks_datagram_errors(zks_core *core, int wanted);
/* Sends a UDP datagram, or an ICMP echo reply, to the device. */
int zks_datagram_send(zks_core *core, const struct zks_datagram *datagram, const uint8_t *payload);
/* Answers a UDP datagram that came from the device by an ICMP error (how: ZKS_REJECT_*; mtu: for TOO_BIG). */
int zks_datagram_reject(zks_core *core, const struct zks_datagram *datagram, const uint8_t *payload, int how,
                        uint32_t mtu);

/* Returns how many bytes flows hold or may come to hold. */
uint64_t zks_core_memory(zks_core *core);
/* Gives memory that is not used any more back to the system, where its C library does not do so by itself. May take
 * some milliseconds, in which others wait for memory. */
void zks_memory_trim(void);

/* Writes at most `most` counters, in a fixed order; returns how many. zks_counter_name: the name of one, or NULL past
 * the last. */
int zks_counters(zks_core *core, uint64_t *values, int most);
const char *zks_counter_name(int index);

#endif
