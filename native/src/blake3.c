/* BLAKE3 from its specification (github.com/BLAKE3-team/BLAKE3-specs): unkeyed, up to 32 bytes out.
 *
 * The scalar half is the specification read aloud and the oracle. The fast half keeps the lanes of
 * one kernel busy with chunks (or parents) of many places at once; the tree above them is folded
 * level by level, an odd node moving up unpaired, which gives the specified left-leaning tree.
 */
#include <string.h>

#include "blake3.h"
#include "mover.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are read as they stand");

#define CHUNK_START 1u
#define CHUNK_END 2u
#define PARENT 4u
#define ROOT 8u

/* Nodes that are folded together; bounds what stands on the stack. */
#define FOLD 256u
#define MAX_LANES 16u

static const uint32_t B3_IV[8] = {0x6A09E667u, 0xBB67AE85u, 0x3C6EF372u, 0xA54FF53Au,
                                  0x510E527Fu, 0x9B05688Cu, 0x1F83D9ABu, 0x5BE0CD19u};

struct b3_flags {
    uint32_t all, first, last;
};

/* ---------------------------------------------------------------------------- scalar --------- */

static inline uint32_t rotr(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static void mix(uint32_t v[16], int a, int b, int c, int d, uint32_t x, uint32_t y)
{
    v[a] += v[b] + x;
    v[d] = rotr(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = rotr(v[b] ^ v[c], 12);
    v[a] += v[b] + y;
    v[d] = rotr(v[d] ^ v[a], 8);
    v[c] += v[d];
    v[b] = rotr(v[b] ^ v[c], 7);
}

static void compress(uint32_t h[8], const uint8_t block[64], uint32_t len, uint64_t counter,
                     uint32_t flags)
{
    static const uint8_t order[16] = {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8};
    uint32_t m[16], next[16], v[16];
    memcpy(m, block, sizeof m);
    memcpy(v, h, 32);
    memcpy(v + 8, B3_IV, 16);
    v[12] = (uint32_t)counter, v[13] = (uint32_t)(counter >> 32), v[14] = len, v[15] = flags;
    for (int round = 0; round < 7; round++) {
        mix(v, 0, 4, 8, 12, m[0], m[1]);
        mix(v, 1, 5, 9, 13, m[2], m[3]);
        mix(v, 2, 6, 10, 14, m[4], m[5]);
        mix(v, 3, 7, 11, 15, m[6], m[7]);
        mix(v, 0, 5, 10, 15, m[8], m[9]);
        mix(v, 1, 6, 11, 12, m[10], m[11]);
        mix(v, 2, 7, 8, 13, m[12], m[13]);
        mix(v, 3, 4, 9, 14, m[14], m[15]);
        for (int i = 0; i < 16; i++)
            next[i] = m[order[i]];
        memcpy(m, next, sizeof m);
    }
    for (int i = 0; i < 8; i++)
        h[i] = v[i] ^ v[8 + i];
}

/* The chaining value of one chunk of at most 1024 bytes. */
static void chunk(const uint8_t *data, size_t len, uint64_t counter, uint32_t flags,
                  uint8_t out[B3_CV])
{
    uint32_t h[8];
    memcpy(h, B3_IV, sizeof h);
    uint32_t start = CHUNK_START;
    while (len > 64) {
        compress(h, data, 64, counter, start);
        data += 64, len -= 64, start = 0;
    }
    uint8_t last[64] = {0};
    if (len)
        memcpy(last, data, len);
    compress(h, last, (uint32_t)len, counter, start | CHUNK_END | flags);
    memcpy(out, h, sizeof h);
}

static void parent(const uint8_t pair[2 * B3_CV], uint32_t flags, uint8_t out[B3_CV])
{
    uint32_t h[8];
    memcpy(h, B3_IV, sizeof h);
    compress(h, pair, 64, 0, PARENT | flags);
    memcpy(out, h, sizeof h);
}

/* Bytes of the left subtree: the largest power of two of chunks that leaves something for the right. */
static size_t left_len(size_t len)
{
    size_t chunks = (len - 1) / B3_CHUNK;
    return (size_t)B3_CHUNK << (63 - __builtin_clzll(chunks));
}

static void tree_scalar(const uint8_t *data, size_t len, uint64_t counter, uint32_t flags,
                        uint8_t out[B3_CV])
{
    if (len <= B3_CHUNK) {
        chunk(data, len, counter, flags, out);
        return;
    }
    uint8_t pair[2 * B3_CV];
    size_t left = left_len(len);
    tree_scalar(data, left, counter, 0, pair);
    tree_scalar(data + left, len - left, counter + left / B3_CHUNK, 0, pair + B3_CV);
    parent(pair, flags, out);
}

void i2_hash_scalar(const uint8_t *data, size_t len, uint8_t *out, size_t out_len)
{
    uint8_t full[B3_CV];
    tree_scalar(data, len, 0, ROOT, full);
    memcpy(out, full, out_len < B3_CV ? out_len : B3_CV);
}

/* ----------------------------------------------------------------------------- lanes --------- */

#ifdef __clang__
#define SHUF(T, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUF(T, a, b, ...) __builtin_shuffle(a, b, (T){__VA_ARGS__})
#endif

#define LANES 4
#define KERNEL lanes4
#define ATTR
#include "blake3_lanes.h"

#ifdef __x86_64__
#define TURN16 \
    2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13, 18, 19, 16, 17, 22, 23, 20, 21, 26, 27, \
        24, 25, 30, 31, 28, 29
#define TURN8 \
    1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12, 17, 18, 19, 16, 21, 22, 23, 20, 25, 26, \
        27, 24, 29, 30, 31, 28
#define LANES 8
#define KERNEL lanes8_avx2
#define ATTR __attribute__((target("avx2")))
#define ROT16(x) ((V)SHUF(b3_b32, (b3_b32)(x), (b3_b32)(x), TURN16))
#define ROT8(x) ((V)SHUF(b3_b32, (b3_b32)(x), (b3_b32)(x), TURN8))
#include "blake3_lanes.h"

#define LANES 8
#define KERNEL lanes8_avx512
#define ATTR __attribute__((target("avx2,avx512f,avx512vl")))
#include "blake3_lanes.h"

#define LANES 16
#define KERNEL lanes16_avx512
#define ATTR __attribute__((target("avx2,avx512f,avx512vl")))
#include "blake3_lanes.h"
#endif

typedef void kernel(const uint8_t *const *in, size_t blocks, const uint32_t *lo,
                    const uint32_t *hi, const struct b3_flags *f, uint8_t *out);

struct kernels {
    kernel *by4, *by8, *by16; /* a missing width is done by the one below */
};

static const struct kernels LEVELS[] = {
    [B3_LANES4] = {lanes4, NULL, NULL},
#ifdef __x86_64__
    [B3_AVX2] = {lanes4, lanes8_avx2, NULL},
    [B3_AVX512] = {lanes4, lanes8_avx512, lanes16_avx512},
#endif
};

int i2_b3_level(void)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl"))
        return B3_AVX512;
    if (__builtin_cpu_supports("avx2"))
        return B3_AVX2;
#endif
    return B3_LANES4;
}

/* Hashes n inputs of `blocks` 64-byte blocks each to out, 32 bytes each. The counter of input i is
 * base + (i & wrap). out may be where the inputs are, when input i stands at or behind 32 * i. */
static void lanes(const struct kernels *k, const uint8_t *const *in, size_t n, size_t blocks,
                  uint64_t base, uint64_t wrap, struct b3_flags f, uint8_t *out)
{
    for (size_t i = 0; i < n;) {
        size_t left = n - i;
        size_t width = left >= 16 && k->by16 ? 16 : left > 4 && k->by8 ? 8 : 4;
        kernel *run = width == 16 ? k->by16 : width == 8 ? k->by8 : k->by4;
        size_t real = left < width ? left : width;
        const uint8_t *row[MAX_LANES];
        uint32_t lo[MAX_LANES], hi[MAX_LANES];
        for (size_t j = 0; j < width; j++) {
            size_t at = i + (j < real ? j : 0);
            uint64_t counter = base + (at & wrap);
            row[j] = in[at], lo[j] = (uint32_t)counter, hi[j] = (uint32_t)(counter >> 32);
        }
        if (real == width) {
            run(row, blocks, lo, hi, &f, out + B3_CV * i);
        } else {
            uint8_t spare[MAX_LANES * B3_CV];
            run(row, blocks, lo, hi, &f, spare);
            memcpy(out + B3_CV * i, spare, B3_CV * real);
        }
        i += real;
    }
}

/* Folds n chaining values of one subtree in place to one. */
static void fold(const struct kernels *k, uint8_t *cv, size_t n, uint32_t root)
{
    const uint8_t *in[FOLD / 2];
    while (n > 1) {
        size_t pairs = n / 2;
        for (size_t i = 0; i < pairs; i++)
            in[i] = cv + 2 * B3_CV * i;
        uint32_t flags = PARENT | (n == 2 ? root : 0);
        if (pairs == 1)
            parent(cv, flags & ~PARENT, cv);
        else
            lanes(k, in, pairs, 1, 0, 0, (struct b3_flags){flags, 0, 0}, cv);
        if (n & 1)
            memmove(cv + B3_CV * pairs, cv + B3_CV * (n - 1), B3_CV);
        n = pairs + (n & 1);
    }
}

static void tree(const struct kernels *k, const uint8_t *data, size_t len, uint64_t counter,
                 uint32_t root, uint8_t out[B3_CV])
{
    if (len <= B3_CHUNK) {
        chunk(data, len, counter, root, out);
        return;
    }
    if (len > FOLD * B3_CHUNK) {
        uint8_t pair[2 * B3_CV];
        size_t left = left_len(len);
        tree(k, data, left, counter, 0, pair);
        tree(k, data + left, len - left, counter + left / B3_CHUNK, 0, pair + B3_CV);
        parent(pair, root, out);
        return;
    }
    uint8_t cv[FOLD * B3_CV];
    const uint8_t *in[FOLD];
    size_t whole = len / B3_CHUNK, rest = len % B3_CHUNK;
    for (size_t i = 0; i < whole; i++)
        in[i] = data + B3_CHUNK * i;
    lanes(k, in, whole, B3_CHUNK / 64, counter, ~0ull, (struct b3_flags){0, CHUNK_START, CHUNK_END},
          cv);
    if (rest)
        chunk(data + B3_CHUNK * whole, rest, counter + whole, 0, cv + B3_CV * whole);
    fold(k, cv, whole + (rest != 0), root);
    memcpy(out, cv, B3_CV);
}

void i2_b3_hash_at(int level, const uint8_t *data, size_t len, uint8_t *out, size_t out_len)
{
    uint8_t full[B3_CV];
    tree(&LEVELS[level], data, len, 0, ROOT, full);
    memcpy(out, full, out_len < B3_CV ? out_len : B3_CV);
}

void i2_hash(const uint8_t *data, size_t len, uint8_t *out, size_t out_len)
{
    i2_b3_hash_at(i2_b3_level(), data, len, out, out_len);
}

void i2_b3_many(const uint8_t *const *in, size_t n, size_t len, uint8_t (*out)[16])
{
    const struct kernels *k = &LEVELS[i2_b3_level()];
    size_t per = len / B3_CHUNK; /* chunks of one input */
    if (len % B3_CHUNK || per == 0 || per > FOLD || (per & (per - 1))) {
        for (size_t i = 0; i < n; i++)
            i2_hash(in[i], len, out[i], 16);
        return;
    }
    uint8_t cv[FOLD * B3_CV];
    const uint8_t *row[FOLD];
    for (size_t done = 0; done < n;) {
        size_t take = FOLD / per < n - done ? FOLD / per : n - done;
        for (size_t i = 0; i < take * per; i++)
            row[i] = in[done + i / per] + B3_CHUNK * (i % per);
        lanes(k, row, take * per, B3_CHUNK / 64, 0, per - 1,
              (struct b3_flags){0, CHUNK_START, CHUNK_END | (per == 1 ? ROOT : 0)}, cv);
        for (size_t level = per / 2; level; level /= 2) {
            for (size_t i = 0; i < take * level; i++)
                row[i] = cv + 2 * B3_CV * i;
            lanes(k, row, take * level, 1, 0, 0,
                  (struct b3_flags){PARENT | (level == 1 ? ROOT : 0), 0, 0}, cv);
        }
        for (size_t i = 0; i < take; i++)
            memcpy(out[done + i], cv + B3_CV * i, 16);
        done += take;
    }
}

/* ---------------------------------------------------------------------------- stream --------- */

void i2_b3_begin(struct b3_stream *s)
{
    s->chunks = 0, s->held = 0, s->depth = 0;
}

/* The buffer is a whole subtree and more follows: its value joins the finished ones, and each pair
 * of equal size becomes their parent. */
static void put_away(struct b3_stream *s)
{
    const uint64_t step = B3_BUF / B3_CHUNK;
    tree(&LEVELS[i2_b3_level()], s->buf, B3_BUF, s->chunks, 0, s->cv[s->depth++]);
    s->chunks += step;
    for (uint64_t size = step; !(s->chunks & size); size *= 2) {
        parent(s->cv[s->depth - 2], 0, s->cv[s->depth - 2]);
        s->depth--;
    }
    s->held = 0;
}

void i2_b3_add(struct b3_stream *s, const uint8_t *data, size_t len)
{
    while (len) {
        if (s->held == B3_BUF)
            put_away(s);
        size_t take = B3_BUF - s->held < len ? B3_BUF - s->held : len;
        memcpy(s->buf + s->held, data, take);
        s->held += take, data += take, len -= take;
    }
}

void i2_b3_end(struct b3_stream *s, uint8_t *out, size_t out_len)
{
    uint8_t pair[2 * B3_CV];
    uint8_t *right = pair + B3_CV;
    tree(&LEVELS[i2_b3_level()], s->buf, s->held, s->chunks, s->depth ? 0 : ROOT, right);
    while (s->depth) {
        memcpy(pair, s->cv[--s->depth], B3_CV);
        parent(pair, s->depth ? 0 : ROOT, right);
    }
    memcpy(out, right, out_len < B3_CV ? out_len : B3_CV);
}
