/* What datagram.c needs of zks_hot.c. The core's lock is held. */
#ifndef HOT_H
#define HOT_H
#include <stdint.h>
#include "zks_core.h"

/* The length of the remembered answer (without its id), and where it is; 0: none. Counts a hit. */
uint32_t hot_find(zks_core *core, const uint8_t *key, uint32_t length, const uint8_t **answer);
void hot_teardown(zks_core *core);

#endif
