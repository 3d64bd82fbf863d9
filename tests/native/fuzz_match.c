/* libFuzzer target: signatures and deltas.
 *
 * The input makes an old file and orders for a new one (own bytes, pieces of the old, zeros); the ops
 * of all windows must rebuild it. A signature out of the input itself, as a hostile peer would send it,
 * must do no harm. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "mover.h"

#define NEW_MAX 8192u
#define OPS 7

static void check_blocks(const uint8_t *data, size_t len, uint32_t block)
{
    size_t n = len / block + (len % block != 0);
    struct i2_block *fast = calloc(n + 1, sizeof *fast), *slow = calloc(n + 1, sizeof *slow);
    assert(i2_blocks(data, len, block, fast, n) == (int64_t)n);
    assert(i2_blocks_scalar(data, len, block, slow, n) == (int64_t)n);
    assert(memcmp(fast, slow, n * sizeof *fast) == 0);
    free(fast), free(slow);
}

/* `old_data` is NULL for a signature that is nobody's. */
static void match(const struct i2_block *sig, size_t n, uint64_t old_size, uint32_t block,
                  const uint8_t *old_data, const uint8_t *data, size_t len, size_t window)
{
    size_t cap = i2_match_size(n);
    uint8_t *table = malloc(cap);
    assert(i2_match_init(table, cap, sig, n, old_size, block) == 0);
    int64_t shift = 0;
    size_t at = 0;
    uint8_t *got = malloc(len + 1);
    while (at < len) {
        size_t part = len - at < window ? len - at : window;
        uint8_t *here = malloc(part);
        memcpy(here, data + at, part);
        struct i2_op ops[OPS];
        uint64_t used;
        int end = at + part == len;
        int64_t k = i2_match(table, sig, n, block, here, part, at, end, &shift, ops, OPS, &used);
        assert(k >= 0 && k <= OPS && used <= part);
        assert(k == OPS || (end ? used == part : part - used < block));
        uint64_t covered = 0;
        for (int64_t i = 0; i < k; i++) {
            assert(ops[i].at == at + covered && ops[i].span > 0);
            covered += ops[i].span;
            assert(covered <= used);
            if (ops[i].from == I2_LITERAL)
                memcpy(got + ops[i].at, data + ops[i].at, ops[i].span);
            else if (ops[i].from == I2_ZERO)
                memset(got + ops[i].at, 0, ops[i].span);
            else {
                assert(ops[i].from + ops[i].span <= old_size);
                if (old_data)
                    memcpy(got + ops[i].at, old_data + ops[i].from, ops[i].span);
            }
        }
        assert(covered == used);
        window += used == 0;
        at += used;
        free(here);
    }
    assert(!old_data || memcmp(got, data, len) == 0);
    free(got);
    free(table);
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t in_len)
{
    if (in_len < 4)
        return 0;
    uint32_t block = 1 + in[0] % 80;
    size_t window = 1 + in[1] * 3u, old_len = (in_len - 4) * in[2] / 255;
    const uint8_t *orders = in + 4 + old_len, *stop = in + in_len;
    uint8_t *old = malloc(old_len + 1), *now = malloc(NEW_MAX);
    memcpy(old, in + 4, old_len);
    size_t len = 0;
    while (orders < stop) {
        uint8_t order = *orders++;
        size_t room = NEW_MAX - len, span;
        if (order < 96 && old_len) {
            size_t from = orders < stop ? *orders++ * old_len / 256 : 0;
            span = old_len - from < order * 4u ? old_len - from : order * 4u;
            span = span < room ? span : room;
            memcpy(now + len, old + from, span);
        } else if (order < 128) {
            span = order < room ? order : room;
            memset(now + len, 0, span);
        } else {
            span = (size_t)(stop - orders) < order - 127u ? (size_t)(stop - orders) : order - 127u;
            span = span < room ? span : room;
            memcpy(now + len, orders, span);
            orders += span;
        }
        len += span;
    }
    check_blocks(old, old_len, block);
    check_blocks(now, len, 1 + in[3] * 33u);
    size_t n = old_len / block + (old_len % block != 0);
    struct i2_block *sig = calloc(n + 1, sizeof *sig);
    assert(i2_blocks(old, old_len, block, sig, n) == (int64_t)n);
    match(sig, n, old_len, block, old, now, len, window);

    size_t told = old_len / sizeof *sig;
    told = told < n ? told : n;
    memcpy(sig, old, told * sizeof *sig);
    for (size_t i = 0; i < told; i++) /* half of the weak sums are right, so that they are hit */
        if ((i & 1) && (i + 1) * block <= old_len)
            i2_blocks(old + i * block, block, block, sig + i, 1);
    for (size_t i = 1; i < told; i += 2)
        memset(sig[i].strong, in[3], sizeof sig[i].strong);
    match(sig, n, old_len, block, NULL, now, len, window);
    free(sig), free(old), free(now);
    return 0;
}
