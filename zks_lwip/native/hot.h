/* What datagram.c needs of zks_hot.c. The core's lock is held. */
#ifndef HOT_H
#define HOT_H
#include <stdint.h>
#include "zks_core.h"

#define HOT_MOST_ANSWER 1230u

/* A remembered answer (without its id); NULL: none. Counts a hit. */
const struct hot_answer *hot_find(zks_core *core, const uint8_t *key, uint32_t length);
uint32_t hot_length(const struct hot_answer *answer);
/* Writes it as it is to be seen now. */
void hot_write(const struct hot_answer *answer, uint8_t *out);
void hot_teardown(zks_core *core);

#endif
