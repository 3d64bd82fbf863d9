/* BLAKE3 inside the mover: the pieces that blocks.c and match.c build on. Not seen by Python. */
#ifndef I2_BLAKE3_H
#define I2_BLAKE3_H

#include <stddef.h>
#include <stdint.h>

#define B3_CHUNK 1024u
#define B3_CV 32u /* bytes of a chaining value */
#define B3_BUF (64u * B3_CHUNK)

/* Which lanes a call may use; a machine has all up to the one i2_b3_level() names. */
enum b3_level { B3_LANES4, B3_AVX2, B3_AVX512 };

int i2_b3_level(void);

/* i2_hash on a given level, so that a test reaches each kernel on one machine. */
void i2_b3_hash_at(int level, const uint8_t *data, size_t len, uint8_t *out, size_t out_len);

/* Hashes n inputs of `len` bytes each, lanes filled across the inputs; 16 bytes of each to out. */
void i2_b3_many(const uint8_t *const *in, size_t n, size_t len, uint8_t (*out)[16]);

/* Hashing in pieces. About 66 KB: keep it on the stack of one call, not of a recursion. */
struct b3_stream {
    uint64_t chunks;           /* chunks already folded into cv */
    size_t held;               /* bytes in buf */
    size_t depth;              /* values in cv */
    uint8_t cv[54][B3_CV];     /* finished subtrees, one for each bit set in chunks */
    uint8_t buf[B3_BUF];
};

void i2_b3_begin(struct b3_stream *s);
void i2_b3_add(struct b3_stream *s, const uint8_t *data, size_t len);
void i2_b3_end(struct b3_stream *s, uint8_t *out, size_t out_len);

#endif
