/* What a peer may ask: i2_steps_check. Linear in the payload, and nothing is allocated. */
#define _GNU_SOURCE
#include "steps.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "xattr.h"

/* What each op may carry. A part that an op does not use must be empty or zero, so that it can be
 * given a meaning later. */
#define PATH 1     /* a path below the root */
#define ROOT 2     /* a path, or "" for the root itself */
#define OTHER 4    /* a second path */
#define TARGET 8   /* a symlink's target */
#define META 16    /* mode, owner, times, extended attributes */
#define DATA 32
#define SIZE 64    /* a file's size, or an offset in it */
#define FROM 128   /* rdev: a device, or an offset in the old file */
#define SPAN 256
#define STAGED 512 /* a staged file's number */
#define TIME 1024  /* mtime alone */

struct rule {
    uint16_t parts;
    uint16_t flags;
    uint8_t kinds; /* bit 1 << kind; 0: it does not matter */
};

#define KIND(k) (uint8_t)(1u << (k))
#define NODES (KIND(I2_CHR) | KIND(I2_BLK) | KIND(I2_FIFO) | KIND(I2_SOCK))
#define ANY (KIND(I2_FILE) | KIND(I2_DIR) | KIND(I2_SYMLINK) | NODES)

static const struct rule rules[] = {
    [I2_MAKE_DIR] = {ROOT | META, I2_STEP_NO_XATTR, KIND(I2_DIR)},
    [I2_PUT_FILE] = {PATH | META | DATA | SIZE, I2_STEP_SPARSE | I2_STEP_NO_XATTR, KIND(I2_FILE)},
    [I2_PUT_LINK] = {PATH | TARGET | META | SIZE, I2_STEP_NO_XATTR, KIND(I2_SYMLINK)},
    [I2_PUT_NODE] = {PATH | META | FROM, I2_STEP_NO_XATTR, NODES},
    [I2_LINK] = {PATH | OTHER, 0, 0},
    [I2_SET_META] = {ROOT | META | SIZE | FROM, I2_STEP_NO_XATTR, ANY},
    [I2_RENAME] = {PATH | OTHER, 0, 0},
    [I2_EXCHANGE] = {PATH | OTHER, 0, 0},
    [I2_REMOVE] = {PATH, 0, 0},
    [I2_STAGE] = {ROOT | STAGED | SIZE | TIME, I2_STEP_CLONE | I2_STEP_KEEP | I2_STEP_DROP, 0},
    [I2_WRITE] = {STAGED | SIZE | DATA, 0, 0},
    [I2_COPY] = {PATH | STAGED | SIZE | FROM | SPAN | TIME, 0, 0},
    [I2_HOLE] = {STAGED | SIZE | SPAN, 0, 0},
    [I2_STAGED] = {PATH | META | SIZE | STAGED, I2_STEP_NO_XATTR, KIND(I2_FILE)},
};

static int is_zero16(const uint8_t *p)
{
    static const uint8_t zero[16];
    return memcmp(p, zero, 16) == 0;
}

static int in_file(uint64_t at, uint64_t span)
{
    return at <= INT64_MAX && span <= INT64_MAX - at;
}

static int sound(const struct i2_step *s)
{
    if (s->op == 0 || s->op >= sizeof rules / sizeof *rules) return 0;
    const struct rule *r = &rules[s->op];
    unsigned parts = r->parts;
    if (s->flags & ~r->flags) return 0;
    if (s->kind > I2_SOCK || (r->kinds && !(r->kinds >> s->kind & 1))) return 0;

    if (parts & (PATH | ROOT)) {
        if (!i2_path_clean(i2_step_path(s), s->path_len)) return 0;
        if ((parts & PATH) && !s->path_len) return 0;
    } else if (s->path_len) {
        return 0;
    }
    if (parts & OTHER) {
        if (!s->other_len || !i2_path_clean(i2_step_other(s), s->other_len)) return 0;
    } else if (parts & TARGET) {
        if (!s->other_len || s->other_len >= PATH_MAX) return 0;
        if (memchr(i2_step_other(s), 0, s->other_len)) return 0;
    } else if (s->other_len) {
        return 0;
    }
    if (parts & META) {
        if (s->mode > 07777 || s->mtime_ns > 999999999) return 0;
        if ((s->flags & I2_STEP_NO_XATTR) && s->xattr_len) return 0;
        if (!i2_xattr_check(i2_step_xattrs(s), s->xattr_len)) return 0;
    } else if (s->mode || s->uid || s->gid || s->xattr_len || !is_zero16(s->content)) {
        return 0;
    } else if (parts & TIME ? s->mtime_ns > 999999999 : s->mtime_s || s->mtime_ns) {
        return 0;
    }
    if (!(parts & DATA) && s->data_len) return 0;
    if (!(parts & SIZE) && s->size) return 0;
    if (!(parts & FROM) && s->rdev) return 0;
    if (!(parts & SPAN) && s->span) return 0;
    if (!(parts & STAGED) && s->stage) return 0;

    if (!in_file(s->size, s->op == I2_WRITE ? s->data_len : s->span)) return 0;
    if (s->op == I2_COPY && !in_file(s->rdev, s->span)) return 0;
    if (s->op == I2_PUT_FILE) {
        if (s->flags & I2_STEP_SPARSE ? s->data_len != 0 : s->data_len != s->size) return 0;
    }
    if (s->op == I2_STAGE) {
        if ((s->flags & I2_STEP_CLONE) && !s->path_len) return 0;
        if (!(s->flags & I2_STEP_CLONE) && (s->size || s->mtime_s || s->mtime_ns)) return 0;
        if ((s->flags & I2_STEP_DROP) && s->flags != I2_STEP_DROP) return 0;
    }
    return 1;
}

int64_t i2_steps_check(const uint8_t *steps, size_t len)
{
    int64_t n = 0;
    if ((uintptr_t)steps % 8) return -EINVAL;
    for (size_t at = 0; at < len; n++) {
        const struct i2_step *s = (const struct i2_step *)(steps + at);
        if (len - at < sizeof *s || s->length < sizeof *s || s->length > len - at) return -EINVAL;
        if (i2_step_size(s) != s->length || !sound(s)) return -EINVAL;
        at += s->length;
    }
    return n;
}
