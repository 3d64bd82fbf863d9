/* Reading entries into steps: i2_pack, i2_digest_files.
 *
 * A reading is good when stat says after it what it said before it. An unchanged small file costs
 * five system calls: openat, flistxattr, pread, statx, close. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "aside.h"
#include "crew.h"
#include "pack.h"

#define DIGEST 100 /* mode of i2_digest_files: no steps */

/* Jobs for which one more thread is worth its start. */
#define JOBS_A_HAND 4

/* ------------------------------------------------------------------------------ attributes ---- */

/* Reads the attributes, and what is aside; *flags gets I2_STEP_NO_XATTR where the file system has none. */
static int read_xattrs(struct i2_reader *r, const struct i2_bearer *of, int *flags)
{
    int err = i2_xattr_read(of, &r->xattrs);
    *flags = err == -ENOTSUP ? I2_STEP_NO_XATTR : 0;
    if (err == -ENOTSUP) err = 0;
    if (err) r->xattrs.len = 0;
    r->aside.len = 0;
    if (err || r->hall->shelf < 0) return err;
    err = of->fd >= 0 ? i2_aside_read(r->hall->shelf, of->fd, "", AT_EMPTY_PATH, &r->aside)
                      : i2_aside_read(r->hall->shelf, AT_FDCWD, of->path, 0, &r->aside);
    if (!err) err = i2_aside_lay(&r->aside, &r->xattrs, of->unowned);
    if (r->xattrs.len) *flags = 0;
    return err;
}

/* The hash of what read_xattrs and the symlink's target are; 1 stands for nothing at all. */
static int hash_attrs(struct i2_reader *r, uint64_t *attrs)
{
    uint32_t len = (uint32_t)r->target_len;
    *attrs = 1;
    if (!len && !r->xattrs.len) return 0;
    struct i2_bytes *b = &r->hashed;
    b->len = 0;
    if (i2_bytes_room(b, sizeof len + len + r->xattrs.len)) return -ENOMEM;
    memcpy(b->p, &len, sizeof len);
    memcpy(b->p + sizeof len, r->target, len);
    if (r->xattrs.len) memcpy(b->p + sizeof len + len, r->xattrs.p, r->xattrs.len);
    i2_hash(b->p, sizeof len + len + r->xattrs.len, (uint8_t *)attrs, sizeof *attrs);
    if (!*attrs) *attrs = 1;
    return 0;
}

/* ------------------------------------------------------------------------------ one entry ----- */

static int same(const struct i2_entry *e, const struct i2_entry *now)
{
    return e->mtime_s == now->mtime_s && e->mtime_ns == now->mtime_ns && e->ctime == now->ctime &&
           e->size == now->size;
}

/* What stands there now, open as fd or, with -1, by its name: an entry with the name and the rest of e;
 * 0 or -errno. */
static int restat(struct i2_reader *r, const struct i2_entry *e, int fd, const char *name,
                  int64_t racy_after, struct i2_entry *now)
{
    struct statx stx;
    int err = fd >= 0 ? i2_statx(&r->k, fd, "", AT_EMPTY_PATH, &stx)
                      : i2_statx(&r->k, r->dir, name, 0, &stx);
    if (err) return err;
    *now = *e;
    i2_entry_fill(now, &stx, racy_after);
    uint8_t stands = now->kind;
    i2_aside_lay_stat(&r->aside, now);
    if (e->uid == I2_UNOWNED) i2_entry_disown(now);
    /* Another kind: what was asked for is gone; what came instead is another walk's to tell. */
    if (now->kind != e->kind && stands != e->kind) return -ENOENT;
    if (now->kind != I2_DIR && i2_statx_dev(&stx) != r->hall->dev) return -EXDEV;
    return 0;
}

static int open_file(struct i2_reader *r, const char *name)
{
    int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    int fd = openat(r->dir, name, r->k.no_noatime ? flags : flags | O_NOATIME);
    if (fd < 0 && errno == EPERM && !r->k.no_noatime) fd = openat(r->dir, name, flags);
    if (fd >= 0) return fd;
    /* A symlink, a socket or a device without driver is here now. */
    return errno == ELOOP || errno == ENXIO || errno == ENODEV ? -ENOENT : -errno;
}

/* A directory and a pipe refuse to be read like a file: it is gone, something else came. */
static int refused(int err) { return err == -EISDIR || err == -ESPIPE ? -ENOENT : err; }

/* A small file: its content goes to the output as it is read. */
static int pack_file(struct i2_reader *r, struct i2_job *j, int fd)
{
    struct i2_hall *h = r->hall;
    struct i2_entry *e = j->entry;
    const struct i2_bearer of = {.fd = fd, .unowned = e->uid == I2_UNOWNED};
    size_t at = 0, taken = 0;
    int err = 0, settled = 0;
    for (int i = 0; i < h->tries && !settled; i++) {
        struct i2_entry now;
        int flags;
        int64_t racy_after = i2_racy_after();
        if (e->size > h->small_max) err = -EFBIG;
        if (!err) err = read_xattrs(r, &of, &flags);
        if (err) break;
        size_t need = i2_out_size(j, 0, r->xattrs.len, (size_t)e->size);
        if (need > taken) {
            i2_out_give_back(h, at, taken, 0);
            taken = 0;
            err = i2_out_take(h, need, &at);
            if (err) break;
            taken = need;
        }
        uint8_t *data = i2_out_data(r, j, at);
        int64_t got = i2_read_at(fd, data, (size_t)e->size, 0);
        err = got < 0 ? (int)got : restat(r, e, fd, NULL, racy_after, &now);
        if (err) break;
        settled = same(e, &now) && (uint64_t)got == e->size;
        *e = now;
        if (!settled && i + 1 < h->tries) continue;

        uint8_t content[16];
        if ((err = i2_digest_bytes(&r->reading, data, (size_t)got, content))) break;
        if ((err = hash_attrs(r, &e->attrs))) break;
        int known = (e->verdict == I2_DATA || e->verdict == I2_META) && i2_is_known(e->content) &&
                    !memcmp(e->content, content, 16);
        memcpy(e->content, content, 16);
        if (!settled) {
            e->status = EAGAIN;
            e->flags |= I2_RACY;
        }
        if (known && settled) i2_out_step(r, j, at, I2_SET_META, flags, 0);
        else if (settled && got && !e->blocks && i2_is_zero(data, (size_t)got) == 1)
            i2_out_step(r, j, at, I2_PUT_FILE, flags | I2_STEP_SPARSE, 0);
        else {
            uint64_t size = e->size;
            e->size = (uint64_t)got;
            i2_out_step(r, j, at, I2_PUT_FILE, flags, (size_t)got);
            e->size = size;
        }
        i2_out_give_back(h, at, taken, j->used);
        taken = 0;
    }
    if (taken) i2_out_give_back(h, at, taken, 0);
    return refused(err);
}

static int digest_file(struct i2_reader *r, struct i2_job *j, int fd)
{
    struct i2_entry *e = j->entry;
    const struct i2_bearer of = {.fd = fd, .unowned = e->uid == I2_UNOWNED};
    for (int i = 0;; i++) {
        struct i2_entry now;
        uint8_t content[16];
        int flags, sparse = e->blocks * 512 < e->size;
        int64_t racy_after = i2_racy_after();
        int err = read_xattrs(r, &of, &flags);
        if (!err) err = i2_digest_open(&r->reading, fd, e->size, sparse, content);
        if (!err) err = restat(r, e, fd, NULL, racy_after, &now);
        if (!err) err = hash_attrs(r, &now.attrs);
        if (err) return refused(err);
        int settled = same(e, &now);
        *e = now;
        if (!settled && i + 1 < r->hall->tries) continue;
        if (e->kind == I2_FILE) memcpy(e->content, content, 16);
        if (!settled) e->flags |= I2_RACY;
        return settled ? 0 : -EAGAIN;
    }
}

/* The stat of a file whose content somebody else read, or nobody: what e says of the content stays as
 * it is, or a change since would be taken for known. */
static int keep_reading(struct i2_entry *e, const struct i2_entry *now)
{
    struct i2_entry was = *e;
    *e = *now;
    e->rdev = was.rdev;
    if (same(&was, now)) return 0;
    e->size = was.size;
    e->mtime_s = was.mtime_s;
    e->mtime_ns = was.mtime_ns;
    e->ctime = was.ctime;
    e->flags |= I2_RACY;
    /* Only ctime moved: a mode or a link count, most likely; the racy mark has it looked at again. */
    return was.size == now->size && was.mtime_s == now->mtime_s && was.mtime_ns == now->mtime_ns
               ? 0
               : -EAGAIN;
}

/* An entry whose file is not opened: directory, symlink, node, and files in the other modes. */
static int pack_closed(struct i2_reader *r, struct i2_job *j, const char *name)
{
    struct i2_hall *h = r->hall;
    struct i2_entry *e = j->entry;
    char path[I2_NAME_LIMIT + 40];
    snprintf(path, sizeof path, "/proc/self/fd/%d/%s", r->dir, name);
    const struct i2_bearer of = {.fd = -1, .path = path, .unowned = e->uid == I2_UNOWNED};
    int make = h->mode == I2_PACK_ALL && e->kind == I2_DIR &&
               (e->verdict == I2_NEW || e->verdict == I2_RETYPED);
    uint64_t old_attrs = e->attrs;
    int flags = 0, err = 0;
    for (int i = 0;; i++) {
        struct i2_entry now;
        int64_t racy_after = i2_racy_after();
        r->xattrs.len = r->aside.len = 0;
        if (e->kind == I2_SYMLINK) {
            ssize_t n = readlinkat(r->dir, name, r->target, sizeof r->target);
            if (n < 0) return errno == EINVAL ? -ENOENT : -errno;
            r->target_len = (size_t)n;
        }
        if (!make) err = read_xattrs(r, &of, &flags);
        else flags = I2_STEP_NO_XATTR;
        if (!err) err = restat(r, e, -1, name, racy_after, &now);
        if (err) return err;
        if (e->kind == I2_FILE && h->mode != DIGEST) {
            /* What may be shown of another file is not to be laid on what was read of this one. */
            if (now.ino != e->ino) return -ESTALE;
            err = keep_reading(e, &now);
            break;
        }
        int settled = same(e, &now);
        *e = now;
        if (settled || make) break;
        if (i + 1 >= h->tries) {
            e->flags |= I2_RACY;
            err = -EAGAIN;
            break;
        }
    }
    if (!make && hash_attrs(r, &e->attrs)) return -ENOMEM;
    int op = I2_SET_META;
    if (make) op = I2_MAKE_DIR;
    else if (h->mode == I2_PACK_STAGED && e->kind == I2_FILE) op = I2_STAGED;
    else if (e->kind == I2_SYMLINK && !(e->verdict == I2_META && old_attrs == e->attrs))
        op = I2_PUT_LINK;
    else if (e->kind > I2_SYMLINK) op = I2_PUT_NODE;
    int full = h->mode == DIGEST ? 0 : i2_out_put(r, j, op, flags);
    return full ? full : err;
}

/* Opens the directory of a job, if it is not; 0 or -errno. */
static int enter(struct i2_reader *r, struct i2_origin *from)
{
    struct i2_hall *h = r->hall;
    struct statx self;
    pthread_mutex_lock(&h->door);
    if (from->fd < 0 && !from->err) {
        const struct i2_group *g = from->group;
        from->fd = i2_open_dir(&r->k, h->root, h->dev, (const uint8_t *)(g + 1), g->path_len, &self);
        if (from->fd < 0) from->err = from->fd;
        else if (g->ino && self.stx_ino != g->ino) from->err = -ESTALE;
    }
    r->dir = from->fd;
    int err = from->err;
    pthread_mutex_unlock(&h->door);
    return err;
}

static void leave(struct i2_hall *h, struct i2_origin *from)
{
    pthread_mutex_lock(&h->door);
    if (!--from->left && from->fd >= 0) close(from->fd);
    pthread_mutex_unlock(&h->door);
}

static int pack_one(struct i2_reader *r, struct i2_job *j)
{
    struct i2_hall *h = r->hall;
    struct i2_entry *e = j->entry;
    char name[I2_NAME_LIMIT + 1];
    int reads = e->kind == I2_FILE && (h->mode == I2_PACK_ALL || (h->mode == DIGEST && h->content));
    if (reads && h->mode == I2_PACK_ALL) {
        if (e->size > h->small_max) return -EFBIG;
        if (i2_out_size(j, 0, 0, (size_t)e->size) > h->cap - atomic_load(&h->head)) return -ENOBUFS;
    }
    int err = enter(r, j->origin);
    if (err) return err;
    memcpy(name, e + 1, e->name_len);
    name[e->name_len] = 0;
    r->target_len = 0;
    if (!reads) return pack_closed(r, j, name);
    int fd = open_file(r, name);
    if (fd < 0) return fd;
    err = h->mode == DIGEST ? digest_file(r, j, fd) : pack_file(r, j, fd);
    close(fd);
    return err;
}

static void do_job(struct i2_reader *r, size_t i)
{
    struct i2_job *j = &r->hall->jobs[i];
    j->entry->status = 0;
    int err = pack_one(r, j);
    if (err) j->entry->status = (uint16_t)-err;
    leave(r->hall, j->origin);
}

static void *read_jobs(void *arg)
{
    struct i2_reader *r = arg;
    struct i2_hall *h = r->hall;
    for (size_t i; (i = atomic_fetch_add(&h->next, 1)) < h->n;)
        if (h->jobs[i].entry->kind != I2_DIR) do_job(r, i);
    return NULL;
}

/* --------------------------------------------------------------------------------- the call --- */

/* Counts the entries of sound groups, or -EINVAL, and the groups that have any; fills jobs and origins
 * when given. */
static int64_t read_groups(uint8_t *groups, size_t len, struct i2_job *jobs, struct i2_origin *origins,
                           size_t *count)
{
    size_t n = 0;
    *count = 0;
    if ((uintptr_t)groups % 8) return -EINVAL;
    for (size_t at = 0; at < len;) {
        struct i2_group *g = (struct i2_group *)(groups + at);
        if (len - at < sizeof *g || g->length < sizeof *g || g->length > len - at || g->length % 8)
            return -EINVAL;
        if (g->path_len > I2_PATH_LIMIT || i2_pad8(g->path_len) > g->length - sizeof *g) return -EINVAL;
        if (!jobs && !i2_path_clean((uint8_t *)(g + 1), g->path_len)) return -EINVAL;
        size_t end = at + g->length, before = n;
        for (at += sizeof *g + i2_pad8(g->path_len); at < end; n++) {
            struct i2_entry *e = (struct i2_entry *)(groups + at);
            if (end - at < sizeof *e || e->length != i2_pad8(sizeof *e + e->name_len) ||
                e->length > end - at || e->kind < I2_FILE || e->kind > I2_SOCK)
                return -EINVAL;
            if (!jobs && !i2_name_clean((uint8_t *)(e + 1), e->name_len)) return -EINVAL;
            if (jobs) jobs[n] = (struct i2_job){.group = g, .origin = &origins[*count], .entry = e};
            at += e->length;
        }
        if (n == before) continue;
        if (jobs) origins[*count] = (struct i2_origin){.group = g, .left = n - before, .fd = -1};
        ++*count;
    }
    return (int64_t)n;
}

static int64_t read_all(struct i2_hall *h, uint8_t *groups, size_t len, int threads)
{
    size_t count;
    int64_t n = read_groups(groups, len, NULL, NULL, &count);
    if (n <= 0) return n;
    h->n = (size_t)n;
    int hands = i2_hands(threads, (h->n + JOBS_A_HAND - 1) / JOBS_A_HAND);
    h->jobs = malloc(h->n * sizeof *h->jobs);
    h->origins = malloc(count * sizeof *h->origins);
    struct i2_reader *readers = calloc((size_t)hands, sizeof *readers);
    int64_t used = -ENOMEM;
    if (h->jobs && h->origins && readers) {
        read_groups(groups, len, h->jobs, h->origins, &count);
        pthread_mutex_init(&h->door, NULL);
        atomic_init(&h->next, 0);
        atomic_init(&h->head, 0);
        for (int i = 0; i < hands; i++) readers[i].hall = h;
        /* Directories first and in order: what is made in them comes behind them. */
        for (size_t i = 0; i < h->n; i++)
            if (h->jobs[i].entry->kind == I2_DIR) do_job(&readers[0], i);
        i2_crew(read_jobs, readers, sizeof *readers, hands);
        for (int i = 0; i < hands; i++) {
            free(readers[i].xattrs.p);
            free(readers[i].aside.p);
            free(readers[i].hashed.p);
            i2_reading_free(&readers[i].reading);
        }
        pthread_mutex_destroy(&h->door);
        used = (int64_t)i2_out_close_up(h);
    }
    free(readers);
    free(h->origins);
    free(h->jobs);
    return used;
}

int64_t i2_pack(int root, uint64_t dev, int shelf, uint8_t *groups, size_t groups_len, int mode,
                uint64_t small_max, int tries, int threads, uint8_t *out, size_t cap)
{
    if (mode < I2_PACK_ALL || mode > I2_PACK_STAGED || (uintptr_t)out % 8) return -EINVAL;
    if (small_max > INT32_MAX) small_max = INT32_MAX; /* a step's data_len and length have 32 bits */
    struct i2_hall h = {.root = root, .dev = dev, .shelf = shelf, .mode = mode, .small_max = small_max,
                        .tries = tries < 1 ? 1 : tries, .out = out, .cap = cap & ~(size_t)7};
    return read_all(&h, groups, groups_len, threads);
}

int64_t i2_digest_files(int root, uint64_t dev, int shelf, uint8_t *groups, size_t groups_len,
                        int content, int threads)
{
    struct i2_hall h = {.root = root, .dev = dev, .shelf = shelf, .mode = DIGEST, .content = content, .tries = 5};
    int64_t n = read_all(&h, groups, groups_len, threads);
    return n < 0 ? n : 0;
}

int64_t i2_attributes(int fd, int shelf, int unowned, uint8_t *out, size_t cap)
{
    const struct i2_bearer of = {.fd = fd, .unowned = unowned};
    struct i2_bytes records = {0}, aside = {0};
    int64_t n = i2_xattr_read(&of, &records);
    if (shelf >= 0 && (!n || n == -ENOTSUP)) {
        n = i2_aside_read(shelf, fd, "", AT_EMPTY_PATH, &aside);
        if (!n) n = i2_aside_lay(&aside, &records, unowned);
    }
    if (!n) n = records.len > cap ? -ENOBUFS : (int64_t)records.len;
    if (n > 0) memcpy(out, records.p, (size_t)n);
    free(records.p);
    free(aside.p);
    return n;
}
