/* Listing directories: i2_list, i2_stat. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "crew.h"
#include "path.h"

#ifndef STATX_ATTR_MOUNT_ROOT
#define STATX_ATTR_MOUNT_ROOT 0x2000
#endif

#define DENTS_SIZE (256u << 10)

struct dirent64 {
    uint64_t ino;
    int64_t off;
    uint16_t length;
    uint8_t type;
    char name[];
};

struct name {
    uint64_t ino;
    size_t at; /* in names.p */
    uint32_t len;
};

struct place {
    uint64_t head; /* first eight bytes of the name as a number that sorts like them */
    uint32_t i;
};

/* What one thread holds while it lists; reused from directory to directory. */
struct scratch {
    struct i2_kernel k;
    uint8_t *dents;
    uint8_t *chars; /* the names, each ended by NUL */
    size_t chars_len, chars_cap;
    struct name *names;
    struct i2_entry *entries;
    struct place *order;
    size_t n, cap;
    const uint8_t **skip; /* sorted by strcmp */
    size_t skips, skip_cap;
    /* the directory at hand */
    struct i2_listing head;
    struct i2_entry self;
    size_t size; /* of the whole answer */
    int flags; /* see i2_list */
};

static void scratch_free(struct scratch *s)
{
    free(s->dents);
    free(s->chars);
    free(s->names);
    free(s->entries);
    free(s->order);
    free(s->skip);
}

/* Room for one more of `size` bytes in *p; 0 or -ENOMEM. */
static int room(void *p, size_t need, size_t *cap, size_t size)
{
    if (need <= *cap) return 0;
    size_t more = *cap ? *cap * 2 : 256;
    while (more < need) more *= 2;
    void *grown = realloc(*(void **)p, more * size);
    if (!grown) return -ENOMEM;
    *(void **)p = grown;
    *cap = more;
    return 0;
}

static int add_name(struct scratch *s, const char *name, size_t len, uint64_t ino)
{
    if (len > I2_NAME_LIMIT) return -ENAMETOOLONG;
    if (s->n == UINT32_MAX) return -EOVERFLOW;
    if (s->n == s->cap) {
        size_t cap = s->cap;
        if (room(&s->names, s->n + 1, &cap, sizeof *s->names)) return -ENOMEM;
        cap = s->cap;
        if (room(&s->entries, s->n + 1, &cap, sizeof *s->entries)) return -ENOMEM;
        cap = s->cap;
        if (room(&s->order, s->n + 1, &cap, sizeof *s->order)) return -ENOMEM;
        s->cap = cap;
    }
    if (room(&s->chars, s->chars_len + len + 1, &s->chars_cap, 1)) return -ENOMEM;
    memcpy(s->chars + s->chars_len, name, len);
    s->chars[s->chars_len + len] = 0;
    s->names[s->n++] = (struct name){ino, s->chars_len, (uint32_t)len};
    s->chars_len += len + 1;
    return 0;
}

static int by_string(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int read_skips(struct scratch *s, const uint8_t *list, size_t len)
{
    s->skips = 0;
    for (size_t at = 0; at < len;) {
        if (room(&s->skip, s->skips + 1, &s->skip_cap, sizeof *s->skip)) return -ENOMEM;
        s->skip[s->skips++] = list + at;
        at += strlen((const char *)list + at) + 1;
    }
    if (s->skips > 1) qsort(s->skip, s->skips, sizeof *s->skip, by_string);
    return 0;
}

static int read_names(struct scratch *s, int fd)
{
    if (!s->dents && !(s->dents = malloc(DENTS_SIZE))) return -ENOMEM;
    for (;;) {
        long got = syscall(SYS_getdents64, fd, s->dents, DENTS_SIZE);
        if (got <= 0) return got ? -errno : 0;
        for (long at = 0; at < got;) {
            const struct dirent64 *d = (const struct dirent64 *)(s->dents + at);
            at += d->length;
            const char *name = d->name;
            if (name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]))) continue;
            if (s->skips && bsearch(&name, s->skip, s->skips, sizeof *s->skip, by_string)) continue;
            int err = add_name(s, name, strlen(name), d->ino);
            if (err) return err;
        }
    }
}

static int by_ino(const void *a, const void *b)
{
    const struct name *x = a, *y = b;
    return (x->ino > y->ino) - (x->ino < y->ino);
}

/* Inode order is close to disk order on ext4 and XFS: a cold walk reads the tables forward. */
static void sort_by_ino(struct scratch *s)
{
    for (size_t i = 1; i < s->n; i++)
        if (s->names[i].ino < s->names[i - 1].ino) {
            qsort(s->names, s->n, sizeof *s->names, by_ino);
            return;
        }
}

static int stat_all(struct scratch *s, int fd, uint64_t dev)
{
    int64_t racy_after = i2_racy_after();
    size_t kept = 0;
    for (size_t i = 0; i < s->n; i++) {
        struct statx stx;
        struct name name = s->names[i];
        int err = i2_statx(&s->k, fd, (const char *)s->chars + name.at, 0, &stx);
        if (err == -ENOENT) continue;
        struct i2_entry *e = &s->entries[kept];
        memset(e, 0, sizeof *e);
        if (!err) i2_entry_fill(e, &stx, racy_after);
        if (!err && !e->kind) err = -EIO;
        if (err && !(s->flags & I2_LIST_PARTIAL)) return err;
        if (s->flags & I2_LIST_UNOWNED) i2_entry_disown(e);
        if (err) {
            e->kind = I2_FILE;
            e->status = (uint16_t)-err;
            s->head.unread++;
        }
        if (e->kind == I2_DIR &&
            (i2_statx_dev(&stx) != dev ||
             (stx.stx_attributes & stx.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT)))
            e->flags |= I2_MOUNT;
        e->name_len = (uint16_t)name.len;
        e->length = (uint32_t)i2_pad8(sizeof *e + name.len);
        s->size += e->length;
        s->head.dirs += e->kind == I2_DIR;
        if (e->kind == I2_FILE) s->head.bytes += e->size;
        s->names[kept++] = name;
    }
    s->n = kept;
    return 0;
}

static int by_name(const void *a, const void *b, void *of)
{
    const struct place *x = a, *y = b;
    if (x->head != y->head) return x->head > y->head ? 1 : -1;
    const struct scratch *s = of;
    /* NUL ends a name and can stand in none, so this is memcmp order of names. */
    return strcmp((const char *)s->chars + s->names[x->i].at,
                  (const char *)s->chars + s->names[y->i].at);
}

static void sort_by_name(struct scratch *s)
{
    for (size_t i = 0; i < s->n; i++) {
        const struct name *name = &s->names[i];
        uint64_t head = 0;
        memcpy(&head, s->chars + name->at, name->len < 8 ? name->len : 8);
        s->order[i] = (struct place){__builtin_bswap64(head), (uint32_t)i};
    }
    if (s->n > 1) qsort_r(s->order, s->n, sizeof *s->order, by_name, s);
}

/* What a directory that cannot be told of says: its ticket and why. */
static void nothing(struct scratch *s, int err)
{
    s->n = 0;
    s->head.n = s->head.dirs = 0;
    s->head.bytes = s->head.unread = 0;
    s->head.self_len = 0;
    s->head.status = -err;
    s->size = sizeof s->head;
}

static void begin(struct scratch *s, uint32_t ticket)
{
    s->n = s->chars_len = 0;
    memset(&s->head, 0, sizeof s->head);
    memset(&s->self, 0, sizeof s->self);
    s->head.ticket = ticket;
    s->head.wd = -1;
    s->size = sizeof s->head + sizeof s->self;
}

static void describe_self(struct scratch *s, const struct statx *self)
{
    i2_entry_fill(&s->self, self, i2_racy_after());
    if (s->flags & I2_LIST_UNOWNED) i2_entry_disown(&s->self);
    s->self.length = s->head.self_len = sizeof s->self;
    s->head.dev = i2_statx_dev(self);
}

static void finish(struct scratch *s, int err)
{
    if (!err && s->size > UINT32_MAX) err = -EOVERFLOW;
    if (err) nothing(s, err);
    else sort_by_name(s);
    s->head.n = (uint32_t)s->n;
    s->head.length = (uint32_t)s->size;
}

static void emit(const struct scratch *s, uint8_t *out)
{
    memcpy(out, &s->head, sizeof s->head);
    out += sizeof s->head;
    if (!s->head.self_len) return;
    memcpy(out, &s->self, sizeof s->self);
    out += sizeof s->self;
    for (size_t i = 0; i < s->n; i++) {
        const struct i2_entry *e = &s->entries[s->order[i].i];
        memcpy(out, e, sizeof *e);
        memcpy(out + sizeof *e, s->chars + s->names[s->order[i].i].at, e->name_len);
        memset(out + sizeof *e + e->name_len, 0, e->length - sizeof *e - e->name_len);
        out += e->length;
    }
}

static void watch(struct scratch *s, int notify, uint32_t mask, int fd)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    /* The link in /proc is to be followed, and ends at the directory we hold, wherever it is now. */
    s->head.wd = inotify_add_watch(notify, path, mask & ~(uint32_t)IN_DONT_FOLLOW);
    if (s->head.wd < 0) {
        s->head.wd = -1;
        s->head.wd_status = errno;
    }
}

static void list_one(struct scratch *s, int root, uint64_t dev, const struct i2_dir *dir, int notify,
                     uint32_t mask)
{
    const uint8_t *path = (const uint8_t *)(dir + 1);
    struct statx self;
    begin(s, dir->ticket);
    int fd = i2_open_dir(&s->k, root, dev, path, dir->path_len, &self);
    if (fd < 0) {
        finish(s, fd);
        return;
    }
    describe_self(s, &self);
    if (notify >= 0) watch(s, notify, mask, fd);
    int err = read_skips(s, path + dir->path_len, dir->skip_len);
    if (!err) err = read_names(s, fd);
    if (!err) {
        sort_by_ino(s);
        err = stat_all(s, fd, dev);
    }
    close(fd);
    finish(s, err);
}

/* ---------------------------------------------------------------------------- many at a time -- */

struct answer {
    const struct i2_dir *dir;
    uint8_t *record;
    size_t size;
};

struct hall {
    int root, notify, flags;
    uint64_t dev;
    uint32_t mask;
    size_t cap, n;
    struct answer *answers;
    atomic_size_t next, bytes;
};

struct walker {
    struct hall *hall;
    struct scratch s;
};

static void *walk(void *arg)
{
    struct walker *w = arg;
    struct hall *h = w->hall;
    w->s.flags = h->flags;
    while (atomic_load(&h->bytes) < h->cap) {
        size_t i = atomic_fetch_add(&h->next, 1);
        if (i >= h->n) break;
        struct answer *a = &h->answers[i];
        list_one(&w->s, h->root, h->dev, a->dir, h->notify, h->mask);
        a->size = w->s.size;
        a->record = malloc(a->size);
        if (a->record) emit(&w->s, a->record);
        atomic_fetch_add(&h->bytes, a->size);
    }
    scratch_free(&w->s);
    return NULL;
}

static int64_t list_many(struct hall *h, int hands, uint8_t *out, uint64_t *done)
{
    struct walker *walkers = calloc((size_t)hands, sizeof *walkers);
    if (!walkers) return -ENOMEM;
    for (int i = 0; i < hands; i++) walkers[i].hall = h;
    i2_crew(walk, walkers, sizeof *walkers, hands);
    free(walkers);

    size_t used = 0, i = 0;
    int64_t result = 0;
    for (; i < h->n && h->answers[i].size; i++) {
        struct answer *a = &h->answers[i];
        if (!a->record) {
            if (i == 0) result = -ENOMEM;
            break;
        }
        if (a->size > h->cap - used) {
            if (i == 0) {
                *done = a->size;
                result = -ENOBUFS;
            }
            break;
        }
        memcpy(out + used, a->record, a->size);
        used += a->size;
    }
    for (size_t j = 0; j < h->n; j++) free(h->answers[j].record);
    if (result) return result;
    *done = i;
    return (int64_t)used;
}

static int64_t list_alone(struct hall *h, uint8_t *out, uint64_t *done)
{
    struct scratch s;
    memset(&s, 0, sizeof s);
    s.flags = h->flags;
    size_t used = 0, i = 0;
    int64_t result = 0;
    for (; i < h->n; i++) {
        list_one(&s, h->root, h->dev, h->answers[i].dir, h->notify, h->mask);
        if (s.size > h->cap - used) {
            if (i == 0) result = -ENOBUFS;
            break;
        }
        emit(&s, out + used);
        used += s.size;
    }
    *done = result ? s.size : i;
    scratch_free(&s);
    return result ? result : (int64_t)used;
}

/* Counts the requests of a packed buffer, -EINVAL when one does not fit; fills answers when given. */
static int64_t read_requests(const uint8_t *dirs, size_t len, struct answer *answers)
{
    size_t n = 0;
    if ((uintptr_t)dirs % 8 || len % 8) return -EINVAL;
    for (size_t at = 0; at < len; n++) {
        const struct i2_dir *d = (const struct i2_dir *)(dirs + at);
        if (len - at < sizeof *d || d->length < sizeof *d || d->length > len - at || d->length % 8)
            return -EINVAL;
        size_t room = d->length - sizeof *d;
        if (d->path_len > room || d->skip_len > room - d->path_len) return -EINVAL;
        if (d->skip_len && ((const uint8_t *)(d + 1))[d->path_len + d->skip_len - 1]) return -EINVAL;
        if (answers) answers[n].dir = d;
        at += d->length;
    }
    return (int64_t)n;
}

int64_t i2_list(int root, uint64_t dev, const uint8_t *dirs, size_t dirs_len, int notify,
                uint32_t mask, int flags, int threads, uint8_t *out, size_t cap, uint64_t *done)
{
    *done = 0;
    int64_t n = read_requests(dirs, dirs_len, NULL);
    if (n <= 0) return n;
    struct answer *answers = calloc((size_t)n, sizeof *answers);
    if (!answers) return -ENOMEM;
    read_requests(dirs, dirs_len, answers);
    struct hall h = {.root = root, .notify = notify, .flags = flags, .dev = dev, .mask = mask,
                     .cap = cap, .n = (size_t)n, .answers = answers};
    atomic_init(&h.next, 0);
    atomic_init(&h.bytes, 0);
    int hands = i2_hands(threads, h.n);
    int64_t used;
    if (cap < sizeof(struct i2_listing)) {
        *done = sizeof(struct i2_listing) + sizeof(struct i2_entry);
        used = -ENOBUFS;
    } else {
        used = hands == 1 ? list_alone(&h, out, done) : list_many(&h, hands, out, done);
    }
    free(answers);
    return used;
}

/* ---------------------------------------------------------------------------- some names ------ */

/* A name asked for twice would make an unsound listing. */
static int refuse_doubles(struct scratch *s)
{
    sort_by_name(s);
    for (size_t i = 1; i < s->n; i++)
        if (by_name(&s->order[i - 1], &s->order[i], s) == 0) return -EINVAL;
    return 0;
}

int64_t i2_stat(int root, uint64_t dev, const uint8_t *path, size_t path_len, const uint8_t *names,
                size_t names_len, int flags, uint8_t *out, size_t cap)
{
    if (names_len && names[names_len - 1]) return -EINVAL;
    struct scratch s;
    struct statx self;
    memset(&s, 0, sizeof s);
    s.flags = flags;
    begin(&s, 0);
    int err = 0;
    for (size_t at = 0; at < names_len && !err;) {
        size_t len = strlen((const char *)names + at);
        err = i2_name_clean(names + at, len) ? add_name(&s, (const char *)names + at, len, 0) : -EINVAL;
        at += len + 1;
    }
    if (!err) err = refuse_doubles(&s);
    int64_t used = err;
    if (!err) {
        int fd = i2_open_dir(&s.k, root, dev, path, path_len, &self);
        if (fd >= 0) {
            describe_self(&s, &self);
            err = stat_all(&s, fd, dev);
            close(fd);
        } else {
            err = fd;
        }
        finish(&s, err);
        used = s.size > cap ? -ENOBUFS : (int64_t)s.size;
        if (used > 0) emit(&s, out);
    }
    scratch_free(&s);
    return used;
}
