/* Applying steps: i2_apply, the directories it holds, the faults it notes. */
#define _GNU_SOURCE
#include "apply.h"
#include "aside.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/sysmacros.h>
#include <unistd.h>

int i2_is_fatal(int err)
{
    switch (-err) {
    case ENOSPC:
    case EDQUOT:
    case EROFS:
    case EIO:
    case EMFILE:
    case ENFILE:
    case ENOMEM: return 1;
    default: return 0;
    }
}

void i2_fault(struct i2_site *site, int what, int err)
{
    /* A value too large for the file system is ENOSPC as well; i2_meta tells it apart by E2BIG. */
    if (site->unwritten) what = I2_AT_DISK;
    int fatal = i2_is_fatal(err) || site->torn || site->braked || what == I2_AT_DISK ||
                what == I2_AT_ASIDE;
    if (fatal) site->fatal = 1;
    /* A file that waited tells of its step when others were through. */
    uint64_t at = site->noted;
    while (at && site->fault[at - 1].step > site->index) at--;
    if (site->noted == site->room) {
        site->more++;
        /* A fatal fault is told whatever the room: the caller must know that it is not through. */
        if (fatal && at && at == site->room) at--;
        if (at == site->room) return;
        site->noted--;
    }
    memmove(site->fault + at + 1, site->fault + at, (site->noted - at) * sizeof *site->fault);
    site->fault[at] = (struct i2_fault){
        .step = site->index, .status = -err, .what = (uint32_t)what, .fatal = (uint32_t)fatal};
    site->noted++;
}

struct i2_told i2_told(const struct i2_site *site)
{
    struct i2_told told = {.noted = site->noted, .more = site->more};
    if (site->noted) told.last = site->fault[site->noted - 1];
    return told;
}

void i2_untell(struct i2_site *site, const struct i2_told *told)
{
    site->noted = told->noted;
    site->more = told->more;
    if (told->noted) site->fault[told->noted - 1] = told->last; /* a fatal one took its place */
    if (site->budget) site->budget->wanted = 0;
    site->fatal = site->braked = 0;
}

/* Whether faults were noted since. */
static int is_told(const struct i2_site *site, const struct i2_told *before)
{
    return site->noted + site->more != before->noted + before->more;
}

void i2_forget(struct i2_site *site) { site->stale = 1; }

void i2_let_go_held(struct i2_site *site)
{
    site->stale = 0;
    for (int i = 0; i < I2_HELD; i++) {
        if (site->held[i].fd >= 0) close(site->held[i].fd);
        site->held[i].fd = -1;
    }
}

int i2_parent(struct i2_site *site, const uint8_t *path, size_t len, struct i2_held **held,
              char name[I2_NAME_LIMIT + 1])
{
    size_t parent_len, at = i2_path_split(path, len, &parent_len);
    memcpy(name, path + at, len - at);
    name[len - at] = 0;

    struct i2_held *oldest = &site->held[0];
    for (int i = 0; i < I2_HELD; i++) {
        struct i2_held *h = &site->held[i];
        if (h->fd >= 0 && h->len == parent_len && !memcmp(h->path, path, parent_len)) {
            h->used = ++site->ticks;
            *held = h;
            return 0;
        }
        if (h->fd < 0 ? oldest->fd >= 0 : oldest->fd >= 0 && h->used < oldest->used) oldest = h;
    }
    struct statx self;
    int fresh = 0, fd = i2_fresh_open(site, path, parent_len, &fresh);
    if (!fresh) fd = i2_open_dir(&site->k, site->root, site->dev, path, parent_len, &self);
    if (fd < 0) return fd;
    if (!fresh && self.stx_ino == site->stage_ino) {
        close(fd);
        return -EPERM; /* the stage is ours, even where it stands beneath the root */
    }
    if (oldest->fd >= 0) close(oldest->fd);
    *oldest = (struct i2_held){.fd = fd, .path = path, .len = parent_len, .used = ++site->ticks,
                               .bare = -1, .fresh = fresh, .alike = -1};
    *held = oldest;
    return 0;
}

void i2_unique_name(struct i2_site *site, char out[I2_STAGE_NAME])
{
    if (!site->uniques && getrandom(&site->unique, sizeof site->unique, GRND_NONBLOCK) < 0)
        site->unique = (uint64_t)i2_racy_after() ^ (uint64_t)getpid() << 40;
    snprintf(out, I2_STAGE_NAME, "t%016llx.%llx", (unsigned long long)site->unique,
             (unsigned long long)++site->uniques);
}

static void (*const ops[])(struct i2_site *, const struct i2_step *) = {
    [I2_MAKE_DIR] = i2_do_make_dir, [I2_PUT_FILE] = i2_do_put_file, [I2_PUT_LINK] = i2_do_put_link,
    [I2_PUT_NODE] = i2_do_put_node, [I2_LINK] = i2_do_link,         [I2_SET_META] = i2_do_set_meta,
    [I2_RENAME] = i2_do_rename,     [I2_EXCHANGE] = i2_do_exchange, [I2_REMOVE] = i2_do_remove,
    [I2_STAGE] = i2_do_stage,       [I2_WRITE] = i2_do_write,       [I2_COPY] = i2_do_copy,
    [I2_HOLE] = i2_do_hole,         [I2_STAGED] = i2_do_staged,
};

/* The umask cannot be read without being changed, save here (proc(5), Linux 4.7); 0777 where it is not
 * told: then no mode given at creation is relied on. */
static unsigned read_umask(void)
{
    unsigned mask = 0777;
    char line[128];
    FILE *status = fopen("/proc/self/status", "re");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "Umask: %o", &mask) == 1) break;
    if (status) fclose(status);
    return mask;
}

/* A stage or shelf that stands in the root itself has a name there, and no step may touch what has it. */
static void find_name(const struct i2_site *site, int dir, char out[I2_NAME_LIMIT + 1])
{
    struct stat above, root, own, st;
    char link[40], path[PATH_MAX];
    out[0] = 0;
    if (fstatat(dir, "..", &above, 0) < 0 || fstat(site->root, &root) < 0 || fstat(dir, &own) < 0) return;
    if (above.st_ino != root.st_ino || above.st_dev != root.st_dev) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return;
    path[n] = 0;
    const char *name = strrchr(path, '/');
    if (!name || strlen(name + 1) > I2_NAME_LIMIT) return;
    if (fstatat(site->root, name + 1, &st, AT_SYMLINK_NOFOLLOW) < 0 || st.st_ino != own.st_ino) return;
    strcpy(out, name + 1);
}

/* Whether a path is this name in the root, or leads into it. */
static int leads_to(const char *name, const uint8_t *path, size_t len)
{
    size_t n = strlen(name);
    return n && len >= n && !memcmp(path, name, n) && (len == n || path[n] == '/');
}

static int is_ours(const struct i2_site *site, const uint8_t *path, size_t len)
{
    return leads_to(site->stage_name, path, len) || leads_to(site->shelf_name, path, len);
}

static int touches_ours(const struct i2_site *site, const struct i2_step *s)
{
    if (is_ours(site, i2_step_path(s), s->path_len)) return 1;
    int paths = s->op == I2_LINK || s->op == I2_RENAME || s->op == I2_EXCHANGE;
    return paths && is_ours(site, i2_step_other(s), s->other_len);
}

int i2_site_open(struct i2_site *site)
{
    struct stat root, stage;
    if (fstat(site->root, &root) < 0 || fstat(site->stage, &stage) < 0) return -errno;
    if (!S_ISDIR(root.st_mode) || !S_ISDIR(stage.st_mode)) return -ENOTDIR;
    site->dev = root.st_dev;
    site->stage_ino = root.st_ino == stage.st_ino || root.st_dev != stage.st_dev ? 0 : stage.st_ino;
    site->umask = read_umask();
    site->shelf_empty = i2_aside_is_empty(site->shelf);
    site->no_fresh = !site->stage_ino;
    find_name(site, site->stage, site->stage_name);
    if (site->shelf >= 0) find_name(site, site->shelf, site->shelf_name);
    site->staged = site->source = -1;
    for (int i = 0; i < I2_HELD; i++) site->held[i].fd = -1;
    return 0;
}

void i2_site_close(struct i2_site *site)
{
    i2_lock_again(site);
    i2_let_go_staged(site);
    i2_let_go_source(site);
    i2_let_go_held(site);
    free(site->buffer);
}

int64_t i2_apply(int root, int stage, int shelf, const uint8_t *steps, size_t len, int flags,
                 struct i2_budget *budget, struct i2_fault *fault, uint64_t *faults, uint64_t *more)
{
    struct i2_site site;
    struct i2_fresh fresh[I2_FRESH];
    struct i2_draft drafts[I2_DRAFTS];
    memset(&site, 0, sizeof site);
    site.root = root;
    site.stage = stage;
    site.shelf = shelf;
    site.steps = steps;
    site.len = len;
    site.fresh = fresh;
    site.drafts = drafts;
    site.flags = flags;
    site.budget = budget;
    site.fault = fault;
    site.room = *faults;
    *faults = *more = 0;
    if (budget) *budget = (struct i2_budget){.spare = budget->spare};
    int64_t n = i2_steps_check(steps, len);
    if (n < 0) return n;
    int err = i2_site_open(&site);
    if (err) return err;

    for (int faulted = 0;;) {
        int over = site.at == len || site.fatal;
        const struct i2_step *s = over ? NULL : (const struct i2_step *)(steps + site.at);
        /* Behind a fault too: done again with what comes later in place, that step might be no fault. */
        int publish = site.fresh_n && (over || faulted || !i2_fresh_stays(&site, s));
        const struct i2_told told = i2_told(&site);
        if (site.drafts_n && (over || publish || !i2_drafts_stay(&site, s))) {
            i2_name_drafts(&site);
            faulted |= is_told(&site, &told);
            continue;
        }
        if (publish && i2_fresh_publish(&site)) continue;
        if (over) break;
        /* Only these leave the names alone, so that the old file stays the one that was opened. */
        if (s->op != I2_WRITE && s->op != I2_COPY && s->op != I2_HOLE) i2_let_go_source(&site);
        if (touches_ours(&site, s)) i2_fault(&site, I2_AT_OPEN, -EPERM);
        else ops[s->op](&site, s);
        i2_lock_again(&site);
        faulted = is_told(&site, &told);
        if (site.stale) i2_let_go_held(&site);
        if (site.fatal && site.drafts_n) {
            /* The files that are still to be replaced hold room: once more without them. */
            i2_untell(&site, &told);
            i2_name_drafts(&site);
            faulted = is_told(&site, &told);
            continue;
        }
        if (site.fatal) continue;
        site.at += s->length;
        site.index++;
    }
    i2_site_close(&site);
    *faults = site.noted;
    *more = site.more;
    return site.index;
}
