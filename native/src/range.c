/* Bytes from one file to another, and holes: a clone where the file system has that, then what the
 * kernel copies by itself, then reading and writing. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "apply.h"

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

int i2_make_hole(struct i2_site *site, int fd, uint64_t at, uint64_t span)
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

int i2_clone(struct i2_site *site, int from, int to)
{
    if (site->no_clone) return -EOPNOTSUPP;
    if (ioctl(to, FICLONE, from) == 0) return 0;
    int err = -errno;
    if (is_not_had(err)) site->no_clone = 1;
    return err;
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

int i2_copy_range(struct i2_site *site, int from, uint64_t at, int to, uint64_t dest, uint64_t span)
{
    while (span) {
        off_t data = lseek(from, (off_t)at, SEEK_DATA);
        uint64_t gap = 0;
        if (data < 0 && errno == ENXIO) gap = span;
        else if (data > 0 && (uint64_t)data > at) gap = (uint64_t)data - at;
        if (gap > span) gap = span;
        int err = gap ? i2_make_hole(site, to, dest, gap) : 0;
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
