/* Listings: compared, laid over each other, sorted, searched, cut. */
#include <errno.h>
#include <stdlib.h>

#include "entry.h"

int64_t i2_listing_check(const uint8_t *listing, size_t len)
{
    struct i2_reader r = i2_reader_open(listing, len);
    int64_t n = 0;
    for (; r.now; i2_reader_next(&r))
        n++;
    return r.broken ? -EINVAL : n;
}

/* ------------------------------------------------------------------------------ diff --------- */

static int known(const uint8_t digest[16])
{
    static const uint8_t none[16];
    return memcmp(digest, none, 16) != 0;
}

/* What every kind of entry is compared by. */
static int common_differs(const struct i2_entry *o, const struct i2_entry *n, int probed)
{
    if (o->uid != n->uid || o->gid != n->gid || o->mtime_s != n->mtime_s ||
        o->mtime_ns != n->mtime_ns)
        return 1;
    if (!probed && o->ctime != n->ctime)
        return 1;
    if (o->attrs && n->attrs && o->attrs != n->attrs)
        return 1;
    return o->flags & I2_RACY;
}

/* The verdict on two entries of one name. */
static uint8_t judge(const struct i2_entry *o, const struct i2_entry *n)
{
    int probed = (o->flags | n->flags) & I2_PROBED;
    if (o->kind != n->kind)
        return I2_RETYPED;
    if (n->kind == I2_DIR) {
        /* what is mounted there hides the directory that the target mirrors */
        if (n->flags & I2_MOUNT)
            return I2_SAME;
        if (!probed && (o->ino != n->ino || (o->birth && n->birth && o->birth != n->birth)))
            return I2_SWAPPED;
        return common_differs(o, n, probed) || o->mode != n->mode ? I2_META : I2_SAME;
    }
    int differs = common_differs(o, n, probed) || o->size != n->size || o->rdev != n->rdev;
    /* Linux keeps no mode for a symlink */
    differs |= n->kind != I2_SYMLINK && o->mode != n->mode;
    differs |= !probed && (o->ino != n->ino || o->nlink != n->nlink);
    if (n->kind == I2_FILE)
        differs |= known(o->content) && known(n->content) && memcmp(o->content, n->content, 16) != 0;
    /* What is put there must not go through to the other names of the one that was there. */
    if (differs && o->nlink > 1 && (probed ? n->nlink == 1 : o->ino != n->ino))
        return I2_SWAPPED;
    return !differs ? I2_SAME : n->kind == I2_FILE ? I2_DATA : I2_META;
}

static int has_holes(const struct i2_entry *e) { return e->size >= 4096 && e->blocks <= (e->size - 1) / 512; }

static int section(const struct i2_entry *e, uint64_t small_max)
{
    if (e->kind == I2_DIR)
        return I2_IN_DIRS;
    if (e->nlink > 1)
        return I2_IN_LINKED;
    return e->kind == I2_FILE && (e->size > small_max || has_holes(e)) ? I2_IN_LARGE : I2_IN_BULK;
}

/* Whether the content of the old one says all of the new one's: zeros may have become a hole. */
static int says_content(const struct i2_entry *o, const struct i2_entry *n)
{
    if (o->size != n->size) return 0;
    if ((o->flags | n->flags) & I2_PROBED || o->blocks == n->blocks) return 1;
    return !has_holes(o) && !has_holes(n);
}

/* One step of the walk along both listings: the entry of the smaller name on its side, or both. */
struct pair {
    struct i2_reader old, now;
};

static void step(struct pair *p, const struct i2_entry **o, const struct i2_entry **n)
{
    *o = p->old.now, *n = p->now.now;
    if (*o && *n) {
        int order = i2_entry_order(*o, *n);
        if (order < 0)
            *n = NULL;
        else if (order > 0)
            *o = NULL;
    }
    if (*o)
        i2_reader_next(&p->old);
    if (*n)
        i2_reader_next(&p->now);
}

int64_t i2_diff(const uint8_t *old, size_t old_len, const uint8_t *now, size_t now_len,
                uint64_t small_max, uint8_t *out, size_t cap, uint64_t used[5])
{
    if (cap < old_len + now_len || ((uintptr_t)out & 7))
        return -EINVAL;
    memset(used, 0, 5 * sizeof *used);
    const struct i2_entry *o, *n;
    int64_t changed = 0;
    /* Once to measure the sections, which mostly finds that there are none, then once to fill them. */
    struct pair both = {i2_reader_open(old, old_len), i2_reader_open(now, now_len)};
    for (step(&both, &o, &n); o || n; step(&both, &o, &n)) {
        if (o && n && judge(o, n) == I2_SAME)
            continue;
        used[n ? section(n, small_max) : I2_IN_GONE] += n ? n->length : o->length;
        changed++;
    }
    if (both.old.broken || both.now.broken)
        return -EINVAL;
    if (changed == 0)
        return 0;

    uint8_t *to[5], *end[5];
    for (int s = 0; s < 5; s++) {
        to[s] = s ? end[s - 1] : out;
        end[s] = to[s] + used[s];
    }
    both = (struct pair){i2_reader_open(old, old_len), i2_reader_open(now, now_len)};
    for (step(&both, &o, &n); o || n; step(&both, &o, &n)) {
        uint8_t verdict = !n ? I2_GONE : !o ? I2_NEW : judge(o, n);
        if (verdict == I2_SAME)
            continue;
        const struct i2_entry *from = n ? n : o;
        int s = n ? section(n, small_max) : I2_IN_GONE;
        /* the caller changed the listings under our hands */
        if ((size_t)(end[s] - to[s]) < from->length)
            return -EINVAL;
        struct i2_entry *e = memcpy(to[s], from, from->length);
        to[s] += from->length;
        e->verdict = verdict;
        if (verdict == I2_GONE)
            e->status = 0;
        if (o && n && o->kind == n->kind) {
            /* The reader of the file takes these for what the target holds. A content digest says
             * nothing of a trailing zero block's length, so it holds for one size only, nor of holes. */
            e->attrs = o->attrs;
            if (says_content(o, n))
                memcpy(e->content, o->content, 16);
            else
                memset(e->content, 0, 16);
        }
    }
    return changed;
}

/* ------------------------------------------------------------------------------ merge -------- */

int64_t i2_merge(const uint8_t *base, size_t base_len, const uint8_t *change, size_t change_len,
                 uint8_t *out, size_t cap)
{
    if (cap < base_len + change_len || ((uintptr_t)out & 7))
        return -EINVAL;
    struct pair both = {i2_reader_open(base, base_len), i2_reader_open(change, change_len)};
    const struct i2_entry *b, *c;
    size_t len = 0;
    for (step(&both, &b, &c); b || c; step(&both, &b, &c)) {
        if (c && c->status)
            c = NULL;
        const struct i2_entry *from = !c ? b : c->verdict == I2_GONE ? NULL : c;
        if (!from)
            continue;
        struct i2_entry *e = memcpy(out + len, from, from->length);
        e->verdict = I2_SAME;
        e->status = 0;
        len += from->length;
    }
    return both.old.broken || both.now.broken ? -EINVAL : (int64_t)len;
}

/* ------------------------------------------------------------------------------- sort -------- */

struct key {
    uint64_t head; /* the name's first eight bytes, big-endian: decides nearly every comparison */
    const struct i2_entry *entry;
};

static uint64_t head(const struct i2_entry *e)
{
    uint8_t first[8] = {0};
    memcpy(first, i2_entry_name(e), e->name_len < 8 ? e->name_len : 8);
    uint64_t word;
    memcpy(&word, first, 8);
    return __builtin_bswap64(word);
}

static int key_order(const void *left, const void *right)
{
    const struct key *a = left, *b = right;
    if (a->head != b->head)
        return a->head < b->head ? -1 : 1;
    return i2_entry_order(a->entry, b->entry);
}

int64_t i2_sort(uint8_t *listing, size_t len, uint8_t *scratch)
{
    if ((uintptr_t)listing & 7)
        return -EINVAL;
    size_t n = 0;
    int sorted = 1;
    const struct i2_entry *before = NULL;
    for (size_t at = 0; at < len; n++) {
        const struct i2_entry *e = i2_entry_at(listing + at, len - at);
        if (!e)
            return -EINVAL;
        sorted = sorted && (!before || i2_entry_order(before, e) < 0);
        before = e;
        at += e->length;
    }
    if (sorted)
        return (int64_t)n;
    struct key *keys = malloc(n * sizeof *keys);
    if (!keys)
        return -ENOMEM;
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        const struct i2_entry *e = (const struct i2_entry *)(listing + at);
        keys[i] = (struct key){head(e), e};
        at += e->length;
    }
    qsort(keys, n, sizeof *keys, key_order);
    int64_t result = (int64_t)n;
    at = 0;
    for (size_t i = 0; i < n; i++) {
        if (i && key_order(&keys[i - 1], &keys[i]) == 0)
            result = -EINVAL;
        memcpy(scratch + at, keys[i].entry, keys[i].entry->length);
        at += keys[i].entry->length;
    }
    free(keys);
    if (result >= 0)
        memcpy(listing, scratch, len);
    return result;
}

/* ------------------------------------------------------------------------- find, cut --------- */

int64_t i2_find(const uint8_t *listing, size_t len, const uint8_t *name, size_t name_len)
{
    struct i2_reader r = i2_reader_open(listing, len);
    for (; r.now; i2_reader_next(&r)) {
        int order = i2_name_order(i2_entry_name(r.now), r.now->name_len, name, name_len);
        if (order == 0)
            return (const uint8_t *)r.now - listing;
        if (order > 0)
            return -ENOENT;
    }
    return r.broken ? -EINVAL : -ENOENT;
}

int64_t i2_cut(const uint8_t *listing, size_t len, uint64_t max_entries, uint64_t max_bytes,
               uint64_t *entries, uint64_t *bytes)
{
    struct i2_reader r = i2_reader_open(listing, len);
    const uint8_t *end = listing;
    *entries = *bytes = 0;
    for (; r.now; i2_reader_next(&r)) {
        if (*entries &&
            (*entries >= max_entries || *bytes > max_bytes || r.now->size > max_bytes - *bytes))
            return end - listing;
        /* a first entry beyond max_bytes is taken alone; sizes fit 63 bits, so this cannot wrap */
        *bytes += r.now->size;
        *entries += 1;
        end = r.at;
    }
    return r.broken ? -EINVAL : end - listing;
}
