/* The pump of a session of Wintun: packets are handled where they lie in its ring. It names no function of Windows, so
 * that whatever behaves like Wintun can drive it. */
#include "wintun.h"

#include <errno.h>

#include "core.h"
#include "device_in.h"
#include "flow_input.h"
#include "platform.h"

#define BATCH 64 /* packets between two looks at the events */
/* winerror.h, winbase.h */
#define NO_MORE_ITEMS 259u
#define HANDLE_EOF 38u
#define WAIT_FAILED_ 0xffffffffu
#define FOREVER 0xffffffffu

enum { EVENT_STOP, EVENT_KICK, EVENT_READABLE, EVENTS };

int zks_wintun_attach(zks_core *core, const struct zks_wintun *wintun)
{
    if (!core || !wintun->session || !wintun->receive || !wintun->release || !wintun->allocate || !wintun->send ||
        !wintun->last_error || !wintun->wait || !wintun->set || !wintun->readable || !wintun->stop || !wintun->kick)
        return ZKS_INVALID;
    core_enter(core);
    core->wintun = *wintun;
    core->framing = ZKS_FRAMING_RAW;
    core->now_ms = core->last_tick_ms = zks_now_ms();
    core_leave(core);
    return ZKS_OK;
}

void wintun_stop(zks_core *core) { core->wintun.set(core->wintun.stop); }

/* Handles packets until the ring is empty or the batch is full, with the lock held; returns how many, or -1: the
 * device has failed. */
static int handle_batch(zks_core *core)
{
    const struct zks_wintun *wintun = &core->wintun;
    uint32_t length, error;
    int n;
    for (n = 0; n < BATCH; n++) {
        uint8_t *packet = wintun->receive(wintun->session, &length);
        if (!packet) {
            error = wintun->last_error();
            if (error == NO_MORE_ITEMS)
                break;
            core->device_errno = error == HANDLE_EOF ? ENODEV : EIO; /* the adapter has gone, or the ring is corrupt */
            return -1;
        }
        if (length <= ZKS_MAX_PACKET)
            device_input(core, packet, length, 0, NULL);
        else
            core_count(core, ZKS_C_DROP_FIRST + ZKS_DROP_SHORT);
        wintun->release(wintun->session, packet);
        if (zks_lock_due()) {
            core_leave(core);
            core_enter(core);
        }
    }
    return n;
}

int wintun_pump(zks_core *core)
{
    void *const events[EVENTS] = {core->wintun.stop, core->wintun.kick, core->wintun.readable};
    uint64_t alert_ms = 0;
    for (;;) {
        int64_t wait;
        uint32_t woken;
        int n;
        core_enter(core);
        core->pump_sleeps = 0;
        core_advance(core, zks_now_ms());
        n = handle_batch(core);
        flow_acknowledge(core);
        wait = n < 0 || n == BATCH ? 0 : core_wait(core);
        core_sleep(core, &wait, n > 0, &alert_ms);
        core_leave(core);
        if (n < 0)
            return ZKS_DEVICE;
        woken = core->wintun.wait(EVENTS, events, 0, wait < 0 ? FOREVER : (uint32_t)wait);
        if (woken == EVENT_STOP)
            return ZKS_OK;
        if (woken == WAIT_FAILED_) {
            core->device_errno = EIO;
            return ZKS_DEVICE;
        }
    }
}
