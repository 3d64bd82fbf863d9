/* Large files, built in the stage and put in place when whole. Each step names the staged file by its
 * number, so that building goes on after a lost connection. What changes little of a file that cannot
 * be cloned is staged as a journal, see redo.c. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apply.h"
#include "aside.h"
#include "content.h"

void i2_staged_name(uint64_t id, int redo, char out[I2_STAGE_NAME])
{
    snprintf(out, I2_STAGE_NAME, "%016llx%s", (unsigned long long)id, redo ? I2_REDO_SUFFIX : "");
}

int i2_unstage(struct i2_site *site, uint64_t id)
{
    char name[I2_STAGE_NAME];
    int err = 0;
    for (int redo = 0; redo <= 1; redo++) {
        i2_staged_name(id, redo, name);
        if (unlinkat(site->stage, name, 0) < 0 && errno != ENOENT) err = -errno;
    }
    return err;
}

void i2_let_go_staged(struct i2_site *site)
{
    if (site->staged >= 0) close(site->staged);
    site->staged = -1;
    site->spoilt = 0;
}

void i2_let_go_source(struct i2_site *site)
{
    if (site->source >= 0) close(site->source);
    site->source = -1;
}

/* The staged file of the step cannot be built. A link takes its place that says why, for the STAGED
 * step to tell, whichever call that comes in. */
static void spoil(struct i2_site *site, const struct i2_step *s, int what, int err)
{
    char name[I2_STAGE_NAME], why[32];
    i2_let_go_staged(site);
    if (i2_is_fatal(err)) {
        i2_fault(site, what, err);
        return;
    }
    i2_staged_name(s->stage, 0, name);
    snprintf(why, sizeof why, "%d %d", what, -err);
    if (i2_unstage(site, s->stage)) {
        /* It would get its name after all: no step behind this one may be done. */
        i2_fault(site, what, -EIO);
        return;
    }
    site->staged_id = s->stage;
    site->spoilt = 1;
    /* Without links (vfat) the reason is told here, and STAGED finds nothing. */
    if (symlinkat(why, site->stage, name) < 0) i2_fault(site, what, err);
}

/* Whether the staged file of the step is spoilt; then why. */
static int spoilt(struct i2_site *site, const struct i2_step *s, int *what, int *err)
{
    char name[I2_STAGE_NAME], why[32];
    i2_staged_name(s->stage, 0, name);
    ssize_t n = readlinkat(site->stage, name, why, sizeof why - 1);
    if (n < 0) return 0;
    why[n] = 0;
    if (sscanf(why, "%d %d", what, err) != 2 || *err <= 0 || i2_is_fatal(-*err)) {
        *what = I2_AT_OPEN;
        *err = ELOOP;
    }
    *err = -*err;
    return 1;
}

/* Opens what is staged for reading and writing: the journal, where there is one. A descriptor, the
 * site's, or -errno. */
static int reopen(struct i2_site *site, uint64_t id)
{
    char name[I2_STAGE_NAME];
    i2_let_go_staged(site);
    for (int redo = 1; redo >= 0; redo--) {
        i2_staged_name(id, redo, name);
        int fd = openat(site->stage, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0 && errno != ENOENT) return -errno;
        if (fd < 0) continue;
        site->staged_id = id;
        site->redo = redo;
        return site->staged = fd;
    }
    return -ENOENT;
}

/* The staged file of a step, open for reading and writing. -1: there is none, the fault is noted, or
 * will be by STAGED. */
static int staged(struct i2_site *site, const struct i2_step *s)
{
    if (site->staged_id == s->stage) {
        if (site->staged >= 0) return site->staged;
        if (site->spoilt) return -1;
    }
    int fd = reopen(site, s->stage);
    if (fd == -ELOOP) {
        site->staged_id = s->stage;
        site->spoilt = 1;
    } else if (fd < 0) {
        i2_fault(site, I2_AT_OPEN, fd);
    }
    return fd < 0 ? -1 : fd;
}

int i2_is_meant(struct i2_site *site, const struct i2_step *s, int fd, const struct stat *st)
{
    if (s->op == I2_STAGE && (uint64_t)st->st_size != s->size) return 0;
    if (st->st_mtim.tv_sec == s->mtime_s && st->st_mtim.tv_nsec == (long)s->mtime_ns) return 1;
    if (st->st_mtim.tv_sec == s->mtime_s && !st->st_mtim.tv_nsec) return 1;
    if (site->shelf < 0 || site->shelf_empty) return 0;
    struct i2_bytes aside = {0};
    struct i2_entry e = {.mtime_s = st->st_mtim.tv_sec, .mtime_ns = (uint32_t)st->st_mtim.tv_nsec};
    if (!i2_aside_read(site->shelf, fd, "", AT_EMPTY_PATH, &aside)) i2_aside_lay_stat(&aside, &e);
    free(aside.p);
    return e.mtime_s == s->mtime_s && e.mtime_ns == s->mtime_ns;
}

int i2_open_regular(struct i2_site *site, int dir, const char *name, int flags)
{
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0) return -errno;
    if (!S_ISREG(st.st_mode)) return -ESTALE;
    return i2_open_in(&site->k, dir, name, flags | O_NONBLOCK | O_NOATIME);
}

/* The old file at a step's path, open for reading, with its stat. -1 with *what and *err. */
static int source(struct i2_site *site, const struct i2_step *s, struct stat *st, int *what, int *err)
{
    struct i2_held *held;
    char name[I2_NAME_LIMIT + 1];
    const uint8_t *path = i2_step_path(s);
    *what = I2_AT_OPEN;
    *err = 0;
    if (site->source < 0 || site->source_len != s->path_len ||
        memcmp(site->source_path, path, s->path_len)) {
        i2_let_go_source(site);
        *err = i2_parent(site, path, s->path_len, &held, name);
        int fd = *err ? *err : i2_open_regular(site, held->fd, name, O_RDONLY);
        if (fd < 0) *err = fd;
        else site->source = fd;
        site->source_path = path;
        site->source_len = s->path_len;
    }
    if (!*err && fstat(site->source, st) < 0) *err = -errno;
    if (!*err && !S_ISREG(st->st_mode)) *err = -ESTALE;
    if (!*err && !i2_is_meant(site, s, site->source, st)) {
        *what = I2_AT_CHECK;
        *err = -ESTALE;
    }
    if (!*err) return site->source;
    i2_let_go_source(site);
    return -1;
}

/* ---------------------------------------------------------------------------- steps ----------- */

int i2_new_staged(struct i2_site *site, uint64_t id, int redo)
{
    char name[I2_STAGE_NAME];
    i2_let_go_staged(site);
    i2_staged_name(id, redo, name);
    int fd = openat(site->stage, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_CREAT | O_EXCL, 0600);
    if (fd < 0) return -errno;
    site->staged_id = id;
    site->redo = redo;
    return site->staged = fd;
}

/* A clone of the old file, or a journal of what is to change in it, or a copy. */
static int begin_delta(struct i2_site *site, const struct i2_step *s, int from, const struct stat *st)
{
    int fd = i2_new_staged(site, s->stage, 0);
    if (fd < 0 || !i2_clone(site, from, fd)) return fd < 0 ? fd : 0;
    if (!i2_redo_pays(site, from, st)) return i2_copy_range(site, from, 0, fd, 0, (uint64_t)st->st_size);
    int err = i2_unstage(site, s->stage);
    return err ? err : i2_redo_begin(site, s, from);
}

void i2_do_stage(struct i2_site *site, const struct i2_step *s)
{
    struct stat st;
    int what = I2_AT_CREATE, err = 0;
    i2_let_go_staged(site);
    if (s->flags & I2_STEP_KEEP) {
        /* What is to be gone on with must be there: a file begun here would lack what came before. */
        err = reopen(site, s->stage);
        if (err < 0) spoil(site, s, what, err);
        return;
    }
    err = i2_unstage(site, s->stage);
    if (err) {
        i2_fault(site, what, err);
        return;
    }
    if (s->flags & I2_STEP_DROP) return;
    if (!(s->flags & I2_STEP_CLONE)) {
        err = i2_new_staged(site, s->stage, 0);
    } else {
        int from = source(site, s, &st, &what, &err);
        if (from >= 0) {
            what = I2_AT_WRITE;
            err = begin_delta(site, s, from, &st);
        }
    }
    if (err >= 0) return;
    i2_unstage(site, s->stage);
    spoil(site, s, what, err);
}

void i2_do_write(struct i2_site *site, const struct i2_step *s)
{
    int fd = staged(site, s);
    if (fd < 0) return;
    int err = site->redo ? i2_redo_note(site, s)
                         : i2_write_large(site, fd, i2_step_data(s), s->data_len, s->size);
    if (err) spoil(site, s, I2_AT_WRITE, err);
}

void i2_do_copy(struct i2_site *site, const struct i2_step *s)
{
    struct stat st;
    int what, err;
    int to = staged(site, s);
    if (to >= 0 && site->redo) {
        /* A journal holds what comes with the step alone. */
        to = i2_redo_build(site, &what);
        if (to < 0) spoil(site, s, what, to);
    }
    if (to < 0) return;
    int from = source(site, s, &st, &what, &err);
    if (from >= 0) {
        what = I2_AT_WRITE;
        err = s->rdev + s->span > (uint64_t)st.st_size
                  ? -ESTALE
                  : i2_copy_range(site, from, s->rdev, to, s->size, s->span);
    }
    if (err) spoil(site, s, what, err);
}

void i2_do_hole(struct i2_site *site, const struct i2_step *s)
{
    int fd = staged(site, s);
    if (fd < 0) return;
    int err = site->redo ? i2_redo_note(site, s) : i2_make_hole(site, fd, s->size, s->span);
    if (err) spoil(site, s, I2_AT_WRITE, err);
}

/* Reads the staged file back: 0, or -EBADMSG when it is not what the source had. */
static int check(struct i2_site *site, int fd, const struct i2_step *s)
{
    if (!(site->flags & I2_APPLY_VERIFY) || !i2_is_known(s->content)) return 0;
    uint8_t content[16];
    struct i2_reading r = {0};
    int err = i2_digest_open(&r, fd, s->size, 1, content);
    i2_reading_free(&r);
    if (err) return err;
    return memcmp(content, s->content, 16) ? -EBADMSG : 0;
}

int i2_finish_staged(struct i2_site *site, const struct i2_step *s, int *what)
{
    struct i2_held *held;
    struct statx now;
    char name[I2_NAME_LIMIT + 1], from[I2_STAGE_NAME];
    int fd = site->staged;
    *what = I2_AT_OPEN;
    int err = i2_parent(site, i2_step_path(s), s->path_len, &held, name);
    if (err) return err;
    *what = I2_AT_WRITE;
    err = i2_statx(&site->k, fd, "", AT_EMPTY_PATH, &now);
    if (!err && now.stx_size != s->size && ftruncate(fd, (off_t)s->size) < 0) err = -errno;
    if (err) return err;
    *what = I2_AT_CHECK;
    err = check(site, fd, s);
    if (err) return err;
    /* Writing moved the times; what statx said of them before is no news. */
    now.stx_mtime.tv_nsec = UINT32_MAX;
    uint32_t locks = i2_meta(site, fd, 0, s, &now, 0);
    if (site->fatal) return 0;
    *what = I2_AT_NAME;
    i2_staged_name(s->stage, 0, from);
    err = i2_last_at(site, site->stage, from, held->fd, name);
    if (!err) err = i2_place(site, held, name, from, s->size);
    if (!err) i2_lock(site, fd, locks);
    return err;
}

void i2_do_staged(struct i2_site *site, const struct i2_step *s)
{
    int what, err;
    int fd = staged(site, s);
    if (fd >= 0) {
        err = site->redo ? i2_redo_staged(site, s, &what) : i2_finish_staged(site, s, &what);
        if (err) i2_fault(site, what, err);
        /* After a fatal fault the step is done again and needs the file; else nothing asks for it any
         * more. */
        if (err && !site->fatal) i2_unstage(site, s->stage);
        if (err && site->staged >= 0) i2_aside_undo(site, site->staged);
        i2_let_go_staged(site);
        return;
    }
    if (site->spoilt && spoilt(site, s, &what, &err)) {
        i2_fault(site, what, err);
        i2_unstage(site, s->stage);
    }
    i2_let_go_staged(site);
}
