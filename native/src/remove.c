/* Taking away: a name, or a directory with all below it.
 *
 * A tree is taken down by descriptors and without recursion: names are kept in one buffer, only the
 * deepest directories are kept open, and the way up is ".." of the held one, which must be the directory
 * we came from. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "apply.h"
#include "aside.h"
#include "xattr.h"

#define OPEN_LEVELS 32
#define PASSES 100
#define DENTS_SIZE 32768

struct dirent64 {
    uint64_t ino;
    int64_t off;
    uint16_t length;
    uint8_t type;
    char name[];
};
#define DT_UNKNOWN 0
#define DT_DIR 4

struct level {
    int fd; /* -1: closed for now, reached again by ".." */
    uint64_t ino, dev;
    size_t name;  /* where its name begins in names */
    int64_t off;  /* where reading goes on */
    int progress; /* something went away since reading began */
    int passes;
};

struct descent {
    struct level *levels;
    size_t depth, cap;
    struct i2_bytes names;
    uint8_t *dents;
};

/* unlinkat, once more when flags were in the way; not there is fine. */
static int unlink_at(struct i2_site *site, int dir, const char *name, int how)
{
    char key[I2_ASIDE_NAME];
    i2_aside_doom(site, dir, name, key);
    for (int again = 0;; again++) {
        if (unlinkat(dir, name, how) == 0) {
            site->unlinked++;
            i2_aside_drop(site, key);
            return 0;
        }
        if (errno == ENOENT) return 0;
        int err = -errno;
        if (again == I2_OBSTACLES || !i2_unlock(site, err, dir, name)) return err;
    }
}

static int push(struct i2_site *site, struct descent *d, int dir, const char *name)
{
    if (d->depth == d->cap) {
        size_t cap = d->cap ? d->cap * 2 : 64;
        struct level *p = realloc(d->levels, cap * sizeof *p);
        if (!p) return -ENOMEM;
        d->levels = p;
        d->cap = cap;
    }
    size_t len = strlen(name) + 1;
    if (i2_bytes_room(&d->names, len)) return -ENOMEM;
    int fd = i2_open_in(&site->k, dir, name, O_RDONLY | O_DIRECTORY | O_NOATIME);
    if (fd < 0) return fd;
    struct stat st;
    int err = fstat(fd, &st) < 0 ? -errno : 0;
    if (!err && st.st_dev != site->dev) err = -EXDEV;
    if (!err && st.st_ino == site->stage_ino) err = -EBUSY;
    if (err) {
        close(fd);
        return err;
    }
    d->levels[d->depth++] = (struct level){.fd = fd, .ino = st.st_ino, .dev = st.st_dev,
                                           .name = d->names.len};
    memcpy(d->names.p + d->names.len, name, len);
    d->names.len += len;
    if (d->depth > OPEN_LEVELS) {
        struct level *far = &d->levels[d->depth - OPEN_LEVELS - 1];
        if (far->fd >= 0) close(far->fd);
        far->fd = -1;
    }
    return 0;
}

/* The directory above the deepest level, opened again when it was closed. */
static int above(struct descent *d, int base)
{
    if (d->depth == 1) return base;
    struct level *up = &d->levels[d->depth - 2];
    if (up->fd >= 0) return up->fd;
    int fd = openat(d->levels[d->depth - 1].fd, "..", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return -errno;
    struct stat st;
    if (fstat(fd, &st) < 0 || st.st_ino != up->ino || st.st_dev != up->dev) {
        close(fd);
        return -ESTALE; /* somebody moved the directory while it was taken down */
    }
    return up->fd = fd;
}

/* Leaves the deepest level. */
static void climb(struct descent *d)
{
    struct level *l = &d->levels[--d->depth];
    close(l->fd);
    d->names.len = l->name;
}

static void give_back(struct descent *d)
{
    for (size_t i = 0; i < d->depth; i++)
        if (d->levels[i].fd >= 0) close(d->levels[i].fd);
    free(d->levels);
    free(d->names.p);
    free(d->dents);
}

/* The deepest level is read to its end: removes it. */
static int pop(struct i2_site *site, struct descent *d, int base)
{
    struct level *l = &d->levels[d->depth - 1];
    int dir = above(d, base);
    if (dir < 0) return dir;
    const char *name = (const char *)d->names.p + l->name;
    int err = unlink_at(site, dir, name, AT_REMOVEDIR);
    if ((err == -ENOTEMPTY || err == -EEXIST) && l->progress && l->passes++ < PASSES) {
        /* Removing moved the reading position past a name (tmpfs), or one came new. */
        l->progress = 0;
        l->off = 0;
        return 0;
    }
    if (err) return err;
    climb(d);
    if (d->depth) d->levels[d->depth - 1].progress = 1;
    return 0;
}

/* Removes what the deepest level holds until it meets a directory with something in it, which becomes
 * the deepest; 1 at the end of the level, 0 or -errno. */
static int clear_level(struct i2_site *site, struct descent *d)
{
    struct level *l = &d->levels[d->depth - 1];
    if (lseek(l->fd, l->off, SEEK_SET) < 0) return -errno;
    for (;;) {
        long got = syscall(SYS_getdents64, l->fd, d->dents, DENTS_SIZE);
        if (got < 0) return errno == ENOENT ? 1 : -errno;
        if (got == 0) return 1;
        for (long at = 0; at < got;) {
            const struct dirent64 *e = (const struct dirent64 *)(d->dents + at);
            at += e->length;
            const char *name = e->name;
            if (name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]))) continue;
            int err = -EISDIR;
            if (e->type != DT_DIR) err = unlink_at(site, l->fd, name, 0);
            if (err == -EISDIR) err = unlink_at(site, l->fd, name, AT_REMOVEDIR);
            if (err == -ENOTEMPTY || err == -EEXIST) {
                l->off = e->off;
                return push(site, d, l->fd, name);
            }
            if (err) return err;
            l->progress = 1;
        }
    }
}

static int remove_tree(struct i2_site *site, int dir, const char *name)
{
    struct descent d = {.dents = malloc(DENTS_SIZE)};
    int err = d.dents ? push(site, &d, dir, name) : -ENOMEM;
    while (!err && d.depth) {
        err = clear_level(site, &d);
        if (err == 1) err = pop(site, &d, dir);
    }
    give_back(&d);
    return err;
}

/* Counts what the deepest level holds until it meets a directory, which becomes the deepest; 1 at the
 * end of the level, 0 or -errno. */
static int count_level(struct i2_site *site, struct descent *d, uint64_t most, uint64_t *n)
{
    struct level *l = &d->levels[d->depth - 1];
    if (lseek(l->fd, l->off, SEEK_SET) < 0) return -errno;
    while (*n <= most) {
        long got = syscall(SYS_getdents64, l->fd, d->dents, DENTS_SIZE);
        if (got <= 0) return got < 0 ? -errno : 1;
        for (long at = 0; at < got && *n <= most;) {
            const struct dirent64 *e = (const struct dirent64 *)(d->dents + at);
            at += e->length;
            const char *name = e->name;
            if (name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]))) continue;
            ++*n;
            if (e->type != DT_DIR && e->type != DT_UNKNOWN) continue;
            l->off = e->off;
            if (push(site, d, l->fd, name) == 0) return 0;
            l = &d->levels[d->depth - 1];
        }
    }
    return 1;
}

uint64_t i2_count_below(struct i2_site *site, int dir, const char *name, uint64_t most)
{
    struct descent d = {.dents = malloc(DENTS_SIZE)};
    uint64_t n = 0;
    int err = d.dents ? push(site, &d, dir, name) : -ENOMEM;
    while (!err && d.depth && n <= most) {
        int ended = count_level(site, &d, most, &n);
        if (!ended) continue;
        int up = above(&d, dir);
        err = up < 0 ? up : 0;
        climb(&d);
    }
    give_back(&d);
    return n;
}

/* Takes away what stat says is there, for i2_remove and its like; within: if the budget allows it. */
static int take_away(struct i2_site *site, int dir, const char *name, const struct stat *st, int within)
{
    struct i2_toll one = {.lost = 1};
    int err = within ? i2_may(site, &one) : 0;
    if (!err) err = S_ISDIR(st->st_mode) ? -EISDIR : unlink_at(site, dir, name, 0);
    if (err != -EISDIR) return err;
    if (st->st_ino == site->stage_ino && st->st_dev == site->dev) return -EBUSY;
    i2_forget(site);
    err = unlink_at(site, dir, name, AT_REMOVEDIR);
    if (err != -ENOTEMPTY && err != -EEXIST) return err;
    if (within && site->budget) one.lost += i2_count_below(site, dir, name, i2_spare(site));
    err = within ? i2_may(site, &one) : 0;
    return err ? err : remove_tree(site, dir, name);
}

int i2_remove(struct i2_site *site, int dir, const char *name)
{
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0) return errno == ENOENT ? 0 : -errno;
    return take_away(site, dir, name, &st, 0);
}

int i2_remove_within(struct i2_site *site, int dir, const char *name)
{
    struct stat st;
    uint64_t before = site->unlinked;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0) return errno == ENOENT ? 0 : -errno;
    int err = take_away(site, dir, name, &st, 1);
    i2_paid(site, NULL, &(struct i2_toll){.lost = site->unlinked - before});
    return err;
}
