/* Immutable and append-only files and directories (chattr(1)), and directories that take nothing of
 * another project: opened up for a step that they are in the way of, and closed again behind it. What a
 * crash leaves open the source finds: whatever a frame may have changed it asks for, with attributes. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
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

void i2_lock_again(struct i2_site *site)
{
    while (site->opened_n) {
        const struct i2_opened *o = &site->opened[--site->opened_n];
        int err = i2_inode_add(o->fd, o->flags);
        close(o->fd);
        if (err) i2_fault(site, I2_AT_XATTR, err);
    }
}

int i2_open_up(struct i2_site *site, int fd, uint32_t flags, int again)
{
    int own = reopen(fd);
    if (own < 0) return 0;
    int64_t had = i2_inode_drop(own, flags);
    if (had > 0 && again) {
        if (site->opened_n == I2_OPENED) i2_lock_again(site);
        site->opened[site->opened_n++] = (struct i2_opened){.fd = own, .flags = (uint32_t)had};
    } else {
        close(own);
    }
    return had > 0;
}

int i2_unlock(struct i2_site *site, int err, int dir, const char *name, int stays)
{
    if (err == -EXDEV)
        return i2_open_up(site, dir, I2_INODE_HEIR, 1) | i2_open_up(site, site->stage, I2_INODE_HEIR, 0);
    if (err != -EPERM && err != -EACCES) return 0;
    int done = i2_open_up(site, dir, I2_INODE_LOCKS, stays != I2_DOOMED);
    int fd = i2_open_in(&site->k, dir, name, O_PATH | O_NOFOLLOW);
    if (fd < 0) return done;
    struct stat st;
    /* A file of several names stays under the others. */
    int linked = fstat(fd, &st) == 0 && !S_ISDIR(st.st_mode) && st.st_nlink > 1;
    done |= i2_open_up(site, fd, I2_INODE_LOCKS, linked || stays == I2_STAYS);
    close(fd);
    return done;
}

int64_t i2_unlock_dir(int fd) { return i2_inode_drop(fd, I2_INODE_LOCKS | I2_INODE_HEIR); }

int64_t i2_lock_dir(int fd, uint32_t flags) { return i2_inode_add(fd, flags); }
