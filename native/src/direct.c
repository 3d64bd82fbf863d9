/* Writing large files past the page cache: what a backup host has just stored nobody is about to read, and
 * copying it into fresh pages costs more than all else that is done to it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apply.h"

/* What every file system with O_DIRECT takes for offset, length and memory. */
#define ALIGNED 4096u
/* Shorter writes, and those to the first part of a file, wait for nothing in the page cache: a tree of
 * many such files is better written back all at once. */
#define SHORTEST (256u << 10)
#define FROM (4u << 20)

int i2_buffer(struct i2_site *site)
{
    void *buffer;
    if (site->buffer) return 0;
    int err = posix_memalign(&buffer, ALIGNED, I2_BUFFER);
    if (!err) site->buffer = buffer;
    return -err;
}

/* Bytes written, or -errno. Whoever uses the descriptor next finds it as it was. */
static ssize_t write_past(struct i2_site *site, int fd, int flags, size_t len, uint64_t at)
{
    if (fcntl(fd, F_SETFL, flags | O_DIRECT) < 0) return -errno;
    ssize_t n;
    do n = pwrite(fd, site->buffer, len, (off_t)at);
    while (n < 0 && errno == EINTR);
    int err = -errno;
    if (fcntl(fd, F_SETFL, flags) < 0) return -errno;
    return n < 0 ? err : n;
}

int i2_is_direct(const struct i2_site *site, uint64_t len, uint64_t at)
{
    return !site->no_direct && len >= SHORTEST && at >= FROM && at % ALIGNED == 0;
}

int i2_write_large(struct i2_site *site, int fd, const uint8_t *data, size_t len, uint64_t at)
{
    if (!i2_is_direct(site, len, at) || i2_buffer(site)) return i2_write_at(fd, data, len, at);
    int flags = fcntl(fd, F_GETFL);
    while (flags >= 0 && !site->no_direct && len >= ALIGNED) {
        size_t want = len < I2_BUFFER ? len / ALIGNED * ALIGNED : I2_BUFFER;
        if (data != site->buffer) memcpy(site->buffer, data, want);
        ssize_t n = write_past(site, fd, flags, want, at);
        if (n == -EINVAL || n == -EOPNOTSUPP) site->no_direct = 1;
        else if (n < 0) return (int)n;
        /* A short one is not aligned any more. */
        if (n < (ssize_t)want) break;
        data += n;
        len -= (size_t)n;
        at += (uint64_t)n;
    }
    return i2_write_at(fd, data, len, at);
}
