/* Draining an inotify descriptor (inotify(7)) and folding what it repeats.
 *
 * A busy file gives thousands of equal events, which would fill the kernel's queue and then Python's
 * time. The first of them keeps its place in the order; later ones only add to its mask.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "mover.h"

#define READ_MAX 65536u
#define READ_MIN 512u /* more than the longest event, which the kernel never splits */
#define FEW 512u      /* slots that stand on the stack */
#define PROBES 64u    /* names chosen to collide only lose the folding */

/* Events whose place in the order means something: they stand alone, and nothing that follows is
 * folded into what came before them. */
#define ALONE                                                                                \
    (IN_MOVED_FROM | IN_MOVED_TO | IN_MOVE_SELF | IN_DELETE_SELF | IN_IGNORED | IN_UNMOUNT | \
     IN_Q_OVERFLOW)

/* The last event of each watch and name: offset in out / 8 + 1, 0 is free. */
struct index {
    uint32_t *slot;
    size_t slots, used;
    uint32_t few[FEW];
};

static uint64_t key(int32_t wd, const uint8_t *name, size_t len)
{
    uint64_t h = (uint32_t)wd * 0x9E3779B97F4A7C15ull + len;
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

/* Where that watch and name stands or belongs; NULL: the neighbourhood is full. */
static uint32_t *place(struct index *x, const uint8_t *out, int32_t wd, const uint8_t *name,
                       size_t len)
{
    size_t at = key(wd, name, len);
    for (size_t k = 0; k < PROBES; k++, at++) {
        uint32_t *s = &x->slot[at & (x->slots - 1)];
        if (*s == 0)
            return s;
        const struct i2_event *e = (const struct i2_event *)(out + 8 * (size_t)(*s - 1));
        if (e->wd == wd && e->name_len == len && memcmp(name_of(e), name, len) == 0)
            return s;
    }
    return NULL;
}

/* A table four times as large, before this one is crowded; without memory for it the old one serves on. */
static void grow(struct index *x, const uint8_t *out, size_t used)
{
    uint32_t *more = calloc(4 * x->slots, sizeof *more);
    if (!more)
        return;
    if (x->slot != x->few)
        free(x->slot);
    x->slot = more, x->slots *= 4, x->used = 0;
    for (size_t at = 0; at < used;) {
        const struct i2_event *e = (const struct i2_event *)(out + at);
        uint32_t *s = place(x, out, e->wd, name_of(e), e->name_len);
        if (s) {
            x->used += *s == 0;
            *s = (uint32_t)(at / 8 + 1);
        }
        at += e->length;
    }
}

/* Adds one event of the kernel; returns the bytes used in out then. */
static size_t add(struct index *x, uint8_t *out, size_t used, const struct inotify_event *in)
{
    const uint8_t *name = (const uint8_t *)in->name;
    size_t len = in->len ? strnlen(in->name, in->len) : 0;
    uint32_t *s = place(x, out, in->wd, name, len);
    if (s && *s && !(in->mask & ALONE)) {
        struct i2_event *e = (struct i2_event *)(out + 8 * (size_t)(*s - 1));
        /* a file that follows a directory of the same name is something else */
        if (!(e->mask & ALONE) && !((e->mask ^ in->mask) & IN_ISDIR)) {
            e->mask |= in->mask;
            return used;
        }
    }
    size_t length = (sizeof(struct i2_event) + len + 7) & ~(size_t)7;
    struct i2_event *e = (struct i2_event *)(out + used);
    memset(e, 0, length);
    e->length = (uint32_t)length;
    e->wd = in->wd;
    e->mask = in->mask;
    e->cookie = in->cookie;
    e->name_len = (uint32_t)len;
    memcpy(e + 1, name, len);
    if (s) {
        x->used += *s == 0;
        *s = (uint32_t)(used / 8 + 1);
    }
    used += length;
    if (2 * x->used > x->slots)
        grow(x, out, used);
    return used;
}

int64_t i2_events(int notify, uint8_t *out, size_t cap)
{
    _Alignas(struct inotify_event) uint8_t raw[READ_MAX];
    struct index x = {.slots = FEW};
    x.slot = x.few;
    /* slots hold 32 bits of offset / 8 */
    cap = cap < (size_t)1 << 34 ? cap : (size_t)1 << 34;
    size_t used = 0;
    int64_t result = 0;
    if ((uintptr_t)out & 7)
        return -EINVAL;
    for (;;) {
        /* an event takes at most half as much again as the kernel's form of it: 24 for 16 bytes */
        size_t room = (cap - used) / 3 * 2;
        room = room < READ_MAX ? room : READ_MAX;
        if (room < READ_MIN) {
            result = used ? 0 : -ENOBUFS;
            break;
        }
        ssize_t got = read(notify, raw, room);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno != EAGAIN && used == 0)
            result = -errno; /* behind events it waits for the next call, which meets it again */
        if (got <= 0)
            break;
        for (size_t at = 0; at + sizeof(struct inotify_event) <= (size_t)got;) {
            const struct inotify_event *in = (const struct inotify_event *)(raw + at);
            used = add(&x, out, used, in);
            at += sizeof *in + in->len;
        }
    }
    if (x.slot != x.few)
        free(x.slot);
    return result < 0 ? result : (int64_t)used;
}
