/* Making files, symlinks and nodes, and giving what was made its name. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apply.h"
#include "aside.h"
#include "content.h"
#include "xattr.h"

int i2_write_at(int fd, const uint8_t *data, size_t len, uint64_t at)
{
    while (len) {
        ssize_t n = pwrite(fd, data, len, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return n ? -errno : -EIO;
        data += n;
        len -= (size_t)n;
        at += (uint64_t)n;
    }
    return 0;
}

/* ---------------------------------------------------------------------------- final name ------ */

static int is_stage(const struct i2_site *site, const struct stat *st)
{
    return st->st_ino == site->stage_ino && st->st_dev == site->dev;
}

/* Moves what is in the way into the stage, puts staged there, then takes the old one away. */
static int swap_in(struct i2_site *site, const struct i2_held *held, const char *name,
                   const char *staged)
{
    struct stat st;
    if (fstatat(held->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && is_stage(site, &st)) return -EBUSY;
    i2_forget(site);
    char aside[I2_STAGE_NAME];
    const char *old = staged;
    if (renameat2(site->stage, staged, held->fd, name, RENAME_EXCHANGE) < 0) {
        if (errno != EINVAL && errno != ENOSYS) return -errno;
        i2_unique_name(site, aside);
        if (renameat(held->fd, name, site->stage, aside) < 0) return -errno;
        if (renameat(site->stage, staged, held->fd, name) < 0) {
            int err = -errno;
            renameat(site->stage, aside, held->fd, name);
            return err;
        }
        old = aside;
    }
    int err = i2_remove(site, site->stage, old);
    if (err) i2_fault(site, I2_AT_REMOVE, err);
    return 0;
}

int i2_place(struct i2_site *site, const struct i2_held *held, const char *name, const char *staged,
             uint64_t size)
{
    struct i2_toll toll;
    char key[I2_ASIDE_NAME];
    int err = i2_toll_of(site, held->fd, name, size, &toll);
    i2_aside_doom(site, held->fd, name, key);
    for (int again = 0; !err; again++) {
        if (renameat(site->stage, staged, held->fd, name) == 0) {
            i2_aside_drop(site, key);
            break;
        }
        err = -errno;
        if (err == -EISDIR || err == -ENOTDIR || err == -ENOTEMPTY || err == -EEXIST)
            err = swap_in(site, held, name, staged);
        if (!err) break;
        if (again == I2_OBSTACLES || !i2_unlock(site, err, held->fd, name)) return err;
        err = 0;
    }
    if (!err) i2_paid(site, held, &toll);
    return err;
}

/* ---------------------------------------------------------------------------- a file ---------- */

/* A file on its way: under its final name where nobody sees that yet, else without a name where the
 * file system can do that, else in the stage. */
struct draft {
    int fd;
    int named;                  /* has its final name */
    char staged[I2_STAGE_NAME]; /* "" while it has no name in the stage */
};

#define NEW_FILE (O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC)

static int begin(struct i2_site *site, struct i2_held *held, const char *name, struct draft *d,
                 unsigned mode)
{
    d->staged[0] = 0;
    d->fd = held->fresh ? openat(held->fd, name, NEW_FILE, mode) : -1;
    d->named = d->fd >= 0;
    /* Where that failed the usual way does it, or tells what is wrong. */
    if (d->named) return 0;
    for (int again = 0; !site->no_tmpfile; again++) {
        d->fd = openat(held->fd, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, mode);
        if (d->fd >= 0) return 0;
        /* ENOENT: the held directory was removed. EISDIR: a kernel that does not know the flag. */
        int err = -errno;
        if (err == -EOPNOTSUPP || err == -EISDIR || err == -EINVAL) site->no_tmpfile = 1;
        else if (again == I2_OBSTACLES || !i2_unlock(site, err, held->fd, ".")) return err;
    }
    i2_unique_name(site, d->staged);
    d->fd = openat(site->stage, d->staged, NEW_FILE, mode);
    return d->fd < 0 ? -errno : 0;
}

/* Whether nobody else may say, from one file to the next, what a directory hands on (chmod(2), acl(5)). */
static int is_own(int dir)
{
    struct stat st;
    return fstat(dir, &st) == 0 && st.st_uid == geteuid();
}

/* What a file that was begun with a mode is by now. In a directory of our own whose new files have no
 * attributes, and so no default ACL, all are given the same owner, and the mode less the umask. */
static int begun(struct i2_site *site, struct i2_held *held, const struct draft *d, unsigned mode,
                 struct statx *now)
{
    int told = !d->staged[0] && held->bare == 1;
    memset(now, 0, sizeof *now);
    int err = told ? 0 : i2_statx(&site->k, d->fd, "", AT_EMPTY_PATH, now);
    if (told) {
        now->stx_uid = held->uid;
        now->stx_gid = held->gid;
        now->stx_mode = (uint16_t)(mode & ~site->umask);
    } else if (!err && !d->staged[0] && held->bare < 0) {
        const struct i2_bearer of = {.fd = d->fd};
        held->bare = is_own(held->fd) && !i2_xattr_any(&of);
        held->uid = now->stx_uid;
        held->gid = now->stx_gid;
    }
    now->stx_mtime.tv_nsec = UINT32_MAX; /* never what is wanted */
    return err;
}

static int link_to(struct i2_site *site, int fd, int dir, const char *name)
{
    if (!site->no_empty_link) {
        if (linkat(fd, "", dir, name, AT_EMPTY_PATH) == 0) return 0;
        /* ENOENT is what a process without CAP_DAC_READ_SEARCH gets. */
        if (errno != ENOENT && errno != EINVAL) return -errno;
        site->no_empty_link = 1;
    }
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return linkat(AT_FDCWD, path, dir, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

static int link_to_stage(struct i2_site *site, struct draft *d)
{
    i2_unique_name(site, d->staged);
    int err = link_to(site, d->fd, site->stage, d->staged);
    if (err) d->staged[0] = 0;
    return err;
}

/* locks: what is to be done when it has its name, so that it cannot wait for that. */
static int give_name(struct i2_site *site, const struct i2_held *held, struct draft *d,
                     const char *name, uint64_t size, uint32_t locks)
{
    int err = 0;
    for (int again = 0; !d->named && !d->staged[0]; again++) {
        err = link_to(site, d->fd, held->fd, name);
        if (!err) break;
        if (err == -EEXIST) err = link_to_stage(site, d);
        if (err && (again == I2_OBSTACLES || !i2_unlock(site, err, held->fd, "."))) return err;
    }
    if (!d->staged[0]) {
        i2_gained(site, held);
        return 0;
    }
    if (!locks && i2_can_wait(site, held, name)) return i2_wait(site, held, name, d->staged, size);
    err = i2_last(site, d->fd);
    return err ? err : i2_place(site, held, name, d->staged, size);
}

static int is_right(const struct i2_step *s)
{
    struct i2_reading r = {0};
    uint8_t content[16];
    if (!i2_is_known(s->content) || (s->flags & I2_STEP_SPARSE)) return 1;
    int err = i2_digest_bytes(&r, i2_step_data(s), s->data_len, content);
    i2_reading_free(&r);
    return !err && !memcmp(content, s->content, 16);
}

void i2_do_put_file(struct i2_site *site, const struct i2_step *s)
{
    struct i2_held *held;
    struct draft d;
    struct statx now;
    char name[I2_NAME_LIMIT + 1];
    if ((site->flags & I2_APPLY_VERIFY) && !is_right(s)) {
        i2_fault(site, I2_AT_CHECK, -EBADMSG);
        return;
    }
    int err = i2_parent(site, i2_step_path(s), s->path_len, &held, name);
    if (err) {
        i2_fault(site, I2_AT_OPEN, err);
        return;
    }
    /* Nobody sees it before it has its name: it may have its mode from the beginning. Set-id bits come
     * after the owner, which clears them. */
    unsigned mode = s->mode & 07000 || s->mode & site->umask ? 0600 : s->mode;
    err = begin(site, held, name, &d, mode);
    if (err) {
        i2_fault(site, I2_AT_CREATE, err);
        return;
    }
    err = s->flags & I2_STEP_SPARSE ? (ftruncate(d.fd, (off_t)s->size) < 0 ? -errno : 0)
                                    : i2_write_at(d.fd, i2_step_data(s), s->data_len, 0);
    int what = I2_AT_WRITE;
    if (!err) {
        err = begun(site, held, &d, mode, &now);
        uint32_t locks = err ? 0 : i2_meta(site, d.fd, 0, s, &now, !d.staged[0] && held->bare == 1);
        if (!err && !site->fatal) {
            what = I2_AT_NAME;
            err = give_name(site, held, &d, name, s->size, locks);
            if (!err) i2_lock(site, d.fd, locks);
        }
    }
    if (err) i2_fault(site, what, err);
    if ((err || site->fatal) && d.named) unlinkat(held->fd, name, 0);
    if ((err || site->fatal) && d.staged[0]) unlinkat(site->stage, d.staged, 0);
    if (err || site->fatal) i2_aside_undo(site, d.fd);
    close(d.fd);
}

/* ---------------------------------------------------------------------------- links, nodes ---- */

/* Metadata and name for what was made in the stage, or, with staged "", under its name in a fresh
 * directory; takes it away when that fails. */
static void dress_and_place(struct i2_site *site, const struct i2_step *s, const struct i2_held *held,
                            const char *name, const char *staged)
{
    struct statx now;
    int what = I2_AT_CREATE, dir = staged[0] ? site->stage : held->fd;
    const char *made = staged[0] ? staged : name;
    int fd = i2_open_in(&site->k, dir, made, O_PATH | O_NOFOLLOW);
    int err = fd < 0 ? fd : i2_statx(&site->k, fd, "", AT_EMPTY_PATH, &now);
    if (!err) {
        i2_meta(site, fd, 1, s, &now, 0);
        what = I2_AT_NAME;
        if (!site->fatal && staged[0]) err = i2_place(site, held, name, staged, 0);
        else if (!site->fatal) i2_gained(site, held);
    }
    if (err) i2_fault(site, what, err);
    if (err || site->fatal) unlinkat(dir, made, 0);
    if (fd >= 0 && (err || site->fatal)) i2_aside_undo(site, fd);
    if (fd >= 0) close(fd);
}

void i2_do_put_link(struct i2_site *site, const struct i2_step *s)
{
    struct i2_held *held;
    char name[I2_NAME_LIMIT + 1], staged[I2_STAGE_NAME], target[PATH_MAX];
    int err = i2_parent(site, i2_step_path(s), s->path_len, &held, name);
    if (err) {
        i2_fault(site, I2_AT_OPEN, err);
        return;
    }
    memcpy(target, i2_step_other(s), s->other_len);
    target[s->other_len] = 0;
    staged[0] = 0;
    if (!held->fresh || symlinkat(target, held->fd, name) < 0) i2_unique_name(site, staged);
    if (staged[0] && symlinkat(target, site->stage, staged) < 0) i2_fault(site, I2_AT_CREATE, -errno);
    else dress_and_place(site, s, held, name, staged);
}

void i2_do_put_node(struct i2_site *site, const struct i2_step *s)
{
    static const mode_t types[] = {
        [I2_CHR] = S_IFCHR, [I2_BLK] = S_IFBLK, [I2_FIFO] = S_IFIFO, [I2_SOCK] = S_IFSOCK};
    struct i2_held *held;
    char name[I2_NAME_LIMIT + 1], staged[I2_STAGE_NAME];
    int err = i2_parent(site, i2_step_path(s), s->path_len, &held, name);
    if (err) {
        i2_fault(site, I2_AT_OPEN, err);
        return;
    }
    staged[0] = 0;
    mode_t type = types[s->kind] | 0600;
    dev_t rdev = s->kind == I2_CHR || s->kind == I2_BLK ? (dev_t)s->rdev : 0;
    if (!held->fresh || mknodat(held->fd, name, type, rdev) < 0) i2_unique_name(site, staged);
    err = staged[0] && mknodat(site->stage, staged, type, rdev) < 0 ? -errno : 0;
    /* An empty file stands for what may not be made: the rest is kept aside. */
    if (err && (site->flags & I2_APPLY_ASIDE) && i2_aside_takes(site, err))
        err = mknodat(site->stage, staged, S_IFREG | 0600, 0) < 0 ? -errno : 0;
    if (err) i2_fault(site, I2_AT_CREATE, err);
    else dress_and_place(site, s, held, name, staged);
}
