/* The multiplexer: which bytes of which stream go into a message, and where those of one that came go.
 *
 * It moves bytes between messages and targets (flows of lwIP, sockets) and keeps the credit of both directions; it has
 * no input or output of its own. Of what comes it takes DATA and WINDOW where nothing is wrong with them and leaves
 * every other frame, and every breach of the protocol, to its owner. A mux and its streams belong to one thread. */
#ifndef ZKS_MUX_H
#define ZKS_MUX_H
#include <stddef.h>
#include <stdint.h>

enum {
    ZKS_MUX_EOF = -1,     /* of pull: nothing more will come */
    ZKS_MUX_ERRNO = -1000 /* of both: this, less an errno. Others below 0: nothing now */
};

/* What streams pull bytes from and push bytes to. */
struct zks_mux_target {
    /* Return how many bytes were moved, 0 for none now, or below 0: see above. Neither may call back. */
    int64_t (*pull)(void *context, uint64_t handle, uint8_t *buffer, size_t size);
    int64_t (*push)(void *context, uint64_t handle, const uint8_t *data, size_t length);
    /* Stand around any number of these; NULL: nothing is needed. */
    void (*enter)(void *context);
    void (*leave)(void *context);
    void *context;
    uint64_t pulled, pushed; /* bytes so far */
    uint8_t closed;          /* it is called no more, and its streams are their owners' */
    uint8_t reserved[7];
};

/* An open stream. Its memory is its owner's, who may change what is not said to be the mux's. */
struct zks_mux_stream {
    struct zks_mux_stream *table_next;            /* the mux's */
    struct zks_mux_stream *line_prev, *line_next; /* the mux's */
    struct zks_mux_target *target;
    uint64_t handle; /* the target's name for it */
    double since;    /* when the window was last granted, in the owner's seconds; 0: not yet */
    uint32_t id;
    uint32_t credit; /* bytes that may be sent */
    /* Of the receiving direction: the window, and where each of its bytes is. */
    uint32_t size, initial;
    uint32_t available, held, consumed, due;
    uint8_t line;     /* the mux's: ZKS_LINE_* */
    uint8_t supplied; /* there is something that supplies what it sends */
    uint8_t pulls;    /* that is the target */
    uint8_t pushes;   /* what comes goes to the target, while that takes all of it */
    uint8_t connected, eof_sent, eof_taken;
    uint8_t ready;  /* it may have bytes to send, or its end */
    uint8_t bulk;   /* it filled its share when it was last served */
    uint8_t gone;   /* the mux's: it is not open any more */
    uint8_t little; /* the mux's: the frame that it sent last was short, and all that it had */
    uint8_t reserved[1];
};

enum { ZKS_LINE_FRESH = 0, ZKS_LINE_BULK = 1, ZKS_LINE_NONE = 2 };
struct zks_mux_line {
    struct zks_mux_stream *first, *last;
};

/* What zks_mux_apply leaves to its owner. */
enum {
    ZKS_RECORD_DATA = 0,  /* bytes that the target has not taken, or that have none */
    ZKS_RECORD_GRANT = 1, /* so much was consumed that it is time to grant */
    ZKS_RECORD_ERRNO = 2  /* the push that follows as DATA failed: length is its errno */
};
struct zks_mux_record {
    uint32_t kind, stream;
    uint32_t offset, length; /* of the bytes in the message */
};
enum { ZKS_MUX_RECORDS = 64 };

struct zks_mux {
    struct zks_mux_stream **table;
    uint32_t table_mask, streams;
    struct zks_mux_line lines[2];
    uint32_t max_data; /* most bytes of a DATA that comes */
    uint32_t secret;   /* of the table: a client names its streams as it likes */
    uint32_t lined;    /* streams in line */
    uint8_t client;
    uint8_t reserved[3];
    struct zks_mux_target *entered;

    /* Of the last zks_mux_apply. */
    size_t position;  /* where it stopped */
    uint32_t applied; /* frames that it took */
    uint32_t records_count;
    uint64_t data_in;               /* payload bytes of DATA in them */
    struct zks_mux_record *records; /* its owner's */

    /* Of sending. */
    uint64_t frames, payload; /* DATA and EOF frames, and bytes of DATA, that were written */
    uint8_t *buffer;
    size_t start, at, end, fresh_end; /* of the message, as in zks_mux_begin */
    size_t filled, room;              /* of the frame that is being written */
    struct zks_mux_stream *current;   /* whose frame that is */
    uint32_t most;                    /* payload bytes of a frame */
    int32_t error;                    /* errno of the pull that failed; 0: none did */
    uint32_t sparse;                  /* DATA frames of streams that send little, while bulk ones waited */
    uint8_t phase;
    uint8_t padding[3];
};

/* client: 1 at a client, 0 at a worker. secret: what no peer knows. NULL: out of memory. */
struct zks_mux *zks_mux_new(int client, uint32_t max_data, uint32_t secret);
/* Its streams stay their owners'. */
void zks_mux_free(struct zks_mux *mux);

/* Opens a stream, whose id no open one has. */
void zks_mux_add(struct zks_mux *mux, struct zks_mux_stream *stream);
/* Lets it be gone. */
void zks_mux_remove(struct zks_mux *mux, struct zks_mux_stream *stream);
/* Puts a stream in line that is ready, supplied, has credit, has not ended, and (worker) is connected. Returns whether
 * it is in line now. */
int zks_mux_schedule(struct zks_mux *mux, struct zks_mux_stream *stream);
/* Marks an open stream ready and schedules it. Returns whether it has come in line by that. */
int zks_mux_ready(struct zks_mux *mux, uint32_t id);
/* Counts bytes that the consumer of a stream took; returns 1 when it is time to grant, 0 if not, -1: more than came. */
int zks_mux_consume(struct zks_mux_stream *stream, uint32_t size);

/* Takes frames of a message from position on, up to one that it leaves, to the end, or until there is much to tell; see
 * position and applied. Returns how many records there are; records has room for ZKS_MUX_RECORDS. */
int zks_mux_apply(struct zks_mux *mux, const uint8_t *message, size_t size, size_t position, double now,
                  struct zks_mux_record *records);

/* Begins to write DATA and EOF frames into buffer[position..size[, each of at most `most` payload bytes. */
void zks_mux_begin(struct zks_mux *mux, uint8_t *buffer, size_t position, size_t size, uint32_t most);
/* Writes them, until a stream is to be asked that its owner supplies, or whose target has ended or failed (error): its
 * id is returned, and the owner writes up to room bytes to buffer[at + 9 + filled..]. It calls again with how many (-1:
 * the end of the stream), and may have closed any stream. 0: done; at is where the frames end. */
uint32_t zks_mux_fill(struct zks_mux *mux, int64_t got);

/* Makes a target of non-blocking sockets, whose handles are their descriptors. Returns 0 where there are none. */
int zks_mux_sockets(struct zks_mux_target *target);

#endif
