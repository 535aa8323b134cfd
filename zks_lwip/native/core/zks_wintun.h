/* A session of Wintun as a core's device: its rings are read and written by the core's pump. */
#ifndef ZKS_WINTUN_H
#define ZKS_WINTUN_H
#include "zks_core.h"

/* What is called: wintun.dll's functions and Windows' own, of the same names, by their addresses. (On the 64-bit
 * systems that Wintun is used on here, WINAPI is the C calling convention.) Events are auto-reset. */
struct zks_wintun {
    void *session;
    uint8_t *(*receive)(void *session, uint32_t *length);         /* WintunReceivePacket */
    void (*release)(void *session, const uint8_t *packet);        /* WintunReleaseReceivePacket */
    uint8_t *(*allocate)(void *session, uint32_t length);         /* WintunAllocateSendPacket */
    void (*send)(void *session, const uint8_t *packet);           /* WintunSendPacket */
    uint32_t (*last_error)(void);                                 /* GetLastError */
    uint32_t (*wait)(uint32_t, void *const *, int32_t, uint32_t); /* WaitForMultipleObjects */
    int32_t (*set)(void *event);                                  /* SetEvent */
    void *readable;                                               /* WintunGetReadWaitEvent */
    void *stop, *kick;                                            /* two of the caller's: they end the pump's wait */
};

/* Makes a session the core's device, in place of zks_device_attach: ZKS_OK, or ZKS_INVALID: something is NULL. It and
 * the events stay open as long as the core. */
int zks_wintun_attach(zks_core *core, const struct zks_wintun *wintun);

#endif
