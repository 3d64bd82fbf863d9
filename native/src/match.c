/* How a window of the new file is had from the old one.
 *
 * Blocks that stand where they stood, and zero blocks, are anchors; they cost one pass of the block
 * hash. What lies between two anchors is a gap, and only gaps are searched, byte by byte, with the
 * rolling sum: a bit filter answers for nearly every position, then the table, then the strong hash.
 *
 * Bounds, so that no content makes this worse than linear: equal blocks stand in the table once, a
 * weak sum at most CANDIDATES times, a probe looks at PROBES slots at most, and strong hashes that
 * prove a weak hit wrong are paid from a budget that grows with the bytes searched.
 */
#include <errno.h>
#include <string.h>

#include "blake3.h"
#include "blocks.h"
#include "mover.h"

#define CANDIDATES 8u
#define PROBES 64u
#define GROUP 64u
#define FAILED_PER_BYTE 16u /* bytes hashed in vain for each byte searched */
#define FAILED_FREE 64u     /* blocks hashed in vain for nothing */
#define IN_CACHE 23u        /* log2 of the filter's bits that the second-level cache holds */
#define MAGIC 0x6d61746368ull

struct head {
    uint64_t magic;
    uint64_t old_size;
    uint64_t n;
    uint32_t block;
    uint32_t filter_bits; /* log2 of the filter's bits */
    uint32_t slot_bits;   /* log2 of the slots */
    uint32_t pad;
};

struct slot {
    uint32_t weak;
    uint32_t block; /* number of the old block + 1; 0: free */
};

/* A block sets two bits of one word of the filter, which has 16 to 32 bits for each block: about one
 * position in a hundred gets past it by chance. */
static inline uint64_t passes(uint64_t word, uint32_t weak)
{
    return word >> (weak & 63) & word >> (weak >> 6 & 63) & 1;
}

static void shape(size_t n, uint32_t *filter_bits, uint32_t *slot_bits)
{
    *slot_bits = 4;
    while ((uint64_t)1 << *slot_bits < 2 * (uint64_t)n)
        ++*slot_bits;
    *filter_bits = *slot_bits + 3 < 15 ? 15 : *slot_bits + 3;
}

size_t i2_match_size(size_t n)
{
    if (n > (size_t)1 << 30) /* 2^31 slots: what a 32-bit weak sum can index */
        return 0;
    uint32_t filter_bits, slot_bits;
    shape(n, &filter_bits, &slot_bits);
    return sizeof(struct head) + ((size_t)1 << (filter_bits - 3)) +
           ((size_t)1 << slot_bits) * sizeof(struct slot);
}

static int is_hole(const struct i2_block *b)
{
    static const uint8_t none[16];
    return memcmp(b->strong, none, 16) == 0;
}

int64_t i2_match_init(uint8_t *table, size_t cap, const struct i2_block *old, size_t n,
                      uint64_t old_size, uint32_t block)
{
    size_t size = i2_match_size(n);
    if (block == 0 || size == 0 || ((uintptr_t)table & 7))
        return -EINVAL;
    if (old_size / block + (old_size % block != 0) != n)
        return -EINVAL;
    if (cap < size)
        return -ENOBUFS;
    memset(table, 0, size);
    struct head *h = (struct head *)table;
    h->magic = MAGIC, h->old_size = old_size, h->n = n, h->block = block;
    shape(n, &h->filter_bits, &h->slot_bits);
    uint64_t *filter = (uint64_t *)(table + sizeof *h);
    struct slot *slots = (struct slot *)(filter + ((size_t)1 << (h->filter_bits - 6)));
    uint32_t mask = ((uint32_t)1 << h->slot_bits) - 1;
    /* a short last block is found at ends only, not by the search */
    for (size_t i = 0; i < old_size / block; i++) {
        if (is_hole(&old[i]))
            continue;
        uint32_t weak = old[i].weak, alike = 0;
        uint32_t at = weak >> (32 - h->slot_bits);
        for (uint32_t k = 0; k < PROBES; k++, at = (at + 1) & mask) {
            if (slots[at].block == 0) {
                slots[at] = (struct slot){weak, (uint32_t)i + 1};
                filter[weak >> (38 - h->filter_bits)] |=
                    (uint64_t)1 << (weak & 63) | (uint64_t)1 << (weak >> 6 & 63);
                break;
            }
            if (slots[at].weak != weak)
                continue;
            if (memcmp(old[slots[at].block - 1].strong, old[i].strong, 16) == 0 ||
                ++alike == CANDIDATES)
                break;
        }
    }
    return 0;
}

/* ------------------------------------------------------------------------- one call ---------- */

struct job {
    const struct head *head;
    const uint64_t *filter;
    const struct slot *slots;
    const struct i2_block *old;
    uint64_t whole;  /* old blocks of full size; the short one behind them has this number */
    uint32_t block;
    uint32_t tail;   /* bytes of the short last block, 0: none */
    const uint8_t *data;
    size_t len;
    uint64_t at;
    int64_t shift;
    struct i2_op *ops;
    size_t cap, count;
    size_t covered;  /* bytes of data that ops account for */
    uint64_t searched, failed; /* bytes */
};

/* The next `span` bytes come from there. 0: no room for another op. */
static int emit(struct job *j, uint64_t from, size_t span)
{
    if (span == 0)
        return 1;
    if (j->count) {
        struct i2_op *last = &j->ops[j->count - 1];
        int fixed = from == I2_LITERAL || from == I2_ZERO;
        int goes_on = fixed ? last->from == from
                            : last->from < I2_ZERO && last->from + last->span == from;
        if (goes_on) {
            last->span += span;
            j->covered += span;
            return 1;
        }
    }
    if (j->count == j->cap)
        return 0;
    j->ops[j->count++] = (struct i2_op){j->at + j->covered, from, span};
    j->covered += span;
    return 1;
}

static int literal_up_to(struct job *j, size_t p)
{
    return emit(j, I2_LITERAL, p - j->covered);
}

static int is_block(const struct i2_block *a, const struct i2_block *b)
{
    return a->weak == b->weak && memcmp(a->strong, b->strong, 16) == 0;
}

/* Whether the old file's short last block stands at p; p + tail is within data. */
static int is_tail(const struct job *j, size_t p)
{
    struct i2_block here;
    i2_blocks(j->data + p, j->tail, j->tail, &here, 1);
    return is_block(&here, &j->old[j->whole]);
}

/* Bytes from p on, before `to`, that are the old file's from block `from` on. */
static size_t run(const struct job *j, size_t p, size_t to, uint64_t from)
{
    struct i2_block here[GROUP];
    size_t done = 0, batch = 1;
    while (from < j->whole && to - p - done >= j->block) {
        size_t n = (to - p - done) / j->block;
        n = n < batch ? n : batch;
        n = n < j->whole - from ? n : (size_t)(j->whole - from);
        i2_blocks(j->data + p + done, n * j->block, j->block, here, GROUP);
        for (size_t i = 0; i < n; i++, from++, done += j->block)
            if (!is_block(&here[i], &j->old[from]))
                return done;
        batch = batch * 4 < GROUP ? batch * 4 : GROUP;
    }
    if (from == j->whole && j->tail && to - p - done >= j->tail && is_tail(j, p + done))
        done += j->tail;
    return done;
}

/* The old block that stands at p, where the weak sum is that; -1: none. */
static int64_t look_up(struct job *j, size_t p, uint32_t weak)
{
    uint32_t mask = ((uint32_t)1 << j->head->slot_bits) - 1;
    uint32_t at = weak >> (32 - j->head->slot_bits);
    uint8_t strong[16];
    int hashed = 0;
    for (uint32_t k = 0; k < PROBES; k++, at = (at + 1) & mask) {
        struct slot s = j->slots[at];
        if (s.block == 0)
            break;
        if (s.weak != weak)
            continue;
        if (!hashed) {
            if (j->failed > FAILED_PER_BYTE * j->searched + (uint64_t)FAILED_FREE * j->block)
                return -1;
            i2_hash(j->data + p, j->block, strong, 16);
            hashed = 1;
        }
        if (memcmp(j->old[s.block - 1].strong, strong, 16) == 0)
            return s.block - 1;
    }
    if (hashed)
        j->failed += j->block;
    return -1;
}

/* Which of n sums the filter lets pass: their numbers to hit, returns how many. Without a branch: what
 * passes by chance would cost a wrong guess of the processor each time. */
static size_t sift(const uint64_t *filter, uint32_t shift, const uint32_t *weak, size_t n,
                   uint16_t *hit)
{
    size_t hits = 0;
    for (size_t i = 0; i < n; i++) {
        hit[hits] = (uint16_t)i;
        hits += passes(filter[weak[i] >> shift], weak[i]);
    }
    return hits;
}

/* The first position from p on, with its block before `to`, where an old block stands; to - block + 1
 * when there is none. *found is its number or -1.
 *
 * Positions go in batches, so that what misses the cache is fetched for many at once. */
static size_t search(struct job *j, size_t p, size_t to, int64_t *found)
{
    const uint64_t *filter = j->filter;
    const uint8_t *data = j->data;
    const uint32_t block = j->block;
    const uint32_t shift = 38 - j->head->filter_bits, slot_shift = 32 - j->head->slot_bits;
    const size_t last = to - block;
    struct roll r = i2_roll_start(data + p, block);
    uint32_t weak[ROLL_BATCH + 1];
    uint16_t hit[ROLL_BATCH + 2];
    *found = -1;
    for (;;) {
        /* the last position is not moved on from: no byte joins behind it */
        size_t n = last - p < ROLL_BATCH ? last - p : ROLL_BATCH;
        i2_roll_batch(&r, data + p, block, n, weak);
        if (p + n == last)
            weak[n++] = r.weak;
        if (j->head->filter_bits > IN_CACHE)
            for (size_t i = 0; i < n; i++)
                __builtin_prefetch(&filter[weak[i] >> shift]);
        size_t hopeful = sift(filter, shift, weak, n, hit);
        for (size_t i = 0; i < hopeful; i++)
            __builtin_prefetch(&j->slots[weak[hit[i]] >> slot_shift]);
        for (size_t i = 0; i < hopeful; i++) {
            *found = look_up(j, p + hit[i], weak[hit[i]]);
            if (*found >= 0)
                return p + hit[i];
        }
        p += n;
        j->searched += n;
        if (p > last)
            return p;
    }
}

/* Where the displacement of the run before leads: takes what is there from `to` at most. The literal
 * before it is less than a block. 0: no room. */
static int follow(struct job *j, size_t to)
{
    if (j->shift == 0 || j->whole == 0)
        return 1; /* in place has been tried */
    int64_t old_at = (int64_t)(j->at + j->covered + (uint64_t)j->shift);
    uint64_t skip = old_at < 0 ? -(uint64_t)old_at : (j->block - (uint64_t)old_at % j->block) % j->block;
    if (skip >= j->block || skip >= to - j->covered)
        return 1;
    size_t p = j->covered + (size_t)skip;
    uint64_t from = ((uint64_t)old_at + skip) / j->block;
    size_t span = run(j, p, to, from);
    return span == 0 || (literal_up_to(j, p) && emit(j, from * j->block, span));
}

/* Covers what lies before `to`. An anchor or the file's end stands there, or, when open, data that
 * is not here yet: then the last bytes that could begin a block are left. 0: no room. */
static int gap(struct job *j, size_t to, int open, int end)
{
    if (j->covered == to)
        return 1;
    if (!follow(j, to))
        return 0;
    while (j->whole && to - j->covered >= j->block) {
        int64_t block;
        size_t p = search(j, j->covered, to, &block);
        if (block < 0)
            break;
        if (!literal_up_to(j, p))
            return 0;
        uint64_t from = (uint64_t)block * j->block;
        size_t span = j->block + run(j, p + j->block, to, (uint64_t)block + 1);
        if (!emit(j, from, span))
            return 0;
        j->shift = (int64_t)(from - (j->at + p));
    }
    if (open)
        return to - j->covered < j->block || literal_up_to(j, to - j->block + 1);
    if (end && j->tail && to - j->covered >= j->tail && is_tail(j, to - j->tail))
        return literal_up_to(j, to - j->tail) && emit(j, j->whole * j->block, j->tail);
    return literal_up_to(j, to);
}

/* ------------------------------------------------------------------------ anchors ------------ */

enum anchor { NONE, ZERO, HERE, TAIL_HERE };

/* What n full blocks at p are, which are aligned in the new file. */
static void anchors(const struct job *j, size_t p, size_t n, uint8_t kind[GROUP])
{
    const uint8_t *in[GROUP] = {NULL};
    uint8_t place[GROUP], strong[GROUP][16];
    size_t hopeful = 0;
    uint64_t first = (j->at + p) / j->block;
    for (size_t i = 0; i < n; i++) {
        const uint8_t *at = j->data + p + i * j->block;
        kind[i] = NONE;
        if (i2_is_zero(at, j->block))
            kind[i] = ZERO;
        else if (first + i < j->whole && i2_weak(at, j->block) == j->old[first + i].weak)
            in[hopeful] = at, place[hopeful++] = (uint8_t)i;
        else if (first + i == j->whole && j->tail && is_tail(j, p + i * j->block))
            kind[i] = TAIL_HERE;
    }
    i2_b3_many(in, hopeful, j->block, strong);
    for (size_t i = 0; i < hopeful; i++)
        if (memcmp(strong[i], j->old[first + place[i]].strong, 16) == 0)
            kind[place[i]] = HERE;
}

static int put_anchor(struct job *j, size_t p, enum anchor kind, size_t span)
{
    if (!gap(j, p, 0, 0) || !emit(j, kind == ZERO ? I2_ZERO : j->at + p, span))
        return 0;
    if (kind != ZERO)
        j->shift = 0;
    return 1;
}

static void cover(struct job *j, int end)
{
    uint8_t kind[GROUP];
    size_t p = (size_t)((j->block - j->at % j->block) % j->block);
    while (p <= j->len && j->len - p >= j->block) {
        size_t n = (j->len - p) / j->block;
        n = n < GROUP ? n : GROUP;
        anchors(j, p, n, kind);
        for (size_t i = 0; i < n; i++, p += j->block)
            if (kind[i] != NONE &&
                !put_anchor(j, p, kind[i], kind[i] == TAIL_HERE ? j->tail : j->block))
                return;
    }
    /* the last block of the new file, or what is here of the next one */
    if (p < j->len) {
        size_t rest = j->len - p;
        if (end && i2_is_zero(j->data + p, rest)) {
            put_anchor(j, p, ZERO, rest);
            return;
        }
        if ((j->at + p) / j->block == j->whole && j->tail && rest >= j->tail && is_tail(j, p) &&
            !put_anchor(j, p, TAIL_HERE, j->tail))
            return;
    }
    gap(j, j->len, !end, end);
}

int64_t i2_match(const uint8_t *table, const struct i2_block *old, size_t n, uint32_t block,
                 const uint8_t *data, size_t len, uint64_t at, int end, int64_t *shift,
                 struct i2_op *ops, size_t cap, uint64_t *used)
{
    const struct head *h = (const struct head *)table;
    *used = 0;
    if (((uintptr_t)table & 7) || h->magic != MAGIC || h->n != n || h->block != block || cap == 0)
        return -EINVAL;
    if (at > INT64_MAX || len > INT64_MAX - at)
        return -EINVAL;
    const uint64_t *filter = (const uint64_t *)(table + sizeof *h);
    struct job j = {
        .head = h,
        .filter = filter,
        .slots = (const struct slot *)(filter + ((size_t)1 << (h->filter_bits - 6))),
        .old = old,
        .whole = h->old_size / block,
        .block = block,
        .tail = (uint32_t)(h->old_size % block),
        .data = data,
        .len = len,
        .at = at,
        .shift = *shift,
        .ops = ops,
        .cap = cap,
    };
    cover(&j, end);
    *shift = j.shift;
    *used = j.covered;
    return (int64_t)j.count;
}
