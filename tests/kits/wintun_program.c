/* A core on a session of Wintun's, as a program of Windows: its arguments are a SYN and a datagram of UDP in
 * hexadecimal. Prints what the core sends: the answer to the SYN, the datagram's payload sent back; then how the pump
 * has ended. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include "core/zks_core.h"
#include "core/zks_wintun.h"
#include "wintun.h"

#define LATE_MS 60000u

static DWORD WINAPI pump(void *core) { return (DWORD)zks_pump_run(core); }

static void put(void *session, const char *text)
{
    static uint8_t packet[2048];
    uint32_t length = 0;
    unsigned value;
    while (length < sizeof packet && sscanf(text + 2 * length, "%2x", &value) == 1)
        packet[length++] = (uint8_t)value;
    if (!fake_put(session, packet, length))
        exit(2);
}

static void show(void *session)
{
    static uint8_t packet[65536];
    uint32_t length = fake_take(session, packet, LATE_MS), i;
    for (i = 0; i < length; i++)
        printf("%02x", packet[i]);
    printf("\n");
}

/* Waits until something has happened to a flow; returns its id. */
static uint64_t event_of(zks_core *core, uint32_t mask)
{
    struct zks_event event;
    uint32_t ms;
    for (ms = 0; ms < LATE_MS; ms++) {
        if (zks_events(core, &event, 1) == 1 && event.mask & mask)
            return event.flow;
        Sleep(1);
    }
    exit(3);
}

static int ended(HANDLE thread)
{
    DWORD result = 0;
    if (WaitForSingleObject(thread, LATE_MS) != WAIT_OBJECT_0)
        exit(4);
    GetExitCodeThread(thread, &result);
    CloseHandle(thread);
    return (int)result;
}

/* A function of Windows by its address, as Python hands it over. */
static void find(const char *name, void *function)
{
    FARPROC found = GetProcAddress(GetModuleHandleA("kernel32"), name);
    memcpy(function, &found, sizeof found);
}

int main(int argc, char **argv)
{
    struct zks_config config;
    struct zks_wintun wintun;
    struct zks_datagram datagram;
    static uint8_t payload[2048], turned[16];
    void *session = fake_start(1u << 17);
    uint16_t port;
    zks_core *core;
    HANDLE thread;
    if (argc != 3 || !session)
        return 1;
    memset(&config, 0, sizeof config);
    config.mtu = 1500;
    config.max_flows = config.max_held = 16;
    config.max_datagrams = config.max_output = 1u << 20;
    config.max_memory = 16u << 20;
    config.wake_fd = -1;
    core = zks_core_new(&config);
    wintun.session = session;
    wintun.receive = WintunReceivePacket;
    wintun.release = WintunReleaseReceivePacket;
    wintun.allocate = WintunAllocateSendPacket;
    wintun.send = WintunSendPacket;
    find("GetLastError", &wintun.last_error);
    find("WaitForMultipleObjects", &wintun.wait);
    find("SetEvent", &wintun.set);
    wintun.readable = WintunGetReadWaitEvent(session);
    wintun.stop = fake_stop(session);
    wintun.kick = fake_kick(session);
    if (!core || zks_wintun_attach(core, &wintun) != ZKS_OK)
        return 1;
    thread = CreateThread(NULL, 0, pump, core, 0, NULL);
    put(session, argv[1]);
    zks_flow_accept(core, event_of(core, ZKS_EV_SYN), 0);
    show(session);
    put(session, argv[2]);
    event_of(core, ZKS_EV_DATAGRAM);
    if (zks_datagram_take(core, &datagram, 1, payload, sizeof payload) != 1)
        return 5;
    memcpy(turned, datagram.source, 16);
    memcpy(datagram.source, datagram.destination, 16);
    memcpy(datagram.destination, turned, 16);
    port = datagram.source_port;
    datagram.source_port = datagram.destination_port;
    datagram.destination_port = port;
    zks_datagram_send(core, &datagram, payload + datagram.offset);
    show(session);
    zks_pump_stop(core);
    printf("stopped %d\n", ended(thread));
    thread = CreateThread(NULL, 0, pump, core, 0, NULL);
    fake_remove(session);
    printf("gone %d %d\n", ended(thread), zks_device_errno(core) == ENODEV);
    printf("held %u\n", (unsigned)fake_held(session));
    zks_core_free(core);
    fake_end(session);
    return 0;
}
