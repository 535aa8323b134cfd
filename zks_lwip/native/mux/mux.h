/* What the parts of the multiplexer share. */
#ifndef MUX_H
#define MUX_H
#include "zks_mux.h"

#define MUX_HEADER 9u /* command, id, length: before every DATA */
#define MUX_MAX_WINDOW 0x7fffffffu

struct zks_mux_stream *mux_find(const struct zks_mux *mux, uint32_t id);
/* Enter a target, unless it is entered already, and leave what is entered. */
void mux_enter(struct zks_mux *mux, struct zks_mux_target *target);
void mux_leave(struct zks_mux *mux);
/* Takes a stream out of line. */
void mux_unline(struct zks_mux *mux, struct zks_mux_stream *stream);
void mux_line(struct zks_mux *mux, struct zks_mux_stream *stream, int line);

#endif
