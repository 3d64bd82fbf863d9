/* Events of the kernel, decoded and folded into a caller's buffer: what a busy file repeats would
 * otherwise take Python's time. */
#ifndef I2_FOLD_H
#define I2_FOLD_H

#include "mover.h"

#define I2_FEW 512u /* slots that stand on the stack */

struct i2_fold {
    uint8_t *out;
    size_t cap, used;
    uint32_t *slot; /* the last event of each place: offset in out / 8 + 1, 0 is free */
    size_t slots, filled;
    uint32_t few[I2_FEW];
};

/* out must be 8-byte aligned. */
void i2_fold_begin(struct i2_fold *f, uint8_t *out, size_t cap);
void i2_fold_end(struct i2_fold *f);

/* Adds an event, of which where, what, to, mask, cookie and the two lengths are set; one that repeats an
 * event of the same place and name is or-ed into it, unless alone: then its place in the order means
 * something, and nothing that follows is folded into what came before it, nor into what came before it
 * at the place it went to. There must be room for it. */
void i2_fold_add(struct i2_fold *f, const struct i2_event *e, const uint8_t *name,
                 const uint8_t *other, int alone);

#endif
