/* Picking entries out of a listing, for those few that Python looks at one by one. */
#include <errno.h>
#include <string.h>

#include "entry.h"

static int wanted(const struct i2_entry *e, uint32_t what, uint8_t kind, int64_t since)
{
    if (what & I2_PICK_KIND && e->kind != kind)
        return 0;
    if (what & I2_PICK_PROBED && !(e->flags & I2_PROBED))
        return 0;
    if (what & I2_PICK_TROUBLED && !e->status)
        return 0;
    if (what & I2_PICK_OVER && e->verdict != I2_DATA && e->verdict != I2_SWAPPED)
        return 0;
    if (what & I2_PICK_RETYPED && e->verdict != I2_RETYPED)
        return 0;
    if (what & I2_PICK_LINKED && (e->kind == I2_DIR || e->nlink < 2))
        return 0;
    if (what & I2_PICK_SINCE && e->ctime < since)
        return 0;
    return 1;
}

int64_t i2_pick(const uint8_t *listing, size_t len, uint32_t what, uint8_t kind, int64_t since,
                uint8_t *out, size_t cap, uint64_t *entries, uint64_t *bytes)
{
    size_t at = 0, used = 0;
    *entries = *bytes = 0;
    while (at < len) {
        struct i2_entry e;
        if (len - at < sizeof e)
            return -EINVAL;
        memcpy(&e, listing + at, sizeof e);
        if (e.length < sizeof e || e.length % 8 || e.length > len - at)
            return -EINVAL;
        if (wanted(&e, what, kind, since)) {
            ++*entries;
            *bytes += e.kind == I2_FILE ? e.size : 0;
            if (out) {
                if (cap - used < e.length)
                    return -ENOBUFS;
                memcpy(out + used, listing + at, e.length);
                used += e.length;
            }
        }
        at += e.length;
    }
    return (int64_t)used;
}
