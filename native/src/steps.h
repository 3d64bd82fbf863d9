/* The parts of a step, and the one place that decides whether a step is sound. */
#ifndef I2_STEPS_H
#define I2_STEPS_H

#include "mover.h"
#include "path.h"

static inline const uint8_t *i2_step_path(const struct i2_step *s) { return (const uint8_t *)(s + 1); }
static inline const uint8_t *i2_step_other(const struct i2_step *s)
{
    return i2_step_path(s) + s->path_len;
}
static inline const uint8_t *i2_step_xattrs(const struct i2_step *s)
{
    return i2_step_other(s) + s->other_len;
}
static inline const uint8_t *i2_step_data(const struct i2_step *s)
{
    return i2_step_xattrs(s) + s->xattr_len;
}

static inline int i2_is_put(const struct i2_step *s)
{
    return s->op == I2_PUT_FILE || s->op == I2_PUT_LINK || s->op == I2_PUT_NODE;
}

/* Bytes of a step with all that follows, padded. */
static inline uint64_t i2_step_size(const struct i2_step *s)
{
    uint64_t n = sizeof *s;
    n += s->path_len;
    n += s->other_len;
    n += s->xattr_len;
    n += s->data_len;
    return (n + 7) & ~(uint64_t)7;
}

#endif
