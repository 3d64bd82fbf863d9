/* Signatures of blocks, and the digest of a file made from them. */
#include <errno.h>
#include <string.h>

#include "blake3.h"
#include "blocks.h"
#include "mover.h"

/* Blocks looked at in one go: enough to fill the lanes, few enough to stay in the cache. */
#define GROUP 64u

uint32_t i2_block_size(uint64_t size)
{
    const uint64_t most = 1u << 20;
    uint32_t block = 4096;
    while (block < 1u << 31 && size > most * block)
        block *= 2;
    return block;
}

int i2_is_zero(const uint8_t *data, size_t len)
{
    typedef uint64_t words __attribute__((vector_size(64)));
    words any = {0};
    uint64_t rest = 0;
    size_t i = 0;
    /* the first words decide for nearly every block that holds something */
    for (; i + 8 <= len && i < 64; i += 8) {
        memcpy(&rest, data + i, 8);
        if (rest)
            return 0;
    }
    while (i + 512 <= len) {
        for (size_t end = i + 512; i < end; i += 64) {
            words w;
            memcpy(&w, data + i, 64);
            any |= w;
        }
        if (any[0] | any[1] | any[2] | any[3] | any[4] | any[5] | any[6] | any[7])
            return 0;
    }
    for (; i + 8 <= len; i += 8) {
        memcpy(&rest, data + i, 8);
        if (rest)
            return 0;
    }
    for (; i < len; i++)
        if (data[i])
            return 0;
    return 1;
}

/* ---------------------------------------------------------------------------- the sum -------- */

/* 1024 bytes at a time, in sixteen rows of 64: a 16-bit lane holds the bytes of one column, low and
 * high ones apart; `sum` adds up to 16 * 255, `run` (the sum of the sums so far, which weighs a row by
 * the number of rows from it on) to 136 * 255, so neither overflows. */
#define ROW 64u
#define ROWS 16u

typedef uint16_t u16x16 __attribute__((vector_size(32)));

static inline __attribute__((always_inline)) void sums(const uint8_t *data, uint32_t *a, uint32_t *b)
{
    u16x16 lo[2] = {{0}}, hi[2] = {{0}}, run_lo[2] = {{0}}, run_hi[2] = {{0}};
    for (size_t row = 0; row < ROWS; row++) {
        for (int half = 0; half < 2; half++) {
            u16x16 w;
            memcpy(&w, data + ROW * row + 32 * (size_t)half, 32);
            lo[half] += w & 0xff;
            hi[half] += w >> 8;
            run_lo[half] += lo[half];
            run_hi[half] += hi[half];
        }
    }
    uint16_t s[4][16], r[4][16];
    memcpy(s[0], lo, 64), memcpy(s[2], hi, 64);
    memcpy(r[0], run_lo, 64), memcpy(r[2], run_hi, 64);
    uint32_t total = 0, columns = 0, rows = 0;
    for (uint32_t half = 0; half < 2; half++) {
        for (uint32_t i = 0; i < 16; i++) {
            uint32_t low = s[half][i], high = s[2 + half][i];
            total += low + high;
            columns += (32 * half + 2 * i) * (low + high) + high;
            rows += r[half][i] + r[2 + half][i];
        }
    }
    /* byte c of row k weighs 1024 - 64k - c = 64 * (16 - k) - c */
    *a = total;
    *b = ROW * rows - columns;
}

static inline __attribute__((always_inline)) struct roll start(const uint8_t *data, size_t n)
{
    uint32_t a = 0, b = 0;
    while (n >= ROW * ROWS) {
        uint32_t more, weighed;
        sums(data, &more, &weighed);
        b += ROW * ROWS * a + weighed;
        a += more;
        data += ROW * ROWS, n -= ROW * ROWS;
    }
    for (size_t i = 0; i < n; i++) {
        a += data[i];
        b += a;
    }
    return (struct roll){ROLL_A * a + ROLL_B * b, ROLL_B * a};
}

#ifdef __x86_64__
__attribute__((target("avx2"))) static struct roll start_avx2(const uint8_t *data, size_t n)
{
    return start(data, n);
}
#endif

struct roll i2_roll_start(const uint8_t *data, size_t n)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2")) return start_avx2(data, n);
#endif
    return start(data, n);
}

/* A window moved by one byte, with `out` leaving at the front and `in` joining at the end:
 *     A += in - out     B += A - n * out
 * The products are made for many positions at once; what remains in sequence is three additions. */
static inline __attribute__((always_inline)) void slide(struct roll *r, const uint8_t *data,
                                                        uint32_t n, size_t count, uint32_t *weak)
{
    uint32_t part[ROLL_BATCH], rest[ROLL_BATCH];
    const uint8_t *out = data, *in = data + n;
    const uint32_t leaving = ROLL_B * n;
    for (size_t i = 0; i < count; i++) {
        uint32_t step = (uint32_t)in[i] - out[i];
        part[i] = ROLL_B * step;
        rest[i] = ROLL_A * step - leaving * out[i];
    }
    struct roll now = *r;
    for (size_t i = 0; i < count; i++) {
        weak[i] = now.weak;
        now.part += part[i];
        now.weak += now.part + rest[i];
    }
    *r = now;
}

#ifdef __x86_64__
__attribute__((target("avx2"))) static void slide_avx2(struct roll *r, const uint8_t *data,
                                                       uint32_t n, size_t count, uint32_t *weak)
{
    slide(r, data, n, count, weak);
}
#endif

void i2_roll_batch(struct roll *r, const uint8_t *data, uint32_t n, size_t count, uint32_t *weak)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2")) {
        slide_avx2(r, data, n, count, weak);
        return;
    }
#endif
    slide(r, data, n, count, weak);
}

static uint32_t weak_scalar(const uint8_t *data, size_t n)
{
    uint32_t a = 0, b = 0;
    for (size_t i = 0; i < n; i++) {
        a += data[i];
        b += (uint32_t)(n - i) * data[i];
    }
    return ROLL_A * a + ROLL_B * b;
}

/* ------------------------------------------------------------------------- signatures -------- */

static size_t count(size_t len, uint32_t block)
{
    return len / block + (len % block != 0);
}

int64_t i2_blocks(const uint8_t *data, size_t len, uint32_t block, struct i2_block *out, size_t cap)
{
    if (block == 0)
        return -EINVAL;
    size_t n = count(len, block), whole = len / block;
    if (n > cap)
        return -ENOBUFS;
    for (size_t first = 0; first < whole; first += GROUP) {
        size_t group = whole - first < GROUP ? whole - first : GROUP, full = 0;
        const uint8_t *in[GROUP];
        size_t place[GROUP];
        uint8_t strong[GROUP][16];
        for (size_t i = first; i < first + group; i++) {
            const uint8_t *p = data + (size_t)block * i;
            if (i2_is_zero(p, block)) {
                memset(&out[i], 0, sizeof out[i]);
            } else {
                out[i].weak = i2_weak(p, block);
                in[full] = p, place[full++] = i;
            }
        }
        i2_b3_many(in, full, block, strong);
        for (size_t i = 0; i < full; i++)
            memcpy(out[place[i]].strong, strong[i], 16);
    }
    if (whole < n) {
        const uint8_t *p = data + (size_t)block * whole;
        size_t rest = len % block;
        memset(&out[whole], 0, sizeof out[whole]);
        if (!i2_is_zero(p, rest)) {
            out[whole].weak = i2_weak(p, rest);
            i2_hash(p, rest, out[whole].strong, 16);
        }
    }
    return (int64_t)n;
}

int64_t i2_blocks_scalar(const uint8_t *data, size_t len, uint32_t block, struct i2_block *out,
                         size_t cap)
{
    if (block == 0)
        return -EINVAL;
    size_t n = count(len, block);
    if (n > cap)
        return -ENOBUFS;
    for (size_t i = 0; i < n; i++) {
        size_t at = (size_t)block * i, size = len - at < block ? len - at : block;
        size_t used = 0;
        while (used < size && data[at + used] == 0)
            used++;
        memset(&out[i], 0, sizeof out[i]);
        if (used == size)
            continue;
        out[i].weak = weak_scalar(data + at, size);
        i2_hash_scalar(data + at, size, out[i].strong, 16);
    }
    return (int64_t)n;
}

int64_t i2_differ(const struct i2_block *a, const struct i2_block *b, size_t n, uint64_t (*runs)[2],
                  size_t cap, uint64_t *looked)
{
    size_t found = 0, i = 0;
    while (i < n && found < cap) {
        while (i < n && memcmp(&a[i], &b[i], sizeof *a) == 0)
            i++;
        size_t first = i;
        while (i < n && memcmp(&a[i], &b[i], sizeof *a) != 0)
            i++;
        if (first < i)
            runs[found][0] = first, runs[found++][1] = i;
    }
    *looked = i;
    return (int64_t)found;
}

static int is_hole(const struct i2_block *b)
{
    static const uint8_t none[16];
    return memcmp(b->strong, none, 16) == 0;
}

void i2_digest(const struct i2_block *blocks, size_t n, uint8_t out[16])
{
    if (n == 1 && !is_hole(blocks)) {
        memcpy(out, blocks->strong, 16);
        return;
    }
    struct b3_stream s;
    i2_b3_begin(&s);
    for (size_t i = 0; i < n || n == 0;) {
        uint64_t item[2] = {0, 0};
        while (i < n && is_hole(&blocks[i]))
            i++, item[1]++;
        if (item[1] || n == 0)
            i2_b3_add(&s, (const uint8_t *)item, sizeof item);
        if (n == 0)
            break;
        for (; i < n && !is_hole(&blocks[i]); i++)
            i2_b3_add(&s, blocks[i].strong, 16);
    }
    i2_b3_end(&s, out, 16);
}
