/* IP literals: written and read. No state. */
#ifndef ZKS_ADDRESS_TEXT_H
#define ZKS_ADDRESS_TEXT_H
#include <stdint.h>

#define ADDRESS_TEXT 46u /* bytes of the longest literal, with the NUL behind it */

/* Writes an address (16 bytes; IPv4 in the first four), and returns its length. */
uint32_t address_write(char *text, int family, const uint8_t *address);
/* Reads a literal, IPv4-mapped IPv6 excepted; returns its family, or 0: it is none. */
int address_read(uint8_t *address, const uint8_t *text, uint32_t length);

#endif
