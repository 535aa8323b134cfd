/* IP literals: IPv4 by hand, since most are, IPv6 by the system. */
#include "address_text.h"

#include <string.h>

#if defined(_WIN32)
#include <winsock2.h>
#include <ws2tcpip.h>
#else
#include <arpa/inet.h>
#endif

uint32_t address_write(char *text, int family, const uint8_t *address)
{
    char *at = text;
    int i;
    if (family != 4)
        return inet_ntop(AF_INET6, address, text, ADDRESS_TEXT) ? (uint32_t)strlen(text) : 0;
    for (i = 0; i < 4; i++) {
        unsigned part = address[i];
        if (part >= 100)
            *at++ = (char)('0' + part / 100);
        if (part >= 10)
            *at++ = (char)('0' + part / 10 % 10);
        *at++ = (char)('0' + part % 10);
        *at++ = '.';
    }
    *--at = 0;
    return (uint32_t)(at - text);
}

/* Four numbers of 0 to 255 without leading zeros, as inet_pton has them. */
static int read4(uint8_t *address, const uint8_t *text, uint32_t length)
{
    uint32_t at = 0;
    int part;
    for (part = 0; part < 4; part++) {
        unsigned value = 0, digits = 0;
        if (part && (at == length || text[at++] != '.'))
            return 0;
        for (; at < length && text[at] >= '0' && text[at] <= '9'; at++) {
            if ((digits && !value) || ++digits > 3)
                return 0;
            value = value * 10 + (unsigned)(text[at] - '0');
        }
        if (!digits || value > 255)
            return 0;
        address[part] = (uint8_t)value;
    }
    return at == length;
}

int address_read(uint8_t *address, const uint8_t *text, uint32_t length)
{
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    char copy[ADDRESS_TEXT];
    memset(address, 0, 16);
    if (!length || length >= sizeof copy)
        return 0;
    if (!memchr(text, ':', length))
        return read4(address, text, length) ? 4 : 0;
    memcpy(copy, text, length);
    copy[length] = 0;
    return inet_pton(AF_INET6, copy, address) == 1 && memcmp(address, mapped, sizeof mapped) ? 6 : 0;
}
