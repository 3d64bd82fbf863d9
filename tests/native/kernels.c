/* Every lane kernel of BLAKE3 that this machine can run, and hashing in pieces, against the scalar one. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blake3.h"
#include "mover.h"

#define LEN (600u * 1024 + 7)

int main(void)
{
    uint8_t *data = malloc(LEN), want[32], got[32];
    uint32_t x = 1;
    for (size_t i = 0; i < LEN; i++)
        data[i] = (uint8_t)((x = x * 1664525u + 1013904223u) >> 24);
    struct b3_stream *s = malloc(sizeof *s);
    size_t lengths = 0;
    for (size_t len = 0; len <= LEN; len += len < 40000 ? 509 : 37777, lengths++) {
        i2_hash_scalar(data, len, want, sizeof want);
        for (int level = 0; level <= i2_b3_level(); level++) {
            i2_b3_hash_at(level, data, len, got, sizeof got);
            assert(memcmp(want, got, sizeof got) == 0);
        }
        i2_b3_begin(s);
        for (size_t at = 0, step = 1; at < len; at += step, step = step * 3 + 1) {
            step = len - at < step ? len - at : step;
            i2_b3_add(s, data + at, step);
        }
        i2_b3_end(s, got, sizeof got);
        assert(memcmp(want, got, sizeof got) == 0);
    }
    printf("kernels: %zu lengths on %d levels agree\n", lengths, i2_b3_level() + 1);
    free(s), free(data);
    return 0;
}
