/* How a packed entry is read: the one place that decides whether a record is sound. */
#ifndef I2_ENTRY_H
#define I2_ENTRY_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "mover.h"

#define I2_NAME_MAX 255u

/* Bytes of a record whose name has that many. */
static inline size_t i2_entry_room(size_t name_len)
{
    return (sizeof(struct i2_entry) + name_len + 7) & ~(size_t)7;
}

static inline const uint8_t *i2_entry_name(const struct i2_entry *e)
{
    return (const uint8_t *)(e + 1);
}

/* Order of names: as memcmp, a name before those it begins. */
static inline int i2_name_order(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len)
{
    int order = memcmp(a, b, a_len < b_len ? a_len : b_len);
    return order ? order : (a_len > b_len) - (a_len < b_len);
}

static inline int i2_entry_order(const struct i2_entry *a, const struct i2_entry *b)
{
    return i2_name_order(i2_entry_name(a), a->name_len, i2_entry_name(b), b->name_len);
}

/* The record at the start of left bytes, or NULL when it is not a sound one. Nothing is read before
 * it is known to be there. */
static inline const struct i2_entry *i2_entry_at(const uint8_t *at, size_t left)
{
    const struct i2_entry *e = (const struct i2_entry *)at;
    if (left < sizeof *e || e->length > left || e->length != i2_entry_room(e->name_len))
        return NULL;
    if (e->name_len == 0 || e->name_len > I2_NAME_MAX)
        return NULL;
    if (e->kind < I2_FILE || e->kind > I2_SOCK || e->verdict > I2_SWAPPED)
        return NULL;
    if (e->mode > 07777 || e->mtime_ns >= 1000000000u || e->size > INT64_MAX)
        return NULL;
    const uint8_t *name = i2_entry_name(e);
    if (memchr(name, '/', e->name_len) || memchr(name, 0, e->name_len))
        return NULL;
    if (name[0] == '.' && (e->name_len == 1 || (e->name_len == 2 && name[1] == '.')))
        return NULL;
    return e;
}

/* A place in a listing. */
struct i2_reader {
    const uint8_t *at;
    size_t left;
    const struct i2_entry *now; /* NULL at the end and when broken */
    int broken;
};

/* To the next entry; one out of order breaks the reader like an unsound one. */
static inline void i2_reader_next(struct i2_reader *r)
{
    const struct i2_entry *before = r->now;
    r->now = NULL;
    if (r->left == 0 || r->broken)
        return;
    const struct i2_entry *e = i2_entry_at(r->at, r->left);
    if (!e || (before && i2_entry_order(before, e) >= 0)) {
        r->broken = 1;
        return;
    }
    r->now = e;
    r->at += e->length, r->left -= e->length;
}

static inline struct i2_reader i2_reader_open(const uint8_t *listing, size_t len)
{
    struct i2_reader r = {listing, len, NULL, len && ((uintptr_t)listing & 7)};
    i2_reader_next(&r);
    return r;
}

#endif
