#define _GNU_SOURCE
#include "content.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WINDOW (1u << 20)

void i2_reading_free(struct i2_reading *r)
{
    free(r->blocks);
    free(r->window);
}

int i2_is_known(const uint8_t content[16])
{
    static const uint8_t unknown[16];
    return memcmp(content, unknown, 16) != 0;
}

static int block_room(struct i2_reading *r, uint64_t n)
{
    if (n <= r->blocks_cap) return 0;
    struct i2_block *p = realloc(r->blocks, n * sizeof *p);
    if (!p) return -ENOMEM;
    r->blocks = p;
    r->blocks_cap = n;
    return 0;
}

int i2_digest_bytes(struct i2_reading *r, const uint8_t *data, size_t len, uint8_t content[16])
{
    uint32_t block = i2_block_size(len);
    int err = block_room(r, len / block + 1);
    if (err) return err;
    int64_t n = i2_blocks(data, len, block, r->blocks, r->blocks_cap);
    if (n < 0) return (int)n;
    i2_digest(r->blocks, (size_t)n, content);
    return 0;
}

int64_t i2_read_at(int fd, uint8_t *p, size_t len, uint64_t at)
{
    size_t got = 0;
    while (got < len) {
        ssize_t n = pread(fd, p + got, len - got, (off_t)(at + got));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -errno;
        if (n == 0) break;
        got += (size_t)n;
    }
    return (int64_t)got;
}

/* Nothing but hole in [at, at + len)? */
static int all_hole(int fd, uint64_t at, uint64_t len)
{
    off_t data = lseek(fd, (off_t)at, SEEK_DATA);
    return data < 0 ? errno == ENXIO : (uint64_t)data >= at + len;
}

int i2_digest_open(struct i2_reading *r, int fd, uint64_t size, int sparse, uint8_t content[16])
{
    if (size > I2_SIZE_MAX) return -EOVERFLOW;
    uint32_t block = i2_block_size(size);
    size_t window = block > WINDOW ? block : WINDOW;
    uint64_t n = size / block + 1, count = 0;
    if (size < window) window = (size_t)size;
    if (block_room(r, n)) return -ENOMEM;
    if (r->window_cap < window) {
        uint8_t *p = realloc(r->window, window);
        if (!p) return -ENOMEM;
        r->window = p;
        r->window_cap = window;
    }
    for (uint64_t at = 0; at < size;) {
        size_t want = size - at < window ? (size_t)(size - at) : window;
        if (sparse && all_hole(fd, at, want)) {
            uint64_t zeros = (want + block - 1) / block;
            memset(r->blocks + count, 0, zeros * sizeof *r->blocks);
            count += zeros;
            at += want;
            continue;
        }
        int64_t got = i2_read_at(fd, r->window, want, at);
        if (got < 0) return (int)got;
        int64_t more = i2_blocks(r->window, (size_t)got, block, r->blocks + count, n - count);
        if (more < 0) return (int)more;
        count += (uint64_t)more;
        at += want;
        if ((size_t)got < want) break; /* shorter than stat said: the stat behind will tell */
    }
    i2_digest(r->blocks, count, content);
    return 0;
}
