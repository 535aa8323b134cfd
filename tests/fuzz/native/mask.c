/* WebSocket masking and framing against the plainest code that does the same. */
#include <stdlib.h>
#include <string.h>

#include "env.h"
#include "websocket/zks_mask.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    return 0;
}

/* Buffers are as long as they must be and no longer, and begin at any address: what goes past them shows. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t key[4], *in, *out, *frame, flags, opcode;
    size_t shift, length, i, header, said = 0;
    if (size < 7)
        return 0;
    memcpy(key, data, 4);
    flags = data[4];
    opcode = data[5] & 15;
    shift = data[6] % 16;
    data += 7;
    size -= 7;
    length = size + (flags & 8 ? (size_t)(flags >> 4) * 8191 : 0); /* past 65535, too */
    in = (uint8_t *)malloc(shift + length + 1) + shift;
    out = (uint8_t *)malloc(shift + length + 1) + shift;
    frame = (uint8_t *)malloc(shift + length + 14) + shift;
    for (i = 0; i < length; i++)
        in[i] = size ? data[i % size] : (uint8_t)i;

    zks_ws_mask(out, in, length, key, flags & 3);
    for (i = 0; i < length; i++)
        CHECK(out[i] == (in[i] ^ key[(i + (flags & 3)) % 4]));
    zks_ws_mask(out, out, length, key, flags & 3);
    CHECK(!memcmp(out, in, length));

    i = zks_ws_frame(frame, opcode, in, length, flags & 4 ? key : NULL);
    header = length < 126 ? 2 : length < 65536 ? 4 : 10;
    CHECK(i == header + (flags & 4) + length);
    CHECK(frame[0] == (0x80 | opcode));
    CHECK(frame[1] >> 7 == (flags >> 2 & 1));
    CHECK((frame[1] & 127) == (length < 126 ? length : length < 65536 ? 126 : 127));
    for (i = 2; i < header; i++)
        said = said << 8 | frame[i];
    CHECK(header == 2 || said == length);
    CHECK(!(flags & 4) || !memcmp(frame + header, key, 4));
    header += flags & 4;
    for (i = 0; i < length; i++)
        CHECK(frame[header + i] == (flags & 4 ? in[i] ^ key[i % 4] : in[i]));
    free(in - shift);
    free(out - shift);
    free(frame - shift);
    return 0;
}
