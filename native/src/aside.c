/* What is kept aside, written, read, taken away. See aside.h. */
#define _GNU_SOURCE
#include "aside.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "apply.h"
#include "content.h"
#include "inode.h"
#include "records.h"
#include "shelf.h"

#ifndef FUSE_SUPER_MAGIC
#define FUSE_SUPER_MAGIC 0x65735546
#endif
#ifndef EXFAT_SUPER_MAGIC
#define EXFAT_SUPER_MAGIC 0x2011BAB0
#endif
#define HANDLE_MAX 64 /* bytes of a handle; those of local file systems have 8 to 40 */
#define PASSING 't'   /* begins the name of what is being written */

/* ---------------------------------------------------------------------------- names ----------- */

/* struct file_handle with room. */
struct handle {
    unsigned len;
    int type;
    uint8_t bytes[HANDLE_MAX];
};

int i2_aside_name(int at, const char *path, int flags, char out[I2_ASIDE_NAME])
{
    struct handle h = {.len = HANDLE_MAX};
    int mount;
    if (name_to_handle_at(at, path, (struct file_handle *)&h, &mount, flags) < 0)
        return errno == EOVERFLOW ? -EOPNOTSUPP : -errno;
    int n = snprintf(out, I2_ASIDE_NAME, "%08x", (unsigned)h.type);
    for (unsigned i = 0; i < h.len; i++)
        n += snprintf(out + n, I2_ASIDE_NAME - (size_t)n, "%02x", h.bytes[i]);
    return 0;
}

/* The handle that a name stands for; 0 where it is none. */
static int handle_of(const char *name, struct handle *h)
{
    size_t len = strlen(name);
    unsigned byte, type;
    if (len < 10 || len % 2 || len / 2 - 4 > HANDLE_MAX || sscanf(name, "%8x", &type) != 1) return 0;
    h->type = (int)type;
    h->len = (unsigned)len / 2 - 4;
    for (unsigned i = 0; i < h->len; i++) {
        if (sscanf(name + 8 + 2 * i, "%2x", &byte) != 1) return 0;
        h->bytes[i] = (uint8_t)byte;
    }
    return 1;
}

int64_t i2_aside_able(int fd)
{
    char name[I2_ASIDE_NAME];
    struct statfs fs;
    if (fstatfs(fd, &fs) < 0) return -errno;
    /* These count their inodes anew with each mount. */
    if (fs.f_type == MSDOS_SUPER_MAGIC || fs.f_type == EXFAT_SUPER_MAGIC || fs.f_type == FUSE_SUPER_MAGIC)
        return 0;
    return i2_aside_name(fd, "", AT_EMPTY_PATH, name) == 0;
}

/* ---------------------------------------------------------------------------- reading --------- */

static int is_named(const uint8_t *name, size_t len, const char *as)
{
    return len == strlen(as) && !memcmp(name, as, len);
}

static int is_stat(const uint8_t *value, uint32_t len, struct i2_aside_stat *st)
{
    if (!value || len != sizeof *st) return 0;
    memcpy(st, value, sizeof *st);
    /* What no entry can be, a disk has spoilt. */
    int node = !(st->what & I2_ASIDE_NODE) || (st->kind > I2_SYMLINK && st->kind <= I2_SOCK);
    return node && st->mode <= 07777 && st->mtime_ns < 1000000000u;
}

int i2_aside_read(int shelf, int at, const char *path, int flags, struct i2_bytes *out)
{
    char key[I2_ASIDE_NAME];
    struct stat st;
    out->len = 0;
    int err = i2_aside_name(at, path, flags, key);
    if (err) return err == -EOPNOTSUPP ? 0 : err;
    int fd = openat(shelf, key, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT ? 0 : -errno;
    if (fstat(fd, &st) < 0) err = -errno;
    else if (st.st_size > I2_XATTR_TOTAL) st.st_size = 0;
    if (!err) err = i2_bytes_room(out, (size_t)st.st_size);
    int64_t got = err ? err : i2_read_at(fd, out->p, (size_t)st.st_size, 0);
    close(fd);
    if (got < 0) return (int)got;
    if (i2_xattr_check(out->p, (size_t)got)) out->len = (size_t)got;
    return 0;
}

/* What is wanted of an inode where it has what is known to be refused; the flags that lock it are set
 * last, and may be missing. */
static int lay_inode(const uint8_t *value, uint32_t len, struct i2_bytes *xattrs)
{
    struct i2_inode pair[2], now = {0};
    const size_t name_len = sizeof I2_INODE_NAME - 1;
    uint32_t found_len;
    if (len != sizeof pair || !i2_inode_check(value, sizeof pair[0])) return 0;
    memcpy(pair, value, sizeof pair);
    const uint8_t *found = i2_record_find(xattrs->p, xattrs->len, I2_INODE_NAME, name_len, &found_len);
    if (found && found_len == sizeof now) memcpy(&now, found, sizeof now);
    if (now.project != pair[1].project || (now.flags ^ pair[1].flags) & ~I2_INODE_LOCKS) return 0;
    return i2_record_put(xattrs, I2_INODE_NAME, name_len, &pair[0], sizeof pair[0]);
}

int i2_aside_lay(const struct i2_bytes *aside, struct i2_bytes *xattrs, int unowned)
{
    struct i2_record r;
    const uint8_t *name, *value;
    uint32_t len;
    int err = 0;
    for (size_t at = 0; at < aside->len && !err;) {
        at = i2_record_at(aside->p, at, &r, &name, &value);
        if (is_named(name, r.name_len, I2_ASIDE_STAT)) continue;
        if (unowned && i2_xattr_secures((const char *)name, r.name_len)) continue;
        if (is_named(name, r.name_len, I2_ASIDE_FLAGS))
            err = lay_inode(value, r.value_len, xattrs);
        else if (!i2_record_find(xattrs->p, xattrs->len, name, r.name_len, &len))
            err = i2_record_put(xattrs, name, r.name_len, value, r.value_len);
    }
    return err;
}

void i2_aside_lay_stat(const struct i2_bytes *aside, struct i2_entry *e)
{
    struct i2_aside_stat st;
    uint32_t len;
    const uint8_t *value =
        i2_record_find(aside->p, aside->len, I2_ASIDE_STAT, sizeof I2_ASIDE_STAT - 1, &len);
    if (!is_stat(value, len, &st)) return;
    if ((st.what & I2_ASIDE_NODE) && e->kind == I2_FILE && !e->size) {
        e->kind = (uint8_t)st.kind;
        e->rdev = st.rdev;
    }
    if ((st.what & I2_ASIDE_OWNER) && e->uid == st.real_uid && e->gid == st.real_gid) {
        e->uid = st.uid;
        e->gid = st.gid;
    }
    if ((st.what & I2_ASIDE_MODE) && e->mode == st.real_mode) e->mode = st.mode;
    if ((st.what & I2_ASIDE_MTIME) && e->mtime_s == st.real_mtime_s && e->mtime_ns == st.real_mtime_ns) {
        e->mtime_s = st.mtime_s;
        e->mtime_ns = st.mtime_ns;
    }
}

int64_t i2_aside_entry(int fd, int shelf, uint8_t *entry, size_t len)
{
    struct i2_bytes aside = {0};
    struct i2_entry e;
    if (len < sizeof e) return -EINVAL;
    if (shelf < 0) return 0;
    int err = i2_aside_read(shelf, fd, "", AT_EMPTY_PATH, &aside);
    memcpy(&e, entry, sizeof e);
    int unowned = e.uid == I2_UNOWNED;
    i2_aside_lay_stat(&aside, &e);
    if (unowned) i2_entry_disown(&e);
    memcpy(entry, &e, sizeof e);
    free(aside.p);
    return err;
}

/* ---------------------------------------------------------------------------- writing --------- */

int i2_aside_takes(const struct i2_site *site, int err)
{
    return (site->flags & (I2_APPLY_ASIDE | I2_APPLY_LOSE)) && i2_xattr_refuses(err);
}

static int write_whole(struct i2_site *site, const char *key, const struct i2_bytes *records)
{
    char passing[I2_STAGE_NAME];
    if (!i2_xattr_check(records->p, records->len)) {
        /* Attributes up to the limits, and records of our own beside them: it would not be read again. */
        unlinkat(site->shelf, key, 0);
        return -E2BIG;
    }
    i2_unique_name(site, passing); /* begins with PASSING */
    int fd = openat(site->shelf, passing, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) return -errno;
    struct stat old;
    int err = i2_write_at(fd, records->p, records->len, 0);
    /* What it replaces may be all that is durable. */
    if (!err && fstatat(site->shelf, key, &old, AT_SYMLINK_NOFOLLOW) == 0) err = i2_last(site, fd);
    close(fd);
    if (!err && renameat(site->shelf, passing, site->shelf, key) < 0) err = -errno;
    if (err) unlinkat(site->shelf, passing, 0);
    else site->shelf_empty = 0;
    return err;
}

static int fill_stat(struct i2_site *site, int fd, const struct i2_step *s, uint32_t what,
                     struct i2_bytes *records)
{
    struct statx now;
    int err = i2_statx(&site->k, fd, "", AT_EMPTY_PATH, &now);
    if (err) return err;
    const struct i2_aside_stat st = {
        .what = what, .kind = s->kind, .mode = s->mode, .uid = s->uid, .gid = s->gid,
        .mtime_s = s->mtime_s, .mtime_ns = s->mtime_ns, .rdev = s->rdev,
        .real_mode = now.stx_mode & 07777, .real_uid = now.stx_uid, .real_gid = now.stx_gid,
        .real_mtime_s = now.stx_mtime.tv_sec, .real_mtime_ns = now.stx_mtime.tv_nsec};
    return i2_record_put(records, I2_ASIDE_STAT, sizeof I2_ASIDE_STAT - 1, &st, sizeof st);
}

/* What was aside of the attributes, where the step leaves them alone. */
static int keep_old(struct i2_site *site, int fd, struct i2_bytes *records)
{
    struct i2_bytes old = {0};
    struct i2_record r;
    const uint8_t *name, *value;
    int err = i2_aside_read(site->shelf, fd, "", AT_EMPTY_PATH, &old);
    for (size_t at = 0; at < old.len && !err;) {
        at = i2_record_at(old.p, at, &r, &name, &value);
        if (!is_named(name, r.name_len, I2_ASIDE_STAT))
            err = i2_record_put(records, name, r.name_len, value, r.value_len);
    }
    free(old.p);
    return err;
}

/* Where there is no shelf yet: the caller makes one, and has the step done again. */
static int has_shelf(struct i2_site *site, int needed)
{
    if (!(site->flags & I2_APPLY_ASIDE)) return 0;
    if (site->shelf < 0 && needed) i2_fault(site, I2_AT_ASIDE, -EOPNOTSUPP);
    return site->shelf >= 0 && (needed || !site->shelf_empty);
}

void i2_aside_keep(struct i2_site *site, int fd, const struct i2_step *s, struct i2_bytes *records,
                   uint32_t what)
{
    char key[I2_ASIDE_NAME];
    if (!has_shelf(site, records->len || what)) return;
    int err = i2_aside_name(fd, "", AT_EMPTY_PATH, key);
    if (!err && (s->flags & I2_STEP_NO_XATTR) && !site->shelf_empty) err = keep_old(site, fd, records);
    if (!err && what) err = fill_stat(site, fd, s, what, records);
    if (!err && records->len) err = write_whole(site, key, records);
    else if (!err && unlinkat(site->shelf, key, 0) < 0 && errno != ENOENT) err = -errno;
    if (err) i2_fault(site, I2_AT_XATTR, err);
}

void i2_aside_keep_flags(struct i2_site *site, int fd, uint32_t flags)
{
    char key[I2_ASIDE_NAME];
    struct i2_bytes records = {0};
    struct i2_inode pair[2];
    uint32_t len;
    if (!has_shelf(site, 1)) return;
    int err = i2_aside_name(fd, "", AT_EMPTY_PATH, key);
    if (!err) err = i2_aside_read(site->shelf, fd, "", AT_EMPTY_PATH, &records);
    if (!err) {
        i2_inode_get(fd, &pair[1]);
        pair[0] = pair[1];
        const uint8_t *old =
            i2_record_find(records.p, records.len, I2_ASIDE_FLAGS, sizeof I2_ASIDE_FLAGS - 1, &len);
        if (old && len == sizeof pair) memcpy(&pair[0], old, sizeof pair[0]);
        pair[0].flags |= flags;
        err = i2_record_put(&records, I2_ASIDE_FLAGS, sizeof I2_ASIDE_FLAGS - 1, pair, sizeof pair);
    }
    if (!err) err = write_whole(site, key, &records);
    free(records.p);
    if (err) i2_fault(site, I2_AT_XATTR, err);
}

/* ---------------------------------------------------------------------------- taking away ----- */

void i2_aside_doom(struct i2_site *site, int dir, const char *name, char key[I2_ASIDE_NAME])
{
    struct stat st;
    key[0] = 0;
    if (site->shelf < 0 || site->shelf_empty) return;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0) return;
    if (!S_ISDIR(st.st_mode) && st.st_nlink > 1) return;
    if (i2_aside_name(dir, name, 0, key)) key[0] = 0;
}

void i2_aside_drop(struct i2_site *site, const char key[I2_ASIDE_NAME])
{
    if (key[0]) unlinkat(site->shelf, key, 0);
}

void i2_aside_undo(struct i2_site *site, int fd)
{
    char key[I2_ASIDE_NAME];
    struct stat st;
    if (site->shelf < 0 || site->shelf_empty || fstat(fd, &st) < 0 || st.st_nlink) return;
    if (!i2_aside_name(fd, "", AT_EMPTY_PATH, key)) i2_aside_drop(site, key);
}

static DIR *listing(int shelf)
{
    int fd = openat(shelf, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir && fd >= 0) close(fd);
    return dir;
}

int i2_aside_is_empty(int shelf)
{
    DIR *dir = shelf < 0 ? NULL : listing(shelf);
    if (!dir) return shelf < 0;
    int n = 0;
    while (n < 3 && readdir(dir)) n++;
    closedir(dir);
    return n < 3;
}

int64_t i2_aside_sweep(int root, int shelf)
{
    struct handle h;
    int64_t gone = 0;
    DIR *dir = listing(shelf);
    if (!dir) return -errno;
    for (struct dirent *e; (e = readdir(dir));) {
        if (e->d_name[0] == '.') continue;
        int stale = e->d_name[0] == PASSING;
        if (!stale && handle_of(e->d_name, &h)) {
            int fd = open_by_handle_at(root, (struct file_handle *)&h, O_PATH | O_CLOEXEC);
            stale = fd < 0 && errno == ESTALE;
            if (fd >= 0) close(fd);
        }
        if (stale && unlinkat(shelf, e->d_name, 0) == 0) gone++;
    }
    closedir(dir);
    return gone;
}
