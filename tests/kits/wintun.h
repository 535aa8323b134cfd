/* Wintun's functions, and the driver at the other end of the rings. */
#ifndef FAKE_WINTUN_H
#define FAKE_WINTUN_H
#include <stdint.h>

uint8_t *WintunReceivePacket(void *session, uint32_t *length);
void WintunReleaseReceivePacket(void *session, const uint8_t *packet);
uint8_t *WintunAllocateSendPacket(void *session, uint32_t length);
void WintunSendPacket(void *session, const uint8_t *packet);
void *WintunGetReadWaitEvent(void *session);

/* Makes a session, with rings of so many bytes. */
void *fake_start(uint32_t capacity);
void fake_end(void *session);
/* Two events for the client's own use. */
void *fake_stop(void *session);
void *fake_kick(void *session);
/* Gives a packet to the client; 0: the ring is full. */
int fake_put(void *session, const uint8_t *packet, uint32_t length);
/* Takes a packet of the client's; waits at most so long, and returns its length or 0. */
uint32_t fake_take(void *session, uint8_t *buffer, uint32_t ms);
/* The adapter goes. */
void fake_remove(void *session);
/* Writes a size into the ring that cannot be. */
void fake_corrupt(void *session);
/* How many packets are read and not released, or allocated and not sent. */
uint32_t fake_held(void *session);
/* Waits until the client waits for at most so many milliseconds (0xffffffff: without end); 0: not within a minute. */
int fake_waits(void *session, uint32_t at_most);

#endif
