/* Owner, mode, extended attributes, times. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apply.h"
#include "aside.h"
#include "inode.h"
#include "records.h"
#include "xattr.h"

#define ACL_GROUP_OBJ 4 /* posix_acl.h of the kernel */
#ifndef STATX_ATTR_IMMUTABLE
#define STATX_ATTR_IMMUTABLE 0x10
#define STATX_ATTR_APPEND 0x20
#endif

static int set_owner(struct i2_site *site, int fd, const struct i2_step *s, const struct statx *now)
{
    if (s->uid == I2_UNOWNED || (now->stx_uid == s->uid && now->stx_gid == s->gid)) return 0;
    if (site->flags & I2_APPLY_NO_OWNER) return -EPERM;
    if (fchownat(fd, "", s->uid, s->gid, AT_EMPTY_PATH) == 0) return 1;
    int err = -errno;
    if (!i2_aside_takes(site, err)) i2_fault(site, I2_AT_OWNER, err);
    return err;
}

/* A file system sets a time that it cannot hold to the nearest that it can, and says nothing: ext4 ends in
 * 2446, XFS in 2486, and inodes of 128 bytes in 2038. */
static int is_held(struct i2_site *site, int fd, const struct i2_step *s)
{
    struct statx st;
    if (s->mtime_s >= 0 && s->mtime_s <= INT32_MAX) return 1;
    return i2_statx(&site->k, fd, "", AT_EMPTY_PATH, &st) || st.stx_mtime.tv_sec == s->mtime_s;
}

/* The same, and also where a file system counts in whole seconds. */
static int is_rounded(struct i2_site *site, int fd, const struct i2_step *s)
{
    struct statx now;
    int far = s->mtime_s < 0 || s->mtime_s > INT32_MAX;
    if (!far && (!s->mtime_ns || site->fine_times)) return 0;
    if (i2_statx(&site->k, fd, "", AT_EMPTY_PATH, &now)) return 0;
    if (s->mtime_ns && now.stx_mtime.tv_nsec == s->mtime_ns) site->fine_times = 1;
    return now.stx_mtime.tv_sec != s->mtime_s || now.stx_mtime.tv_nsec != s->mtime_ns;
}

/* A mode beside an ACL has the mask where the group's rights would be (acl(5)): without the ACL it would
 * lend them to the group. */
static unsigned without_acl(const struct i2_bytes *aside, unsigned mode)
{
    static const char name[] = "system.posix_acl_access";
    struct {
        uint16_t tag, perm;
        uint32_t id;
    } entry;
    uint32_t len = 0;
    const uint8_t *acl = i2_record_find(aside->p, aside->len, name, sizeof name - 1, &len);
    for (uint32_t at = 4; acl && at + sizeof entry <= len; at += sizeof entry) {
        memcpy(&entry, acl + at, sizeof entry);
        if (entry.tag == ACL_GROUP_OBJ) mode &= ~070u | (unsigned)(entry.perm & 7) << 3;
    }
    return mode;
}

uint32_t i2_meta(struct i2_site *site, int fd, int path_only, const struct i2_step *s,
                 const struct statx *now, int bare)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    uint32_t locks = 0;
    const struct i2_bearer of = {.fd = path_only ? -1 : fd,
                                 .path = path,
                                 .follow = 1,
                                 .unowned = s->uid == I2_UNOWNED,
                                 .locks = &locks};

    const int takes = i2_aside_takes(site, -EPERM);
    struct i2_bytes aside = {0};
    uint32_t what = s->kind > I2_SYMLINK && i2_kind(now->stx_mode) != s->kind ? I2_ASIDE_NODE : 0;

    int owner = set_owner(site, fd, s, now);
    unsigned mode = s->mode;
    if (owner < 0) what |= I2_ASIDE_OWNER;
    if (owner < 0 && (mode & (S_ISUID | S_ISGID))) {
        /* With another owner than the source's these bits would lend the wrong person's rights. */
        mode &= ~(unsigned)(S_ISUID | S_ISGID);
        what |= I2_ASIDE_MODE;
        if (!takes && (site->flags & I2_APPLY_NO_OWNER)) i2_fault(site, I2_AT_MODE, -EPERM);
    }
    /* A change of owner clears set-id bits. */
    unsigned left = now->stx_mode & (owner > 0 ? 01777u : 07777u);
    if (s->kind != I2_SYMLINK && left != mode) {
        if ((path_only ? chmod(path, mode) : fchmod(fd, mode)) < 0) {
            if (i2_aside_takes(site, -errno)) what |= I2_ASIDE_MODE;
            else i2_fault(site, I2_AT_MODE, -errno);
        }
    }
    if (!(s->flags & I2_STEP_NO_XATTR)) {
        int err = i2_xattr_apply(&of, i2_step_xattrs(s), s->xattr_len, bare, takes ? &aside : NULL);
        if (err) i2_fault(site, I2_AT_XATTR, err);
        unsigned less = without_acl(&aside, mode);
        if (less != mode) {
            if ((path_only ? chmod(path, less) : fchmod(fd, less)) < 0) i2_fault(site, I2_AT_MODE, -errno);
            what |= I2_ASIDE_MODE;
        }
    }
    if (now->stx_mtime.tv_sec != s->mtime_s || now->stx_mtime.tv_nsec != s->mtime_ns) {
        struct timespec ts[2] = {{.tv_nsec = UTIME_OMIT},
                                 {.tv_sec = s->mtime_s, .tv_nsec = s->mtime_ns}};
        int err = (path_only ? utimensat(AT_FDCWD, path, ts, 0) : futimens(fd, ts)) < 0 ? -errno : 0;
        if (takes && (err ? i2_aside_takes(site, err) : is_rounded(site, fd, s))) what |= I2_ASIDE_MTIME;
        else if (err) i2_fault(site, I2_AT_TIMES, err);
        else if (!takes && !is_held(site, fd, s)) i2_fault(site, I2_AT_TIMES, -ERANGE);
    }
    i2_aside_keep(site, fd, s, &aside, what);
    free(aside.p);
    return locks;
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
        /* The step says what it is to have of them, or leaves them alone. */
        if (now.stx_attributes & (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND))
            i2_open_up(site, fd, I2_INODE_LOCKS, s->flags & I2_STEP_NO_XATTR);
        i2_lock(site, fd, i2_meta(site, fd, 1, s, &now, 0));
        /* What new files in it inherit may be another thing now. */
        if (s->kind == I2_DIR) i2_forget(site);
    }
    close(fd);
}
