/* Packets from the device. */
#ifndef ZKS_DEVICE_IN_H
#define ZKS_DEVICE_IN_H
#include "context.h"

/* Handles one packet. trusted: the device vouches for the transport checksum. buffer: what bytes lie in, or NULL; a
 * large packet keeps it (then 1 is returned, and buffer's free function will be called). */
int device_input(zks_core *core, const uint8_t *bytes, uint32_t length, int trusted, struct pbuf_custom *buffer);
/* A UDP packet from this kernel that it has not cut into its datagrams, of `each` bytes (USO). */
void device_input_uncut(zks_core *core, const uint8_t *bytes, uint32_t length, uint32_t each);

#endif
