/* Owner, mode, extended attributes, times. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "apply.h"
#include "xattr.h"

#ifndef STATX_ATTR_IMMUTABLE
#define STATX_ATTR_IMMUTABLE 0x10
#define STATX_ATTR_APPEND 0x20
#endif

/* ext4 says ENOSPC of attributes that do not fit beside an inode, however empty the disk is. */
static int too_large(struct i2_site *site, int err)
{
    struct statfs fs;
    if (err != -ENOSPC || fstatfs(site->root, &fs) < 0) return err;
    return fs.f_bavail > 64 ? -E2BIG : err;
}

static int set_owner(struct i2_site *site, int fd, const struct i2_step *s, const struct statx *now)
{
    if (now->stx_uid == s->uid && now->stx_gid == s->gid) return 0;
    if (site->flags & I2_APPLY_NO_OWNER) return -EPERM;
    if (fchownat(fd, "", s->uid, s->gid, AT_EMPTY_PATH) == 0) return 1;
    int err = -errno;
    i2_fault(site, I2_AT_OWNER, err);
    return err;
}

void i2_meta(struct i2_site *site, int fd, int path_only, const struct i2_step *s,
             const struct statx *now, int bare)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const struct i2_bearer of = {.fd = path_only ? -1 : fd, .path = path, .follow = 1};

    int owner = set_owner(site, fd, s, now);
    unsigned mode = s->mode;
    if (owner < 0 && (mode & (S_ISUID | S_ISGID))) {
        /* With another owner than the source's these bits would lend the wrong person's rights. */
        mode &= ~(unsigned)(S_ISUID | S_ISGID);
        if (site->flags & I2_APPLY_NO_OWNER) i2_fault(site, I2_AT_MODE, -EPERM);
    }
    /* A change of owner clears set-id bits. */
    unsigned left = now->stx_mode & (owner > 0 ? 01777u : 07777u);
    if (s->kind != I2_SYMLINK && left != mode) {
        if ((path_only ? chmod(path, mode) : fchmod(fd, mode)) < 0) i2_fault(site, I2_AT_MODE, -errno);
    }
    if (!(s->flags & I2_STEP_NO_XATTR)) {
        int err = i2_xattr_apply(&of, i2_step_xattrs(s), s->xattr_len, bare);
        if (err) i2_fault(site, I2_AT_XATTR, too_large(site, err));
    }
    if (now->stx_mtime.tv_sec != s->mtime_s || now->stx_mtime.tv_nsec != s->mtime_ns) {
        struct timespec ts[2] = {{.tv_nsec = UTIME_OMIT},
                                 {.tv_sec = s->mtime_s, .tv_nsec = s->mtime_ns}};
        if ((path_only ? utimensat(AT_FDCWD, path, ts, 0) : futimens(fd, ts)) < 0)
            i2_fault(site, I2_AT_TIMES, -errno);
    }
}

void i2_do_set_meta(struct i2_site *site, const struct i2_step *s)
{
    struct i2_held *held = NULL;
    char name[I2_NAME_LIMIT + 1] = ".";
    int err = s->path_len ? i2_parent(site, i2_step_path(s), s->path_len, &held, name) : 0;
    int dir = held ? held->fd : site->root;
    int fd = err ? err : i2_open_in(&site->k, dir, name, O_PATH | O_NOFOLLOW);
    if (fd < 0) {
        i2_fault(site, I2_AT_OPEN, fd);
        return;
    }
    struct statx now;
    err = i2_statx(&site->k, fd, "", AT_EMPTY_PATH, &now);
    /* openat2 sees mounts; a btrfs subvolume is only told by its device. */
    if (!err && i2_statx_dev(&now) != site->dev) err = -EXDEV;
    if (!err && i2_kind(now.stx_mode) != s->kind)
        err = s->kind == I2_DIR ? -ENOTDIR : S_ISDIR(now.stx_mode) ? -EISDIR : -ESTALE;
    if (err) {
        i2_fault(site, I2_AT_OPEN, err);
    } else {
        if (held && (now.stx_attributes & (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND)))
            i2_unlock(site, dir, name);
        i2_meta(site, fd, 1, s, &now, 0);
        /* What new files in it inherit may be another thing now. */
        if (s->kind == I2_DIR) i2_forget(site);
    }
    close(fd);
}
