/* Where two files share what they are made of: what stands at the same place of the same disk is the
 * same, and need not be read (ioctl_fiemap(2)).
 *
 * That is so as long as both are there, neither is written to, and the file system never writes to what
 * is shared, as those do not that can clone (ioctl_ficlonerange(2)). */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "mover.h"
#include "writers.h"

#define MAPS 512u

/* Where such an extent stands is not told, or not all that stands there is of it: of two of them nothing
 * is known. */
#define VAGUE                                                                            \
    (FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_ENCODED |            \
     FIEMAP_EXTENT_DATA_ENCRYPTED | FIEMAP_EXTENT_NOT_ALIGNED | FIEMAP_EXTENT_DATA_INLINE | \
     FIEMAP_EXTENT_DATA_TAIL)

/* A stretch of a file: a hole, or part of an extent. */
struct stretch {
    uint64_t end, physical;
    uint32_t flags;
    int hole;
};

struct map {
    int fd;
    struct fiemap *told;
    uint32_t next;   /* of what was told */
    int all;         /* it was the last there is */
};

static int ask(struct map *m, uint64_t at)
{
    int first = !m->told->fm_length;
    memset(m->told, 0, sizeof *m->told);
    m->told->fm_start = at;
    m->told->fm_length = FIEMAP_MAX_OFFSET - at;
    m->told->fm_flags = first ? FIEMAP_FLAG_SYNC : 0;
    m->told->fm_extent_count = MAPS;
    m->next = 0;
    if (ioctl(m->fd, FS_IOC_FIEMAP, m->told) < 0) return -errno;
    uint32_t n = m->told->fm_mapped_extents;
    m->all = !n || m->told->fm_extents[n - 1].fe_flags & FIEMAP_EXTENT_LAST;
    return 0;
}

/* What stands at `at`, which never goes back. 0 or -errno. */
static int look(struct map *m, uint64_t at, struct stretch *s)
{
    for (;;) {
        for (; m->next < m->told->fm_mapped_extents; m->next++) {
            const struct fiemap_extent *e = &m->told->fm_extents[m->next];
            if (e->fe_logical + e->fe_length <= at) continue;
            s->hole = e->fe_logical > at;
            s->end = s->hole ? e->fe_logical : e->fe_logical + e->fe_length;
            s->physical = s->hole ? 0 : e->fe_physical + (at - e->fe_logical);
            s->flags = s->hole ? 0 : e->fe_flags;
            return 0;
        }
        if (m->all) {
            *s = (struct stretch){.end = UINT64_MAX, .hole = 1};
            return 0;
        }
        int err = ask(m, at);
        if (err) return err;
    }
}

static int same(const struct stretch *a, const struct stretch *b)
{
    if (a->hole || b->hole) return a->hole && b->hole;
    if ((a->flags | b->flags) & VAGUE) return 0;
    return a->physical == b->physical && !((a->flags ^ b->flags) & FIEMAP_EXTENT_UNWRITTEN);
}

static int64_t compare(struct map *old, struct map *now, uint64_t size, uint64_t (*ranges)[2],
                       size_t cap, uint64_t *at)
{
    size_t n = 0;
    while (*at < size) {
        struct stretch a, b;
        int err = look(old, *at, &a);
        if (!err) err = look(now, *at, &b);
        if (err) return err;
        uint64_t end = a.end < b.end ? a.end : b.end;
        if (end > size) end = size;
        if (!same(&a, &b)) {
            if (n && ranges[n - 1][1] == *at) ranges[n - 1][1] = end;
            else if (n == cap) break;
            else ranges[n][0] = *at, ranges[n++][1] = end;
        }
        *at = end;
    }
    return (int64_t)n;
}

int64_t i2_changed(int old, int now, uint64_t size, uint64_t (*ranges)[2], size_t cap, uint64_t *at)
{
    size_t room = sizeof(struct fiemap) + MAPS * sizeof(struct fiemap_extent);
    struct map maps[2] = {{.fd = old, .told = calloc(1, room)}, {.fd = now, .told = calloc(1, room)}};
    int64_t n = -ENOMEM;
    if (maps[0].told && maps[1].told) n = compare(&maps[0], &maps[1], size, ranges, cap, at);
    free(maps[0].told);
    free(maps[1].told);
    return n;
}
