/* Content that lasts before it takes a name from other content.
 *
 * What stands under a name may be all that the source was told is durable. A file system that makes names
 * durable before the content they lead to has neither the old content nor the new one after a power cut.
 * ext4 waits for the content of what replaces a file (ext4(5), auto_da_alloc); XFS and btrfs do not.
 *
 * There a small file that replaces another waits in the stage while files are put elsewhere, so that one
 * sync makes many of them durable; then they get their names, in order. What that costs the budget is paid
 * when one begins to wait. Nothing that waits is open: a host with many rules has no descriptors to spare. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "apply.h"
#include "aside.h"

#define XFS 0x58465342 /* XFS_SUPER_MAGIC, which headers of EL8 do not have */

static int is_file(int dir, const char *name)
{
    struct stat st;
    return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) == 0 && S_ISREG(st.st_mode);
}

/* What a file system does of itself. */
#define WAITS 1    /* what replaces a file is durable before it does */
#define TOGETHER 2 /* not that, but syncfs(2) makes all files durable; FUSE and CIFS do not pass it on */
#define NOTHING 3

static int does(struct i2_site *site)
{
    struct statfs fs;
    if (site->waits) return site->waits;
    switch (fstatfs(site->root, &fs) < 0 ? 0 : (unsigned long)fs.f_type) {
    case EXT4_SUPER_MAGIC:
    case TMPFS_MAGIC: return site->waits = WAITS;
    case XFS:
    case BTRFS_SUPER_MAGIC: return site->waits = TOGETHER;
    default: return site->waits = NOTHING;
    }
}

int i2_last(struct i2_site *site, int fd)
{
    if (does(site) == WAITS || fdatasync(fd) == 0) return 0;
    site->unwritten = 1;
    return -errno;
}

int i2_last_at(struct i2_site *site, int dir, const char *name, int over, const char *other)
{
    if (does(site) == WAITS || !is_file(over, other) || !is_file(dir, name)) return 0;
    int fd = i2_open_in(&site->k, dir, name, O_RDONLY | O_NONBLOCK | O_NOATIME);
    if (fd < 0) return fd == -EACCES || fd == -EPERM ? 0 : fd; /* not for all of us, save root */
    int err = i2_last(site, fd);
    close(fd);
    return err;
}

/* ---------------------------------------------------------------------------- files that wait -- */

/* So many are synced one by one: on a busy file system much else may be dirty. */
#define FEW 8

int i2_can_wait(struct i2_site *site, const struct i2_held *held, const char *name)
{
    return site->drafts && !held->fresh && does(site) == TOGETHER && is_file(held->fd, name);
}

int i2_wait(struct i2_site *site, const struct i2_held *held, const char *name, const char *staged,
            uint64_t size)
{
    struct i2_draft *d = &site->drafts[site->drafts_n];
    *d = (struct i2_draft){.at = site->at, .index = site->index};
    int err = i2_toll_of(site, held->fd, name, size, &d->paid);
    if (err) return err;
    i2_paid(site, NULL, &d->paid);
    strcpy(d->staged, staged);
    site->drafts_n++;
    return 0;
}

static const struct i2_step *step_of(const struct i2_site *site, const struct i2_draft *d)
{
    return (const struct i2_step *)(site->steps + d->at);
}

int i2_drafts_stay(const struct i2_site *site, const struct i2_step *s)
{
    if (!i2_is_put(s) || site->drafts_n == I2_DRAFTS) return 0;
    /* Put in the place of what waits, or of a directory that it is to stand in. */
    for (int i = 0; i < site->drafts_n; i++) {
        const struct i2_step *of = step_of(site, &site->drafts[i]);
        if (i2_path_within(i2_step_path(of), of->path_len, i2_step_path(s), s->path_len)) return 0;
    }
    return 1;
}

static int sync_all(struct i2_site *site)
{
    if (syncfs(site->stage) == 0) return 0;
    site->unwritten = 1;
    return -errno;
}

/* Makes one durable; synced: all were, as far as syncfs(2) tells: of a write that failed it does so from
 * Linux 5.8 on, the file itself always. 0 or -errno. */
static int last_one(struct i2_site *site, const struct i2_draft *d, int synced)
{
    int fd = i2_open_in(&site->k, site->stage, d->staged, O_RDONLY | O_NONBLOCK | O_NOATIME);
    if (fd == -EACCES || fd == -EPERM) return synced ? 0 : sync_all(site); /* not for us, save root */
    if (fd < 0) return fd;
    int err = 0;
    if (!synced) {
        err = i2_last(site, fd);
    } else if (sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE) < 0) {
        err = -errno;
        site->unwritten = 1;
    }
    close(fd);
    return err;
}

/* It gets no name: neither does what was kept aside of it. */
static void throw_away(struct i2_site *site, const struct i2_draft *d)
{
    int fd = i2_open_in(&site->k, site->stage, d->staged, O_PATH | O_NOFOLLOW);
    unlinkat(site->stage, d->staged, 0);
    if (fd < 0) return;
    i2_aside_undo(site, fd);
    close(fd);
}

/* err: of syncing all. Takes it away when it gets no name. */
static void name_one(struct i2_site *site, const struct i2_draft *d, int synced, int err)
{
    const struct i2_step *s = step_of(site, d);
    struct i2_held *held;
    char name[I2_NAME_LIMIT + 1];
    int what = I2_AT_NAME;
    i2_paid_back(site, &d->paid); /* and paid anew: something else may stand there by now */
    if (!err && (err = i2_parent(site, i2_step_path(s), s->path_len, &held, name))) what = I2_AT_OPEN;
    if (!err) err = last_one(site, d, synced);
    if (!err) err = i2_place(site, held, name, d->staged, s->size);
    if (err) {
        i2_fault(site, what, err);
        throw_away(site, d);
    }
    i2_lock_again(site);
    if (site->stale) i2_let_go_held(site);
}

void i2_name_drafts(struct i2_site *site)
{
    const size_t at = site->at;
    const uint32_t index = site->index;
    const int n = site->drafts_n, many = n > FEW;
    int i = 0, err = site->unwritten ? -EIO : many ? sync_all(site) : 0;
    site->drafts_n = 0;
    for (; i < n && !site->fatal; i++) {
        site->at = site->drafts[i].at;
        site->index = site->drafts[i].index;
        name_one(site, &site->drafts[i], many, err);
    }
    if (!site->fatal) {
        site->at = at;
        site->index = index;
        return;
    }
    for (; i < n; i++) {
        throw_away(site, &site->drafts[i]);
        i2_paid_back(site, &site->drafts[i].paid);
    }
    /* Of what is done again. */
    while (site->noted && site->fault[site->noted - 1].step > site->index) site->noted--;
}
