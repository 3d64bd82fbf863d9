/* One file to read, and the disk to wait for: what Python cannot do by itself without leaving the root. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mover.h"
#include "path.h"

int64_t i2_open(int root, uint64_t dev, const uint8_t *path, size_t len)
{
    struct i2_kernel k = {0};
    struct statx self;
    size_t parent_len;
    char name[I2_NAME_LIMIT + 1];

    if (!len || !i2_path_clean(path, len))
        return -EINVAL;
    size_t at = i2_path_split(path, len, &parent_len);
    memcpy(name, path + at, len - at);
    name[len - at] = 0;
    int dir = i2_open_dir(&k, root, dev, path, parent_len, &self);
    if (dir < 0)
        return dir;
    /* A peer may ask for any name: opening a device or a pipe can do something already. */
    struct stat st;
    int fd = fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0 ? -errno : 0;
    if (!fd && !S_ISREG(st.st_mode)) fd = S_ISLNK(st.st_mode) ? -ELOOP : -ENOENT;
    if (!fd) fd = i2_open_in(&k, dir, name, O_RDONLY | O_NONBLOCK | O_NOATIME);
    close(dir);
    return fd;
}

int64_t i2_cached(int fd, uint64_t at, uint64_t len)
{
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    unsigned char there[512];
    int64_t sum = 0;
    len += at % page;
    at -= at % page;
    while (len) {
        uint64_t span = len < page * sizeof there ? len : page * sizeof there;
        void *p = mmap(NULL, span, PROT_READ, MAP_SHARED, fd, (off_t)at);
        if (p == MAP_FAILED) return -errno;
        int err = mincore(p, span, there) < 0 ? errno : 0;
        munmap(p, span);
        if (err) return -err;
        for (uint64_t i = 0; i * page < span; i++) sum += there[i] & 1 ? (int64_t)page : 0;
        at += span;
        len -= span;
    }
    return sum;
}

int64_t i2_sync(int fd)
{
    return syncfs(fd) < 0 ? -errno : 0;
}
