/* Directories that a payload makes, built in the stage with what the same payload puts in them.
 *
 * In a directory that nobody can see a file may be made under its own name: it needs no link from a
 * nameless one, which is half of what a small file costs on ext4. The directory gets its name once, by
 * one rename, when a step comes that is not MAKE_DIR or PUT, and at the end of the call.
 *
 * Only the top of what is fresh is noted: what is made below it stands in it. When a top cannot be given
 * its name, whatever the reason, what is in the stage is thrown away, and the steps are done again from
 * the one that made it, in place: all that is told of them is then told as if nothing had been fresh.
 *
 * With one exception. Let a be a directory of the target, and MAKE_DIR b, PUT b/y, PUT a/x, PUT a the
 * steps. The last puts a file in place of a while b is still in the stage. If b cannot be given its name
 * they are done again, and PUT a/x meets that file: a fault (ENOTDIR) that was none at first. The file a
 * is there either way. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "apply.h"

/* The top whose place is path, or one with its place below that. */
static const struct i2_fresh *top_within(const struct i2_site *site, const uint8_t *path, size_t len)
{
    for (int i = 0; i < site->fresh_n; i++)
        if (i2_path_within(site->fresh[i].path, site->fresh[i].len, path, len)) return &site->fresh[i];
    return NULL;
}

int i2_fresh_stays(const struct i2_site *site, const struct i2_step *s)
{
    if (s->op == I2_MAKE_DIR) return 1;
    if (!i2_is_put(s)) return 0;
    /* Put in the place of a fresh directory, or of one that it is to stand in. */
    return !top_within(site, i2_step_path(s), s->path_len);
}

int i2_fresh_open(struct i2_site *site, const uint8_t *path, size_t len, int *top)
{
    for (int i = 0; i < site->fresh_n; i++) {
        const struct i2_fresh *f = &site->fresh[i];
        if (!i2_path_within(path, len, f->path, f->len)) continue;
        *top = i + 1;
        int at = i2_open_in(&site->k, site->stage, f->staged, O_RDONLY | O_DIRECTORY | O_NOATIME);
        if (at < 0 || len == f->len) return at;
        struct statx self;
        size_t rest = f->len + 1;
        int fd = i2_open_dir(&site->k, at, site->dev, path + rest, len - rest, &self);
        close(at);
        return fd;
    }
    return I2_NOT_FRESH;
}

/* Whether anything is put before the next step that would give the directory its name. Without that
 * the stage is a detour. */
static int is_filled(struct i2_site *site, const struct i2_step *s)
{
    if (site->at >= site->run_end) {
        const struct i2_step *next = s;
        size_t at = site->at;
        while (at < site->len && next->op == I2_MAKE_DIR) {
            at += next->length;
            next = (const struct i2_step *)(site->steps + at);
        }
        site->run_end = at;
        site->run_filled = at < site->len && i2_is_put(next);
    }
    return site->run_filled;
}

int i2_fresh_make(struct i2_site *site, const struct i2_step *s, struct i2_held *held,
                  const char *name, mode_t mode)
{
    const uint8_t *path = i2_step_path(s);
    struct stat st;
    /* It is fresh already; or somebody took it away from around a fresh one: tops stay apart. */
    const struct i2_fresh *there = top_within(site, path, s->path_len);
    if (there) return there->len == s->path_len;
    if (site->no_fresh || held->fresh || site->fresh_n == I2_FRESH || !is_filled(site, s)) return 0;
    if (fstatat(held->fd, name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) == 0 || errno != ENOENT)
        return 0;
    if (!i2_heirs_alike(site, held)) return 0;

    struct i2_fresh *f = &site->fresh[site->fresh_n];
    *f = (struct i2_fresh){.path = path, .len = s->path_len, .at = site->at, .index = site->index,
                           .told = i2_told(site)};
    i2_unique_name(site, f->staged);
    if (mkdirat(site->stage, f->staged, mode) < 0) return 0;
    site->fresh_n++;
    i2_gained(site, &(struct i2_held){.fresh = site->fresh_n});
    return 1;
}

/* Gives a top its name; 0 or -errno. Never over anything: what stands there by now is for the usual way. */
static int name_top(struct i2_site *site, const struct i2_fresh *f)
{
    struct i2_held *held;
    char name[I2_NAME_LIMIT + 1];
    int err = i2_parent(site, f->path, f->len, &held, name);
    while (!err) {
        /* Without the flag an empty directory would be replaced, and nothing else. */
        int plain = site->no_noreplace;
        if (plain ? renameat(site->stage, f->staged, held->fd, name) == 0
                  : renameat2(site->stage, f->staged, held->fd, name, RENAME_NOREPLACE) == 0)
            return 0;
        err = -errno;
        if (!plain && (err == -EINVAL || err == -ENOSYS)) {
            site->no_noreplace = 1;
            err = 0;
        }
    }
    return err;
}

int i2_fresh_publish(struct i2_site *site)
{
    int n = site->fresh_n, i = 0;
    while (i < n && !name_top(site, &site->fresh[i])) i++;
    site->fresh_n = 0;
    if (i == n) {
        for (int k = 0; k < I2_HELD; k++) site->held[k].fresh = 0;
        return 0;
    }
    const struct i2_fresh *back = &site->fresh[i];
    site->no_fresh = 1;
    i2_let_go_held(site);
    /* What cannot be taken away stays in the stage, as after a crash. */
    for (; i < n; i++) {
        i2_remove(site, site->stage, site->fresh[i].staged);
        i2_paid_back(site, &site->fresh[i].paid);
    }
    site->at = back->at;
    site->index = back->index;
    i2_untell(site, &back->told);
    /* What is not on disk does not come to be by a second time. */
    if (site->unwritten) i2_fault(site, I2_AT_DISK, -EIO);
    return 1;
}
