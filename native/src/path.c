#define _GNU_SOURCE
#include "path.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

/* Headers of EL8 do not know openat2; the numbers are the kernel's ABI (linux/openat2.h). */
#ifndef SYS_openat2
#define SYS_openat2 437
#endif
struct how {
    uint64_t flags;
    uint64_t mode;
    uint64_t resolve;
};
#define NO_XDEV 0x01
#define NO_SYMLINKS 0x04
#define BENEATH 0x08

int i2_name_clean(const uint8_t *name, size_t len)
{
    if (len == 0 || len > I2_NAME_LIMIT || memchr(name, '/', len) || memchr(name, 0, len)) return 0;
    if (name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.'))) return 0;
    return 1;
}

int i2_path_within(const uint8_t *path, size_t len, const uint8_t *dir, size_t dir_len)
{
    if (len < dir_len || memcmp(path, dir, dir_len)) return 0;
    return len == dir_len || path[dir_len] == '/';
}

int i2_path_clean(const uint8_t *path, size_t len)
{
    if (len == 0) return 1;
    if (len > I2_PATH_LIMIT) return 0;
    size_t at = 0;
    for (;;) {
        const uint8_t *slash = memchr(path + at, '/', len - at);
        size_t end = slash ? (size_t)(slash - path) : len;
        if (!i2_name_clean(path + at, end - at)) return 0;
        if (!slash) return 1;
        at = end + 1;
    }
}

size_t i2_path_split(const uint8_t *path, size_t len, size_t *parent_len)
{
    const uint8_t *slash = memrchr(path, '/', len);
    *parent_len = slash ? (size_t)(slash - path) : 0;
    return slash ? *parent_len + 1 : 0;
}

static int open2(int dir, const char *path, int flags, uint64_t resolve)
{
    struct how how = {.flags = (uint64_t)(unsigned)flags, .resolve = resolve};
    int fd;
    do fd = (int)syscall(SYS_openat2, dir, path, &how, sizeof how);
    while (fd < 0 && (errno == EINTR || errno == EAGAIN));
    return fd < 0 ? -errno : fd;
}

/* The mount an open file was reached through, or -1 where the file system cannot tell: the kernel
 * writes it even when it refuses a handle for want of room (name_to_handle_at(2)). */
static int mount_of(int fd)
{
    struct file_handle h = {.handle_bytes = 0};
    int id = -1;
    if (name_to_handle_at(fd, "", &h, &id, AT_EMPTY_PATH) < 0 && errno != EOVERFLOW) return -1;
    return id;
}

static int open_part(int dir, const char *name, int flags)
{
    int fd;
    do fd = openat(dir, name, flags | O_NOFOLLOW);
    while (fd < 0 && errno == EINTR);
    if (fd < 0) return -errno;
    struct stat there, here;
    int err = 0;
    if (fstat(dir, &there) < 0 || fstat(fd, &here) < 0) err = errno;
    else if (there.st_dev != here.st_dev || mount_of(dir) != mount_of(fd)) err = EXDEV;
    if (err) {
        close(fd);
        return -err;
    }
    return fd;
}

int i2_open_in(struct i2_kernel *k, int dir, const char *name, int flags)
{
    flags |= O_CLOEXEC | O_NOFOLLOW;
    if (k->no_noatime) flags &= ~O_NOATIME;
    for (;;) {
        int fd = k->no_openat2 ? open_part(dir, name, flags)
                               : open2(dir, name, flags, BENEATH | NO_XDEV);
        if (fd == -EPERM && (flags & O_NOATIME)) {
            flags &= ~O_NOATIME;
        } else if ((fd == -ENOSYS || fd == -EPERM) && !k->no_openat2) {
            k->no_openat2 = 1; /* EPERM: a container's filter answers so for calls it does not know */
        } else {
            return fd;
        }
    }
}

/* The directory at the end of path[0..len), len < PATH_MAX. */
static int open_piece(struct i2_kernel *k, int dir, const uint8_t *path, size_t len, int flags)
{
    char name[PATH_MAX];
    memcpy(name, path, len);
    name[len] = 0;
    if (!k->no_openat2) {
        int fd = open2(dir, name, flags, BENEATH | NO_XDEV | NO_SYMLINKS);
        if (fd == -EPERM && (flags & O_NOATIME)) {
            k->no_noatime = 1;
            flags &= ~O_NOATIME;
            fd = open2(dir, name, flags, BENEATH | NO_XDEV | NO_SYMLINKS);
        }
        if (fd != -ENOSYS && fd != -EPERM) return fd;
        k->no_openat2 = 1;
    }
    int held = -1;
    for (char *part = name;;) {
        char *slash = strchr(part, '/');
        if (slash) *slash = 0;
        int fd = i2_open_in(k, held < 0 ? dir : held, part, slash ? O_PATH | O_DIRECTORY : flags);
        if (held >= 0) close(held);
        if (fd < 0 || !slash) return fd;
        held = fd;
        part = slash + 1;
    }
}

int i2_open_dir(struct i2_kernel *k, int root, uint64_t dev, const uint8_t *path, size_t len,
                struct statx *self)
{
    int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW;
    if (!k->no_noatime) flags |= O_NOATIME;
    if (!i2_path_clean(path, len)) return -EINVAL;
    int fd, held = -1;
    while (len >= PATH_MAX) {
        const uint8_t *slash = memrchr(path, '/', PATH_MAX);
        size_t piece = (size_t)(slash - path);
        fd = open_piece(k, held < 0 ? root : held, path, piece, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (held >= 0) close(held);
        if (fd < 0) return fd == -ELOOP ? -ENOTDIR : fd;
        held = fd;
        path += piece + 1;
        len -= piece + 1;
    }
    if (len) {
        fd = open_piece(k, held < 0 ? root : held, path, len, flags);
        if (held >= 0) close(held);
    } else {
        fd = openat(root, ".", flags);
        if (fd < 0 && errno == EPERM) fd = openat(root, ".", flags & ~O_NOATIME);
        if (fd < 0) fd = -errno;
    }
    /* A symlink is no directory, wherever in the path it stands. */
    if (fd < 0) return fd == -ELOOP ? -ENOTDIR : fd;
    int err = i2_statx(k, fd, "", AT_EMPTY_PATH, self);
    /* A btrfs subvolume is another file system without being a mount. */
    if (err == 0 && i2_statx_dev(self) != dev) err = -EXDEV;
    if (err) {
        close(fd);
        return err;
    }
    return fd;
}

static void from_stat(const struct stat *st, struct statx *out)
{
    memset(out, 0, sizeof *out);
    out->stx_mode = (uint16_t)st->st_mode;
    out->stx_nlink = (uint32_t)st->st_nlink;
    out->stx_uid = st->st_uid;
    out->stx_gid = st->st_gid;
    out->stx_ino = st->st_ino;
    out->stx_size = (uint64_t)st->st_size;
    out->stx_blocks = (uint64_t)st->st_blocks;
    out->stx_mtime.tv_sec = st->st_mtim.tv_sec;
    out->stx_mtime.tv_nsec = (uint32_t)st->st_mtim.tv_nsec;
    out->stx_ctime.tv_sec = st->st_ctim.tv_sec;
    out->stx_ctime.tv_nsec = (uint32_t)st->st_ctim.tv_nsec;
    out->stx_rdev_major = major(st->st_rdev);
    out->stx_rdev_minor = minor(st->st_rdev);
    out->stx_dev_major = major(st->st_dev);
    out->stx_dev_minor = minor(st->st_dev);
}

int i2_statx(struct i2_kernel *k, int dir, const char *name, int flags, struct statx *out)
{
    flags |= AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT;
    if (!k->no_statx) {
        if (statx(dir, name, flags, STATX_BASIC_STATS | STATX_BTIME, out) == 0) return 0;
        if (errno != ENOSYS && errno != EPERM) return -errno;
        k->no_statx = 1;
    }
    struct stat st;
    if (fstatat(dir, name, &st, flags) < 0) return -errno;
    from_stat(&st, out);
    return 0;
}

uint64_t i2_statx_dev(const struct statx *stx)
{
    return makedev(stx->stx_dev_major, stx->stx_dev_minor);
}

uint8_t i2_kind(unsigned mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG: return I2_FILE;
    case S_IFDIR: return I2_DIR;
    case S_IFLNK: return I2_SYMLINK;
    case S_IFCHR: return I2_CHR;
    case S_IFBLK: return I2_BLK;
    case S_IFIFO: return I2_FIFO;
    case S_IFSOCK: return I2_SOCK;
    default: return 0;
    }
}

static int64_t nanoseconds(const struct statx_timestamp *t)
{
    int64_t ns;
    if (__builtin_mul_overflow((int64_t)t->tv_sec, (int64_t)1000000000, &ns)) return INT64_MIN;
    return __builtin_add_overflow(ns, (int64_t)t->tv_nsec, &ns) ? INT64_MIN : ns;
}

void i2_entry_fill(struct i2_entry *e, const struct statx *stx, int64_t racy_after)
{
    e->kind = i2_kind(stx->stx_mode);
    e->mode = stx->stx_mode & 07777;
    e->uid = stx->stx_uid;
    e->gid = stx->stx_gid;
    e->nlink = stx->stx_nlink;
    e->ino = stx->stx_ino;
    e->size = e->kind == I2_FILE || e->kind == I2_SYMLINK ? stx->stx_size : 0;
    e->rdev = e->kind == I2_CHR || e->kind == I2_BLK
                  ? makedev(stx->stx_rdev_major, stx->stx_rdev_minor)
                  : 0;
    e->mtime_s = stx->stx_mtime.tv_sec;
    e->mtime_ns = stx->stx_mtime.tv_nsec;
    e->ctime = nanoseconds(&stx->stx_ctime);
    e->birth = stx->stx_mask & STATX_BTIME ? nanoseconds(&stx->stx_btime) : 0;
    e->blocks = stx->stx_blocks;
    e->flags &= (uint16_t)~I2_RACY;
    if (e->ctime > racy_after) e->flags |= I2_RACY;
}

int64_t i2_racy_after(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec - 20000000;
}
