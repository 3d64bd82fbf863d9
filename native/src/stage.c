/* Large files, built in the stage and put in place when whole. Each step names the staged file by its
 * number, so that building goes on after a lost connection. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "apply.h"
#include "content.h"

static void name_of(uint64_t id, char out[I2_STAGE_NAME])
{
    snprintf(out, I2_STAGE_NAME, "%016llx", (unsigned long long)id);
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
    name_of(s->stage, name);
    snprintf(why, sizeof why, "%d %d", what, -err);
    if (unlinkat(site->stage, name, 0) < 0 && errno != ENOENT) {
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
    name_of(s->stage, name);
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

/* The staged file of a step, open for reading and writing. -1: there is none, the fault is noted, or
 * will be by STAGED. */
static int staged(struct i2_site *site, const struct i2_step *s)
{
    char name[I2_STAGE_NAME];
    if (site->staged_id == s->stage) {
        if (site->staged >= 0) return site->staged;
        if (site->spoilt) return -1;
    }
    i2_let_go_staged(site);
    name_of(s->stage, name);
    int fd = openat(site->stage, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && errno == ELOOP) {
        site->staged_id = s->stage;
        site->spoilt = 1;
        return -1;
    }
    if (fd < 0) {
        i2_fault(site, I2_AT_OPEN, -errno);
        return -1;
    }
    site->staged_id = s->stage;
    return site->staged = fd;
}

/* Whether st is the file that the source means. */
static int is_meant(const struct i2_step *s, const struct stat *st)
{
    if (s->op == I2_STAGE && (uint64_t)st->st_size != s->size) return 0;
    if (st->st_mtim.tv_sec != s->mtime_s) return 0;
    return st->st_mtim.tv_nsec == (long)s->mtime_ns || !st->st_mtim.tv_nsec;
}

/* Opens a regular file and nothing else: opening a device or a pipe can do something already. */
static int open_regular(struct i2_site *site, int dir, const char *name)
{
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0) return -errno;
    if (!S_ISREG(st.st_mode)) return -ESTALE;
    return i2_open_in(&site->k, dir, name, O_RDONLY | O_NONBLOCK | O_NOATIME);
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
        int fd = *err ? *err : open_regular(site, held->fd, name);
        if (fd < 0) *err = fd;
        else site->source = fd;
        site->source_path = path;
        site->source_len = s->path_len;
    }
    if (!*err && fstat(site->source, st) < 0) *err = -errno;
    if (!*err && !S_ISREG(st->st_mode)) *err = -ESTALE;
    if (!*err && !is_meant(s, st)) {
        *what = I2_AT_CHECK;
        *err = -ESTALE;
    }
    if (!*err) return site->source;
    i2_let_go_source(site);
    return -1;
}

/* ---------------------------------------------------------------------------- holes ----------- */

/* Zeros over the data in [at, end), for file systems that cannot punch. */
static int write_zeros(struct i2_site *site, int fd, uint64_t at, uint64_t end)
{
    int err = i2_buffer(site);
    if (err) return err;
    memset(site->buffer, 0, I2_BUFFER);
    while (at < end && !err) {
        off_t data = lseek(fd, (off_t)at, SEEK_DATA);
        if (data < 0 && errno == ENXIO) break;
        if (data > 0 && (uint64_t)data > at) {
            at = (uint64_t)data;
            continue;
        }
        size_t n = end - at < I2_BUFFER ? (size_t)(end - at) : I2_BUFFER;
        err = i2_write_at(fd, site->buffer, n, at);
        at += n;
    }
    return err;
}

static int make_hole(struct i2_site *site, int fd, uint64_t at, uint64_t span)
{
    struct stat st;
    if (fstat(fd, &st) < 0) return -errno;
    uint64_t size = (uint64_t)st.st_size, end = at + span;
    if (!span) return 0;
    if (end >= size) {
        /* Punching would leave the last block, of which only a part is in the file, and what XFS
         * allocated behind the end, expecting more to be written there. */
        if (at <= size && ftruncate(fd, (off_t)at) < 0) return -errno;
        return ftruncate(fd, (off_t)end) < 0 ? -errno : 0;
    }
    int how = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (fallocate(fd, how, (off_t)at, (off_t)span) == 0) return 0;
    return errno == EOPNOTSUPP || errno == ENOSYS ? write_zeros(site, fd, at, end) : -errno;
}

/* ---------------------------------------------------------------------------- copying --------- */

static int is_not_had(int err)
{
    return err == -EOPNOTSUPP || err == -EXDEV || err == -ENOSYS || err == -EINVAL || err == -ENOTTY ||
           err == -EPERM || err == -EBADF;
}

static int clone_range(struct i2_site *site, int from, uint64_t at, int to, uint64_t dest,
                       uint64_t span)
{
    struct stat st;
    if (site->no_clone) return -EOPNOTSUPP;
    if (fstat(to, &st) < 0) return -errno;
    uint64_t block = st.st_blksize > 0 ? (uint64_t)st.st_blksize : 4096;
    if (at % block || dest % block || span % block || !span) return -EOPNOTSUPP;
    struct file_clone_range range = {
        .src_fd = from, .src_offset = at, .src_length = span, .dest_offset = dest};
    if (ioctl(to, FICLONERANGE, &range) == 0) return 0;
    int err = -errno;
    if (is_not_had(err)) site->no_clone = 1;
    return err;
}

/* Copies bytes that are data. -ESTALE: the old file ends before they do. */
static int copy_data(struct i2_site *site, int from, uint64_t at, int to, uint64_t dest, uint64_t span)
{
    int err = clone_range(site, from, at, to, dest, span);
    if (!err || !is_not_had(err)) return err;
    while (span && !site->no_range && !i2_is_direct(site, span, dest)) {
        off_t in = (off_t)at, out = (off_t)dest;
        size_t want = span < 1u << 30 ? (size_t)span : 1u << 30;
        ssize_t n = copy_file_range(from, &in, to, &out, want, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && !is_not_had(-errno)) return -errno;
        if (n < 0) site->no_range = 1;
        if (n == 0) return -ESTALE;
        if (n > 0) {
            at += (uint64_t)n;
            dest += (uint64_t)n;
            span -= (uint64_t)n;
        }
    }
    if (span && (err = i2_buffer(site))) return err;
    while (span) {
        size_t want = span < I2_BUFFER ? (size_t)span : I2_BUFFER;
        ssize_t n = pread(from, site->buffer, want, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return n ? -errno : -ESTALE;
        if ((err = i2_write_large(site, to, site->buffer, (size_t)n, dest))) return err;
        at += (uint64_t)n;
        dest += (uint64_t)n;
        span -= (uint64_t)n;
    }
    return 0;
}

/* Copies a range, its holes as holes. */
static int copy_range(struct i2_site *site, int from, uint64_t at, int to, uint64_t dest, uint64_t span)
{
    while (span) {
        off_t data = lseek(from, (off_t)at, SEEK_DATA);
        uint64_t gap = 0;
        if (data < 0 && errno == ENXIO) gap = span;
        else if (data > 0 && (uint64_t)data > at) gap = (uint64_t)data - at;
        if (gap > span) gap = span;
        int err = gap ? make_hole(site, to, dest, gap) : 0;
        at += gap;
        dest += gap;
        span -= gap;
        if (!err && span) {
            off_t hole = lseek(from, (off_t)at, SEEK_HOLE);
            uint64_t n = hole > 0 && (uint64_t)hole > at ? (uint64_t)hole - at : span;
            if (n > span) n = span;
            err = copy_data(site, from, at, to, dest, n);
            at += n;
            dest += n;
            span -= n;
        }
        if (err) return err;
    }
    return 0;
}

/* ---------------------------------------------------------------------------- steps ----------- */

void i2_do_stage(struct i2_site *site, const struct i2_step *s)
{
    char name[I2_STAGE_NAME];
    struct stat st;
    int what, err, from = -1;
    i2_let_go_staged(site);
    name_of(s->stage, name);
    if (!(s->flags & I2_STEP_KEEP) && unlinkat(site->stage, name, 0) < 0 && errno != ENOENT) {
        i2_fault(site, I2_AT_CREATE, -errno);
        return;
    }
    if (s->flags & I2_STEP_DROP) return;
    if ((s->flags & I2_STEP_CLONE) && !(s->flags & I2_STEP_KEEP)) {
        from = source(site, s, &st, &what, &err);
        if (from < 0) {
            spoil(site, s, what, err);
            return;
        }
    }
    /* What is to be gone on with must be there: a file begun here would lack what came before. */
    int keep = s->flags & I2_STEP_KEEP;
    int flags = O_RDWR | O_NOFOLLOW | O_CLOEXEC | (keep ? 0 : O_CREAT | O_EXCL);
    int fd = openat(site->stage, name, flags, 0600);
    if (fd < 0) {
        spoil(site, s, I2_AT_CREATE, -errno);
        return;
    }
    site->staged = fd;
    site->staged_id = s->stage;
    if (from < 0 || keep) return;
    if (!site->no_clone && ioctl(fd, FICLONE, from) == 0) return;
    if (!site->no_clone && is_not_had(-errno)) site->no_clone = 1;
    err = copy_range(site, from, 0, fd, 0, (uint64_t)st.st_size);
    if (!err) return;
    unlinkat(site->stage, name, 0);
    spoil(site, s, I2_AT_WRITE, err);
}

void i2_do_write(struct i2_site *site, const struct i2_step *s)
{
    int fd = staged(site, s);
    if (fd < 0) return;
    int err = i2_write_large(site, fd, i2_step_data(s), s->data_len, s->size);
    if (err) spoil(site, s, I2_AT_WRITE, err);
}

void i2_do_copy(struct i2_site *site, const struct i2_step *s)
{
    struct stat st;
    int what, err;
    int to = staged(site, s);
    if (to < 0) return;
    int from = source(site, s, &st, &what, &err);
    if (from >= 0) {
        what = I2_AT_WRITE;
        err = s->rdev + s->span > (uint64_t)st.st_size
                  ? -ESTALE
                  : copy_range(site, from, s->rdev, to, s->size, s->span);
    }
    if (err) spoil(site, s, what, err);
}

void i2_do_hole(struct i2_site *site, const struct i2_step *s)
{
    int fd = staged(site, s);
    if (fd < 0) return;
    int err = make_hole(site, fd, s->size, s->span);
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

void i2_do_staged(struct i2_site *site, const struct i2_step *s)
{
    struct i2_held *held;
    struct statx now;
    char name[I2_NAME_LIMIT + 1], from[I2_STAGE_NAME];
    int what, err;
    name_of(s->stage, from);
    int fd = staged(site, s);
    if (fd < 0) {
        if (site->spoilt && spoilt(site, s, &what, &err)) {
            i2_fault(site, what, err);
            unlinkat(site->stage, from, 0);
        }
        i2_let_go_staged(site);
        return;
    }
    what = I2_AT_OPEN;
    err = i2_parent(site, i2_step_path(s), s->path_len, &held, name);
    if (!err) {
        what = I2_AT_WRITE;
        err = i2_statx(&site->k, fd, "", AT_EMPTY_PATH, &now);
        if (!err && now.stx_size != s->size && ftruncate(fd, (off_t)s->size) < 0) err = -errno;
    }
    if (!err) {
        what = I2_AT_CHECK;
        err = check(site, fd, s);
    }
    if (!err) {
        /* Writing moved the times; what statx said of them before is no news. */
        now.stx_mtime.tv_nsec = UINT32_MAX;
        i2_meta(site, fd, 0, s, &now, 0);
        what = I2_AT_NAME;
        if (!site->fatal) err = i2_place(site, held, name, from);
    }
    if (err) i2_fault(site, what, err);
    i2_let_go_staged(site);
    /* After a fatal fault the step is done again and needs the file; else nothing asks for it any more. */
    if (err && !site->fatal) unlinkat(site->stage, from, 0);
}
