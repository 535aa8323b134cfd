#ifndef ZKS_ICMP_ERROR_H
#define ZKS_ICMP_ERROR_H
#include "context.h"

enum icmp_error {
    ICMP_ERROR_NONE,    /* it is none, or says nothing about what is sent from here */
    ICMP_ERROR_FLOW,    /* it has ended a connection that was being opened */
    ICMP_ERROR_DATAGRAM /* it is about a UDP datagram: see ZKS_KIND_ERROR */
};

/* Takes an ICMP or ICMPv6 error from the device; t is its header, of `length` bytes, 8 or more. error: is filled if it
 * is about a datagram. */
enum icmp_error icmp_error_input(zks_core *core, int family, const uint8_t *t, uint32_t length,
                                 struct zks_datagram *error);

#endif
