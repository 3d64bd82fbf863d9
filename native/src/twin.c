/* A second file like a first one, for more names than one file can have. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apply.h"
#include "aside.h"
#include "xattr.h"

/* The step that would give a file all that this one has but its content, the caller's to free; NULL
 * with *err. */
static struct i2_step *step_of(struct i2_site *site, int fd, struct statx *self, int *err)
{
    struct i2_bytes xattrs = {0}, aside = {0};
    const struct i2_bearer of = {.fd = fd};
    struct i2_step *s = NULL;
    *err = i2_statx(&site->k, fd, "", AT_EMPTY_PATH, self);
    if (!*err) *err = i2_xattr_read(&of, &xattrs);
    /* A file system without attributes has none to lose. */
    if (*err == -ENOTSUP) *err = 0;
    if (!*err && site->shelf >= 0) *err = i2_aside_read(site->shelf, fd, "", AT_EMPTY_PATH, &aside);
    if (!*err) *err = i2_aside_lay(&aside, &xattrs, 0);
    if (!*err && !(s = calloc(1, i2_pad8(sizeof *s + xattrs.len)))) *err = -ENOMEM;
    if (s) {
        s->length = (uint32_t)i2_pad8(sizeof *s + xattrs.len);
        s->op = I2_PUT_FILE;
        s->kind = I2_FILE;
        s->xattr_len = (uint32_t)xattrs.len;
        struct i2_entry e = {0};
        i2_entry_fill(&e, self, 0);
        i2_aside_lay_stat(&aside, &e);
        s->mode = e.mode;
        s->uid = e.uid;
        s->gid = e.gid;
        s->mtime_s = e.mtime_s;
        s->mtime_ns = e.mtime_ns;
        if (xattrs.len) memcpy(s + 1, xattrs.p, xattrs.len);
    }
    free(xattrs.p);
    free(aside.p);
    return s;
}

int i2_twin(struct i2_site *site, const struct i2_held *held, const char *name)
{
    struct statx self, now;
    struct i2_step *s = NULL;
    uint32_t locks = 0;
    char staged[I2_STAGE_NAME];
    int from = i2_open_regular(site, held->fd, name, O_RDONLY);
    /* What is no regular file has no content to take along, and rarely as many names. */
    if (from < 0) return from == -ESTALE ? -EMLINK : from;
    i2_unique_name(site, staged);
    int err, to = openat(site->stage, staged, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    err = to < 0 ? -errno : 0;
    if (!err && (s = step_of(site, from, &self, &err))) {
        err = i2_clone(site, from, to) ? i2_copy_range(site, from, 0, to, 0, self.stx_size) : 0;
        if (!err) err = i2_statx(&site->k, to, "", AT_EMPTY_PATH, &now);
    }
    if (!err) {
        uint64_t told = site->noted + site->more;
        now.stx_mtime.tv_nsec = UINT32_MAX; /* never what is wanted */
        locks = i2_meta(site, to, 0, s, &now, 0);
        if (site->noted + site->more != told) err = -EMLINK; /* told of already */
    }
    if (!err) err = i2_last(site, to);
    if (!err) err = i2_place(site, held, name, staged, self.stx_size);
    if (!err) i2_lock(site, to, locks);
    if (err && to >= 0) {
        unlinkat(site->stage, staged, 0);
        i2_aside_undo(site, to);
    }
    if (to >= 0) close(to);
    close(from);
    free(s);
    return err;
}
