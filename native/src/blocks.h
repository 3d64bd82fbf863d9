/* The rolling sum and the signatures of single blocks, shared by blocks.c and match.c.
 *
 * The sum of the bytes x[0..n) is, modulo 2^32,
 *     A = sum x[i]     B = sum (n - i) * x[i]     weak = ROLL_A * A + ROLL_B * B
 * the two parts of Fletcher's sum (rsync's technical report, section 3), each at full width and then
 * joined by odd multipliers, so that the top bits of weak depend on all of both and can index a
 * table as they are. Both parts are linear, so weak is too: it moves by one byte with additions.
 */
#ifndef I2_BLOCKS_H
#define I2_BLOCKS_H

#include <stddef.h>
#include <stdint.h>

#define ROLL_A 0x85EBCA77u
#define ROLL_B 0x9E3779B1u

/* A sum on its way through data: weak and the share of A in it that the next step of B adds. */
struct roll {
    uint32_t weak;
    uint32_t part; /* ROLL_B * A */
};

struct roll i2_roll_start(const uint8_t *data, size_t n);

/* Positions that one call of i2_roll_batch moves over. */
#define ROLL_BATCH 256u

/* Writes the weak sums of the windows of n bytes at data, data + 1, ... to weak[0..count) and moves r by
 * count positions; count <= ROLL_BATCH. Reads data[0 .. n + count). */
void i2_roll_batch(struct roll *r, const uint8_t *data, uint32_t n, size_t count, uint32_t *weak);

static inline uint32_t i2_weak(const uint8_t *data, size_t n)
{
    return i2_roll_start(data, n).weak;
}

#endif
