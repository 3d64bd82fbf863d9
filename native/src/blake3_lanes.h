/* One lane kernel of BLAKE3; included once for each width.
 *
 * Before including: LANES (4, 8, 16), KERNEL (the function's name), ATTR (its target attribute) and,
 * where the target has better than shifts, ROT16 and ROT8. Everything is undefined again at the end.
 *
 * The kernel runs LANES compressions side by side: lane i hashes in[i], `blocks` blocks of 64 bytes,
 * with chunk counter lo[i], hi[i], and leaves its chaining value at out + 32 * i. All of a block
 * row is read before anything is written, so out may overlap inputs already passed.
 */

#if LANES == 4
typedef uint32_t b3_v4 __attribute__((vector_size(16)));
#define V b3_v4
#define LO32(a, b) SHUF(V, a, b, 0, 4, 1, 5)
#define HI32(a, b) SHUF(V, a, b, 2, 6, 3, 7)
#define LO64(a, b) SHUF(V, a, b, 0, 1, 4, 5)
#define HI64(a, b) SHUF(V, a, b, 2, 3, 6, 7)
#define SPLAT(x) ((V){(x), (x), (x), (x)})
#elif LANES == 8
#ifndef B3_V8
#define B3_V8
typedef uint32_t b3_v8 __attribute__((vector_size(32)));
typedef uint8_t b3_b32 __attribute__((vector_size(32)));
#endif
#define V b3_v8
#define LO32(a, b) SHUF(V, a, b, 0, 8, 1, 9, 4, 12, 5, 13)
#define HI32(a, b) SHUF(V, a, b, 2, 10, 3, 11, 6, 14, 7, 15)
#define LO64(a, b) SHUF(V, a, b, 0, 1, 8, 9, 4, 5, 12, 13)
#define HI64(a, b) SHUF(V, a, b, 2, 3, 10, 11, 6, 7, 14, 15)
#define LO128(a, b) SHUF(V, a, b, 0, 1, 2, 3, 8, 9, 10, 11)
#define HI128(a, b) SHUF(V, a, b, 4, 5, 6, 7, 12, 13, 14, 15)
#define SPLAT(x) ((V){(x), (x), (x), (x), (x), (x), (x), (x)})
#else
typedef uint32_t b3_v16 __attribute__((vector_size(64)));
#define V b3_v16
#define LO32(a, b) SHUF(V, a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define HI32(a, b) SHUF(V, a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define LO64(a, b) SHUF(V, a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define HI64(a, b) SHUF(V, a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
/* quarters 0, 2 of a and of b; quarters 1, 3 of a and of b */
#define EVEN128(a, b) SHUF(V, a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
#define ODD128(a, b) SHUF(V, a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31)
#define SPLAT(x) \
    ((V){(x), (x), (x), (x), (x), (x), (x), (x), (x), (x), (x), (x), (x), (x), (x), (x)})
#endif

#define ROTR(x, n) (((x) >> (n)) | ((x) << (32 - (n))))
#ifndef ROT16
#define ROT16(x) ROTR(x, 16)
#define ROT8(x) ROTR(x, 8)
#endif

/* Rows r[0..LANES) to columns c[0..LANES); t is room. */
#if LANES == 4
#define TRANSPOSE(r, c, t)                                                       \
    do {                                                                         \
        t[0] = LO32(r[0], r[1]), t[1] = HI32(r[0], r[1]);                        \
        t[2] = LO32(r[2], r[3]), t[3] = HI32(r[2], r[3]);                        \
        c[0] = LO64(t[0], t[2]), c[1] = HI64(t[0], t[2]);                        \
        c[2] = LO64(t[1], t[3]), c[3] = HI64(t[1], t[3]);                        \
    } while (0)
#elif LANES == 8
#define TRANSPOSE(r, c, t)                                                       \
    do {                                                                         \
        for (int i_ = 0; i_ < 8; i_ += 2)                                        \
            t[i_] = LO32(r[i_], r[i_ + 1]), t[i_ + 1] = HI32(r[i_], r[i_ + 1]);  \
        V u_[8];                                                                 \
        for (int i_ = 0; i_ < 8; i_ += 4) {                                      \
            u_[i_] = LO64(t[i_], t[i_ + 2]);                                     \
            u_[i_ + 1] = HI64(t[i_], t[i_ + 2]);                                 \
            u_[i_ + 2] = LO64(t[i_ + 1], t[i_ + 3]);                             \
            u_[i_ + 3] = HI64(t[i_ + 1], t[i_ + 3]);                             \
        }                                                                        \
        for (int i_ = 0; i_ < 4; i_++)                                           \
            c[i_] = LO128(u_[i_], u_[i_ + 4]), c[i_ + 4] = HI128(u_[i_], u_[i_ + 4]); \
    } while (0)
#else
#define TRANSPOSE(r, c, t)                                                       \
    do {                                                                         \
        for (int i_ = 0; i_ < 16; i_ += 2)                                       \
            t[i_] = LO32(r[i_], r[i_ + 1]), t[i_ + 1] = HI32(r[i_], r[i_ + 1]);  \
        V u_[16];                                                                \
        for (int i_ = 0; i_ < 16; i_ += 4) {                                     \
            u_[i_] = LO64(t[i_], t[i_ + 2]);                                     \
            u_[i_ + 1] = HI64(t[i_], t[i_ + 2]);                                 \
            u_[i_ + 2] = LO64(t[i_ + 1], t[i_ + 3]);                             \
            u_[i_ + 3] = HI64(t[i_ + 1], t[i_ + 3]);                             \
        }                                                                        \
        for (int i_ = 0; i_ < 4; i_++) {                                         \
            V a_ = EVEN128(u_[i_], u_[i_ + 4]), b_ = ODD128(u_[i_], u_[i_ + 4]); \
            V d_ = EVEN128(u_[i_ + 8], u_[i_ + 12]);                             \
            V e_ = ODD128(u_[i_ + 8], u_[i_ + 12]);                              \
            c[i_] = EVEN128(a_, d_), c[i_ + 8] = ODD128(a_, d_);                 \
            c[i_ + 4] = EVEN128(b_, e_), c[i_ + 12] = ODD128(b_, e_);            \
        }                                                                        \
    } while (0)
#endif

#define MIX(a, b, c, d, x, y)            \
    do {                                 \
        v[a] += v[b] + m[x];             \
        v[d] = ROT16(v[d] ^ v[a]);       \
        v[c] += v[d];                    \
        v[b] = ROTR(v[b] ^ v[c], 12);    \
        v[a] += v[b] + m[y];             \
        v[d] = ROT8(v[d] ^ v[a]);        \
        v[c] += v[d];                    \
        v[b] = ROTR(v[b] ^ v[c], 7);     \
    } while (0)

#define ROUND(s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, sa, sb, sc, sd, se, sf) \
    do {                                                                      \
        MIX(0, 4, 8, 12, s0, s1);                                             \
        MIX(1, 5, 9, 13, s2, s3);                                             \
        MIX(2, 6, 10, 14, s4, s5);                                            \
        MIX(3, 7, 11, 15, s6, s7);                                            \
        MIX(0, 5, 10, 15, s8, s9);                                            \
        MIX(1, 6, 11, 12, sa, sb);                                            \
        MIX(2, 7, 8, 13, sc, sd);                                             \
        MIX(3, 4, 9, 14, se, sf);                                             \
    } while (0)

ATTR static void KERNEL(const uint8_t *const *in, size_t blocks, const uint32_t *lo,
                        const uint32_t *hi, const struct b3_flags *f, uint8_t *out)
{
    V h[8], m[16], v[16], t[LANES], low, high;
    memcpy(&low, lo, sizeof low);
    memcpy(&high, hi, sizeof high);
    for (int i = 0; i < 8; i++)
        h[i] = SPLAT(B3_IV[i]);
    for (size_t b = 0; b < blocks; b++) {
        uint32_t flags = f->all | (b == 0 ? f->first : 0) | (b + 1 == blocks ? f->last : 0);
        for (int part = 0; part < 16 / LANES; part++) {
            V r[LANES];
            V *c = m + part * LANES;
            for (int i = 0; i < LANES; i++) {
                const uint8_t *at = in[i] + 64 * b + sizeof(V) * (size_t)part;
                memcpy(&r[i], at, sizeof(V));
                /* sixteen streams 1024 bytes apart defeat the prefetcher; the next call's are known */
                if (part == 0 && blocks > 1)
                    __builtin_prefetch((const void *)((uintptr_t)at + LANES * 1024));
            }
            TRANSPOSE(r, c, t);
        }
        for (int i = 0; i < 8; i++)
            v[i] = h[i];
        for (int i = 0; i < 4; i++)
            v[8 + i] = SPLAT(B3_IV[i]);
        v[12] = low, v[13] = high, v[14] = SPLAT(64u), v[15] = SPLAT(flags);
        ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        ROUND(2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8);
        ROUND(3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1);
        ROUND(10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6);
        ROUND(12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4);
        ROUND(9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7);
        ROUND(11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13);
        for (int i = 0; i < 8; i++)
            h[i] = v[i] ^ v[8 + i];
    }
    uint32_t words[8][LANES];
    memcpy(words, h, sizeof words);
    for (int i = 0; i < LANES; i++)
        for (int w = 0; w < 8; w++)
            memcpy(out + 32 * i + 4 * w, &words[w][i], 4);
}

#undef LANES
#undef KERNEL
#undef ATTR
#undef V
#undef LO32
#undef HI32
#undef LO64
#undef HI64
#undef LO128
#undef HI128
#undef EVEN128
#undef ODD128
#undef SPLAT
#undef ROTR
#undef ROT16
#undef ROT8
#undef TRANSPOSE
#undef MIX
#undef ROUND
