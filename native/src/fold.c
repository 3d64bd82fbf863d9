/* Folding what the kernel repeats. The first of equal events keeps its place in the order; later ones
 * only add to its mask. */
#include <stdlib.h>
#include <string.h>

#include "fold.h"

#define PROBES 64u /* names chosen to collide only lose the folding */
#define ALONE 1u   /* in pad */
#define DIRECTORY 0x40000000u /* IN_ISDIR and FAN_ONDIR */

static uint64_t key(uint64_t where, const uint8_t *name, size_t len)
{
    uint64_t h = where * 0x9E3779B97F4A7C15ull + len;
    for (size_t i = 0; i < len; i += 8) {
        uint64_t word = 0;
        memcpy(&word, name + i, len - i < 8 ? len - i : 8);
        h = (h ^ word) * 0xD6E8FEB86659FD93ull;
        h ^= h >> 32;
    }
    return h;
}

static const uint8_t *name_of(const struct i2_event *e)
{
    return (const uint8_t *)(e + 1);
}

static struct i2_event *at_slot(const struct i2_fold *f, uint32_t slot)
{
    return (struct i2_event *)(f->out + 8 * (size_t)(slot - 1));
}

/* Where that place and name stands or belongs; NULL: the neighbourhood is full. */
static uint32_t *place(struct i2_fold *f, uint64_t where, const uint8_t *name, size_t len)
{
    size_t at = key(where, name, len);
    for (size_t k = 0; k < PROBES; k++, at++) {
        uint32_t *s = &f->slot[at & (f->slots - 1)];
        if (*s == 0)
            return s;
        const struct i2_event *e = at_slot(f, *s);
        if (e->where == where && e->name_len == len && memcmp(name_of(e), name, len) == 0)
            return s;
    }
    return NULL;
}

/* A table four times as large, before this one is crowded; without memory for it the old one serves on. */
static void grow(struct i2_fold *f)
{
    uint32_t *more = calloc(4 * f->slots, sizeof *more);
    if (!more)
        return;
    if (f->slot != f->few)
        free(f->slot);
    f->slot = more, f->slots *= 4, f->filled = 0;
    for (size_t at = 0; at < f->used;) {
        const struct i2_event *e = (const struct i2_event *)(f->out + at);
        uint32_t *s = place(f, e->where, name_of(e), e->name_len);
        if (s) {
            f->filled += *s == 0;
            *s = (uint32_t)(at / 8 + 1);
        }
        at += e->length;
    }
}

void i2_fold_begin(struct i2_fold *f, uint8_t *out, size_t cap)
{
    memset(f, 0, sizeof *f);
    f->out = out;
    /* slots hold 32 bits of offset / 8 */
    f->cap = cap < (size_t)1 << 34 ? cap : (size_t)1 << 34;
    f->slot = f->few, f->slots = I2_FEW;
}

void i2_fold_end(struct i2_fold *f)
{
    if (f->slot != f->few)
        free(f->slot);
}

void i2_fold_add(struct i2_fold *f, const struct i2_event *in, const uint8_t *name,
                 const uint8_t *other, int alone)
{
    uint32_t *s = place(f, in->where, name, in->name_len);
    if (s && *s && !alone) {
        struct i2_event *e = at_slot(f, *s);
        /* a file that follows a directory of the same name is something else */
        if (!(e->pad & ALONE) && !((e->mask ^ in->mask) & DIRECTORY)) {
            e->mask |= in->mask;
            return;
        }
    }
    size_t length = (sizeof *in + in->name_len + in->other_len + 7) & ~(size_t)7;
    uint8_t *at = f->out + f->used;
    struct i2_event *e = (struct i2_event *)at;
    memset(at + length - 8, 0, 8);
    memcpy(e, in, sizeof *in);
    e->length = (uint32_t)length;
    e->pad = alone ? ALONE : 0;
    memcpy(at + sizeof *in, name, in->name_len);
    if (in->other_len)
        memcpy(at + sizeof *in + in->name_len, other, in->other_len);
    if (s) {
        f->filled += *s == 0;
        *s = (uint32_t)(f->used / 8 + 1);
    }
    s = in->other_len ? place(f, in->to, other, in->other_len) : NULL;
    if (s && *s)
        *s = (uint32_t)(f->used / 8 + 1); /* a record of another place: found by nobody */
    f->used += length;
    if (2 * f->filled > f->slots)
        grow(f);
}
