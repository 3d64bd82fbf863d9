/* libFuzzer target: listings. Even inputs are taken as two listings as they stand, cut at a place the
 * input names; odd ones as orders to make two sound listings, which reaches behind the checks. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "entry.h"
#include "mover.h"

#define ENTRIES 24

static void *copy(const void *from, size_t len)
{
    uint8_t *to = malloc(len ? len : 1);
    if (len)
        memcpy(to, from, len);
    return to;
}

/* Every entry is found where it stands, and cuts of any size cover the listing. */
static void probe(const uint8_t *listing, size_t len, int64_t n)
{
    size_t at = 0;
    int64_t seen = 0;
    while (at < len) {
        const struct i2_entry *e = (const struct i2_entry *)(listing + at);
        assert(i2_find(listing, len, i2_entry_name(e), e->name_len) == (int64_t)at);
        uint64_t entries, bytes;
        int64_t cut = i2_cut(listing + at, len - at, 1 + e->ino % 3, e->size, &entries, &bytes);
        assert(cut >= (int64_t)e->length && entries >= 1);
        seen += (int64_t)entries;
        at += (size_t)cut;
    }
    assert(seen == n);
}

static void compare(const uint8_t *old, size_t old_len, const uint8_t *now, size_t now_len)
{
    size_t cap = old_len + now_len;
    uint8_t *out = malloc(cap ? cap : 1), *merged = malloc(cap ? cap : 1);
    int64_t old_n = i2_listing_check(old, old_len), now_n = i2_listing_check(now, now_len);
    uint64_t used[5];
    int64_t changed = i2_diff(old, old_len, now, now_len, 65536, out, cap, used);
    assert((changed >= 0) == (old_n >= 0 && now_n >= 0));
    int64_t len = i2_merge(old, old_len, now, now_len, merged, cap);
    assert((len >= 0) == (changed >= 0));
    if (changed >= 0) {
        assert(i2_listing_check(merged, (size_t)len) >= 0);
        probe(old, old_len, old_n);
        probe(now, now_len, now_n);
    }
    if (changed > 0) {
        uint8_t *base = copy(old, old_len);
        size_t base_len = old_len, at = 0;
        int64_t n = 0;
        int told = 0; /* a status in the new listing keeps its entry out of the merge */
        for (int s = 0; s < 5; s++) {
            int64_t in = i2_listing_check(out + at, used[s]);
            assert(in >= 0);
            n += in;
            for (size_t i = at; i < at + used[s]; i += ((struct i2_entry *)(out + i))->length)
                told |= ((struct i2_entry *)(out + i))->status != 0;
            uint8_t *next = malloc(base_len + used[s] + 1);
            int64_t next_len = i2_merge(base, base_len, out + at, used[s], next, base_len + used[s]);
            assert(next_len >= 0);
            free(base);
            base = next, base_len = (size_t)next_len, at += used[s];
        }
        assert(n == changed);
        assert(told || i2_listing_check(base, base_len) == now_n);
        free(base);
    }
    free(out);
    free(merged);
}

/* Bytes to a listing: three for a name and what varies, in any order; sorted, doubles dropped. */
static size_t make(const uint8_t *data, size_t len, uint8_t *out)
{
    size_t used = 0;
    for (size_t i = 0; i + 4 <= len; i += 4) {
        const uint8_t *d = data + i;
        uint8_t name[9] = {'a', 'a', 'a', 'a', 'a', 'a', 'a', 'a', 'a'};
        size_t name_len = 1 + d[0] % 9;
        name[d[1] % 9] = (uint8_t)('a' + d[1] / 9);
        struct i2_entry e = {
            .length = (uint32_t)i2_entry_room(name_len),
            .name_len = (uint16_t)name_len,
            .kind = (uint8_t)(1 + d[2] % 7),
            .nlink = 1 + (d[2] >> 7),
            .ino = d[2] >> 3 & 1,
            .size = d[3] % 3 * 40000u,
            .blocks = d[3] & 128 ? 200 : 0,
            .flags = d[3] >> 2 & 7,
            .attrs = d[3] >> 5 & 1,
        };
        memset(e.content, d[3] >> 6 & 1, sizeof e.content);
        int doubled = 0;
        for (size_t at = 0; at < used; at += ((struct i2_entry *)(out + at))->length) {
            const struct i2_entry *o = (const struct i2_entry *)(out + at);
            doubled |= i2_name_order(i2_entry_name(o), o->name_len, name, name_len) == 0;
        }
        if (doubled)
            continue;
        memset(out + used, 0, e.length);
        memcpy(out + used, &e, sizeof e);
        memcpy(out + used + sizeof e, name, name_len);
        used += e.length;
    }
    uint8_t *scratch = malloc(used ? used : 1);
    assert(i2_sort(out, used, scratch) >= 0);
    assert(i2_listing_check(out, used) >= 0);
    free(scratch);
    return used;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (len < 2)
        return 0;
    size_t rest = len - 2;
    const uint8_t *body = data + 2;
    if (data[0] & 1) {
        rest = rest < 2 * 4 * ENTRIES ? rest : 2 * 4 * ENTRIES;
        size_t half = rest * data[1] / 255;
        uint8_t *old = malloc(64 * 128), *now = malloc(64 * 128);
        size_t old_len = make(body, half, old), now_len = make(body + half, rest - half, now);
        uint8_t *a = copy(old, old_len), *b = copy(now, now_len);
        compare(a, old_len, b, now_len);
        free(old), free(now), free(a), free(b);
        return 0;
    }
    size_t cut = (size_t)data[1] * 8;
    cut = cut < rest ? cut : rest;
    uint8_t *a = copy(body, cut), *b = copy(body + cut, rest - cut), *c = copy(body, rest);
    compare(a, cut, b, rest - cut);
    compare(a, cut, a, cut);
    uint8_t *scratch = malloc(rest ? rest : 1);
    int64_t n = i2_sort(c, rest, scratch);
    assert(n < 0 || i2_listing_check(c, rest) == n);
    free(a), free(b), free(c), free(scratch);
    return 0;
}
