/* Directories, hard links, renames, removals: the steps that only change names. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "apply.h"
#include "aside.h"

/* The held parents of a step's two paths; notes the fault. */
struct pair {
    struct i2_held *from, *to;
    char from_name[I2_NAME_LIMIT + 1], to_name[I2_NAME_LIMIT + 1];
};

static int parents(struct i2_site *site, const struct i2_step *s, struct pair *p)
{
    int err = i2_parent(site, i2_step_path(s), s->path_len, &p->from, p->from_name);
    if (!err) err = i2_parent(site, i2_step_other(s), s->other_len, &p->to, p->to_name);
    if (err) i2_fault(site, I2_AT_OPEN, err);
    return err;
}

static int stat_of(int dir, const char *name, struct stat *st)
{
    return fstatat(dir, name, st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0 ? -errno : 0;
}

static int is_stage(const struct i2_site *site, const struct stat *st)
{
    return st->st_ino == site->stage_ino && st->st_dev == site->dev;
}

void i2_do_make_dir(struct i2_site *site, const struct i2_step *s)
{
    struct i2_held *held;
    struct stat st;
    char name[I2_NAME_LIMIT + 1], staged[I2_STAGE_NAME];
    if (!s->path_len) return; /* the root is there */
    int err = i2_parent(site, i2_step_path(s), s->path_len, &held, name);
    if (err) {
        i2_fault(site, I2_AT_OPEN, err);
        return;
    }
    mode_t mode = 0700 | (s->mode & 01777);
    if (i2_fresh_make(site, s, held, name, mode)) return;
    for (int again = 0;; again++) {
        if (mkdirat(held->fd, name, mode) == 0) {
            i2_gained(site, held);
            return;
        }
        err = -errno;
        if (again == I2_OBSTACLES || !i2_unlock(site, err, held->fd, ".")) break;
    }
    if (err != -EEXIST) {
        i2_fault(site, I2_AT_CREATE, err);
        return;
    }
    if (stat_of(held->fd, name, &st) == 0 && S_ISDIR(st.st_mode)) {
        /* A mount that stands there is not ours to fill. */
        if (st.st_dev != site->dev) i2_fault(site, I2_AT_CREATE, -EXDEV);
        return;
    }
    i2_unique_name(site, staged);
    if (mkdirat(site->stage, staged, mode) < 0) {
        i2_fault(site, I2_AT_CREATE, -errno);
        return;
    }
    err = i2_place(site, held, name, staged, 0);
    if (!err) return;
    i2_fault(site, I2_AT_NAME, err);
    unlinkat(site->stage, staged, AT_REMOVEDIR);
}

/* The new name is taken already: by the same file, or by what is to be replaced. */
static int link_over(struct i2_site *site, const struct pair *p)
{
    struct stat have, want;
    char staged[I2_STAGE_NAME];
    int err = stat_of(p->to->fd, p->to_name, &want);
    if (err) return err;
    if (stat_of(p->from->fd, p->from_name, &have) == 0 && have.st_ino == want.st_ino &&
        have.st_dev == want.st_dev)
        return 0;
    i2_unique_name(site, staged);
    if (linkat(p->to->fd, p->to_name, site->stage, staged, 0) < 0) return -errno;
    err = i2_last_at(site, site->stage, staged, p->from->fd, p->from_name);
    if (!err) err = i2_place(site, p->from, p->from_name, staged, (uint64_t)want.st_size);
    if (err) unlinkat(site->stage, staged, 0);
    return err;
}

/* One name more, in place of whatever has it; 0 or -errno. */
static int link_name(struct i2_site *site, const struct pair *p)
{
    for (int again = 0;; again++) {
        int err = linkat(p->to->fd, p->to_name, p->from->fd, p->from_name, 0) < 0 ? -errno : 0;
        if (!err) i2_gained(site, p->from);
        if (err == -EEXIST) err = link_over(site, p);
        /* An immutable file takes no more names, and no more does an immutable directory. */
        if (again == I2_OBSTACLES || !(i2_unlock(site, err, p->from->fd, ".") |
                                       i2_unlock(site, err, p->to->fd, p->to_name)))
            return err;
    }
}

void i2_do_link(struct i2_site *site, const struct i2_step *s)
{
    struct pair p; /* from is the new name, to the one that is there */
    if (parents(site, s, &p)) return;
    int err = link_name(site, &p);
    if (err == -EMLINK) {
        /* As many names as the file system lets a file have: those that come are names of a second
         * one, which begins with the name that they are linked to, and is as the first one was. */
        i2_lock_again(site);
        int split = i2_twin(site, p.to, p.to_name);
        if (split && split != -EMLINK) err = split;
        if (!split && !(err = link_name(site, &p))) i2_fault(site, I2_AT_LINKS, -EMLINK);
    }
    if (err) i2_fault(site, I2_AT_NAME, err);
}

/* What is in the way goes to the stage first: after a crash in between the step can be done again,
 * which an exchange of the two names would not allow. */
static int move_over(struct i2_site *site, const struct pair *p)
{
    struct stat st;
    char aside[I2_STAGE_NAME];
    int err = stat_of(p->to->fd, p->to_name, &st);
    if (!err && is_stage(site, &st)) err = -EBUSY;
    if (err) return err;
    i2_forget(site);
    i2_unique_name(site, aside);
    if (renameat(p->to->fd, p->to_name, site->stage, aside) < 0) return -errno;
    for (int again = 0;; again++) {
        err = renameat(p->from->fd, p->from_name, p->to->fd, p->to_name) < 0 ? -errno : 0;
        /* Of another project: so may be what would have to go back. */
        if (again == I2_OBSTACLES || !i2_unlock(site, err, p->to->fd, ".")) break;
    }
    if (err) {
        renameat(site->stage, aside, p->to->fd, p->to_name);
        return err;
    }
    err = i2_remove(site, site->stage, aside);
    if (err) i2_fault(site, I2_AT_REMOVE, err);
    return 0;
}

/* What it costs that one name takes the place of something; all of that, also where the name comes from
 * within. */
static int toll_of_rename(struct i2_site *site, const struct pair *p, const struct stat *was,
                          struct i2_toll *toll)
{
    struct stat over;
    *toll = (struct i2_toll){0};
    if (!site->budget || stat_of(p->to->fd, p->to_name, &over)) return 0;
    int one = over.st_ino == was->st_ino && over.st_dev == was->st_dev;
    if (one && p->from == p->to && !strcmp(p->from_name, p->to_name)) return 0;
    uint64_t size = S_ISREG(was->st_mode) ? (uint64_t)was->st_size : 0;
    int err = one ? 0 : i2_toll_of(site, p->to->fd, p->to_name, size, toll);
    toll->lost++;
    return err ? err : i2_may(site, toll);
}

void i2_do_rename(struct i2_site *site, const struct i2_step *s)
{
    struct pair p;
    struct i2_toll toll;
    struct stat was, is;
    if (parents(site, s, &p)) return;
    int err = stat_of(p.from->fd, p.from_name, &was);
    if (!err && is_stage(site, &was)) err = -EPERM;
    if (!err) err = toll_of_rename(site, &p, &was, &toll);
    if (!err) err = i2_last_at(site, p.from->fd, p.from_name, p.to->fd, p.to_name);
    char key[I2_ASIDE_NAME], own[I2_ASIDE_NAME];
    i2_aside_doom(site, p.to->fd, p.to_name, key);
    i2_aside_doom(site, p.from->fd, p.from_name, own);
    if (!strcmp(key, own)) key[0] = 0; /* the name that it has already: nothing goes */
    for (int again = 0; !err; again++) {
        err = renameat(p.from->fd, p.from_name, p.to->fd, p.to_name) < 0 ? -errno : 0;
        if (!err) i2_aside_drop(site, key);
        if (!err) break;
        if (err == -ENOTEMPTY || err == -EEXIST || err == -ENOTDIR || err == -EISDIR)
            err = move_over(site, &p);
        if (again == I2_OBSTACLES || !(i2_unlock(site, err, p.from->fd, p.from_name) |
                                       i2_unlock(site, err, p.to->fd, p.to_name)))
            break;
        err = 0;
    }
    if (err) {
        i2_fault(site, I2_AT_NAME, err);
        return;
    }
    i2_paid(site, p.to, &toll);
    if (S_ISDIR(was.st_mode)) {
        i2_forget(site);
    } else if (was.st_nlink > 1 && stat_of(p.from->fd, p.from_name, &is) == 0 &&
               is.st_ino == was.st_ino && !(p.from == p.to && !strcmp(p.from_name, p.to_name))) {
        /* rename(2) between two names of one file does nothing; the old name is to go. */
        err = i2_remove(site, p.from->fd, p.from_name);
        if (err) i2_fault(site, I2_AT_NAME, err);
    }
}

/* By three renames where the file system cannot do it in one. */
static int swap_by_stage(struct i2_site *site, const struct pair *p)
{
    char aside[I2_STAGE_NAME];
    i2_unique_name(site, aside);
    if (renameat(p->from->fd, p->from_name, site->stage, aside) < 0) return -errno;
    if (renameat(p->to->fd, p->to_name, p->from->fd, p->from_name) < 0) {
        int err = -errno;
        renameat(site->stage, aside, p->from->fd, p->from_name);
        return err;
    }
    if (renameat(site->stage, aside, p->to->fd, p->to_name) == 0) return 0;
    int err = -errno; /* such as a directory with what is below it: as it was */
    renameat(p->from->fd, p->from_name, p->to->fd, p->to_name);
    renameat(site->stage, aside, p->from->fd, p->from_name);
    return err;
}

void i2_do_exchange(struct i2_site *site, const struct i2_step *s)
{
    struct pair p;
    struct stat a, b;
    if (parents(site, s, &p)) return;
    int err = stat_of(p.from->fd, p.from_name, &a);
    if (!err) err = stat_of(p.to->fd, p.to_name, &b);
    if (!err && (is_stage(site, &a) || is_stage(site, &b))) err = -EPERM;
    if (!err) err = i2_last_at(site, p.from->fd, p.from_name, p.to->fd, p.to_name);
    if (!err) err = i2_last_at(site, p.to->fd, p.to_name, p.from->fd, p.from_name);
    for (int again = 0; !err; again++) {
        err = renameat2(p.from->fd, p.from_name, p.to->fd, p.to_name, RENAME_EXCHANGE) < 0 ? -errno : 0;
        if (err == -EINVAL || err == -ENOSYS) err = swap_by_stage(site, &p);
        if (again == I2_OBSTACLES || !(i2_unlock(site, err, p.from->fd, p.from_name) |
                                       i2_unlock(site, err, p.to->fd, p.to_name)))
            break;
        err = 0;
    }
    if (err) i2_fault(site, I2_AT_NAME, err);
    else if (S_ISDIR(a.st_mode) || S_ISDIR(b.st_mode)) i2_forget(site);
}

void i2_do_remove(struct i2_site *site, const struct i2_step *s)
{
    struct i2_held *held;
    char name[I2_NAME_LIMIT + 1];
    int what = I2_AT_OPEN;
    int err = i2_parent(site, i2_step_path(s), s->path_len, &held, name);
    /* Where no directory stands on the way, nothing stands at the end of it. */
    if (err == -ENOENT || err == -ENOTDIR) return;
    if (!err) {
        what = I2_AT_REMOVE;
        err = i2_remove_within(site, held->fd, name);
    }
    if (err) i2_fault(site, what, err);
}
