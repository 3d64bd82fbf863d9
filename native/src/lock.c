/* Immutable and append-only files and directories (chattr(1)), and directories that take nothing of
 * another project: opened up for a step that they are in the way of, and closed again behind it. What a
 * crash leaves open the source finds: whatever a frame may have changed it asks for, with attributes. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "apply.h"
#include "aside.h"
#include "inode.h"

/* Of what is open, or held with O_PATH. */
static int reopen(int fd)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return i2_inode_open(path, 1);
}

void i2_lock(struct i2_site *site, int fd, uint32_t flags)
{
    if (!flags) return;
    int own = reopen(fd), err = own < 0 ? own : i2_inode_add(own, flags);
    if (own >= 0 && err && i2_aside_takes(site, err)) i2_aside_keep_flags(site, own, flags);
    else if (err) i2_fault(site, I2_AT_XATTR, err);
    if (own >= 0) close(own);
}

/* Nothing is done to what has no name any more. */
static void lock_again(struct i2_site *site, const struct i2_opened *o)
{
    struct stat st;
    int err = fstat(o->fd, &st) == 0 && !st.st_nlink ? 0 : i2_inode_add(o->fd, o->flags);
    close(o->fd);
    if (err) i2_fault(site, I2_AT_XATTR, err);
}

void i2_lock_again(struct i2_site *site)
{
    while (site->opened_n) lock_again(site, &site->opened[--site->opened_n]);
}

void i2_stays_open(struct i2_site *site, int fd)
{
    struct stat it, st;
    if (fstat(fd, &it) < 0) return;
    for (int i = 0; i < site->opened_n; i++)
        if (fstat(site->opened[i].fd, &st) == 0 && st.st_ino == it.st_ino) site->opened[i].flags = 0;
}

/* Of a tree that is taken down most are gone by then; else the first goes, which the step is through with,
 * or opens up once more. */
static void make_room(struct i2_site *site)
{
    struct stat st;
    int i = 0;
    while (i < I2_OPENED && (fstat(site->opened[i].fd, &st) < 0 || st.st_nlink)) i++;
    if (i == I2_OPENED) i = 0;
    lock_again(site, &site->opened[i]);
    size_t behind = (size_t)(--site->opened_n - i);
    memmove(&site->opened[i], &site->opened[i + 1], behind * sizeof *site->opened);
}

int i2_open_up(struct i2_site *site, int fd, uint32_t flags, int again)
{
    int own = reopen(fd);
    if (own < 0) return 0;
    int64_t had = i2_inode_drop(own, flags);
    if (had > 0 && again) {
        if (site->opened_n == I2_OPENED) make_room(site);
        site->opened[site->opened_n++] = (struct i2_opened){.fd = own, .flags = (uint32_t)had};
    } else {
        close(own);
    }
    return had > 0;
}

int i2_unlock(struct i2_site *site, int err, int dir, const char *name)
{
    if (err == -EXDEV)
        return i2_open_up(site, dir, I2_INODE_HEIR, 1) | i2_open_up(site, site->stage, I2_INODE_HEIR, 0);
    if (err != -EPERM && err != -EACCES) return 0;
    int done = i2_open_up(site, dir, I2_INODE_LOCKS, 1);
    int fd = i2_open_in(&site->k, dir, name, O_PATH | O_NOFOLLOW);
    if (fd < 0) return done;
    done |= i2_open_up(site, fd, I2_INODE_LOCKS, 1);
    close(fd);
    return done;
}

int64_t i2_unlock_dir(int fd) { return i2_inode_drop(fd, I2_INODE_LOCKS | I2_INODE_HEIR); }

int64_t i2_lock_dir(int fd, uint32_t flags) { return i2_inode_add(fd, flags); }
