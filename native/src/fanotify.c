/* One mark for a whole file system (fanotify(7), FAN_REPORT_DFID_NAME): which directory an event is of
 * comes as a file handle, which is resolved here once and remembered; events from outside the root end
 * here. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "fold.h"

/* Younger than some headers. */
#ifndef FAN_REPORT_TARGET_FID
#define FAN_REPORT_TARGET_FID 0x00001000
#endif
#ifndef FAN_RENAME
#define FAN_RENAME 0x10000000
#endif
#define INFO_FID 1
#define INFO_DFID_NAME 2
#define INFO_DFID 3
#define INFO_OLD 10
#define INFO_NEW 12

#define TRIES 50
#define READ_MAX 65536u
#define READ_MIN 4096u /* more than the longest event: two names, three handles */

#define CHANGES (FAN_CREATE | FAN_DELETE | FAN_MODIFY | FAN_CLOSE_WRITE | FAN_ATTRIB | FAN_ONDIR)
#define HALVES (FAN_MOVED_FROM | FAN_MOVED_TO)
#define OF_ROOT (FAN_MOVE_SELF | FAN_DELETE_SELF | FAN_ONDIR)

/* ------------------------------------------------------------------------------- places ------ */

#define WAYS 4u
#define HANDLE_MAX 40u /* longer ones are resolved each time */

struct place {
    uint64_t ino; /* 0: outside */
    uint32_t turn; /* of `places` when it was found; another: it may have moved since */
    uint16_t len; /* of the handle, 0: free */
    uint16_t type;
    uint8_t handle[HANDLE_MAX];
};

/* Sets of WAYS; a new one takes the place of the one that came before the others. */
struct places {
    uint32_t turn, next;
    struct place place[];
};

struct view {
    int root;
    const uint8_t *excluded;
    size_t excluded_len;
    struct places *places;
    size_t sets;
    char top[PATH_MAX]; /* path of root; its length 1 for "/" */
    size_t top_len;
    int lost; /* why events are: the errno of asking for a directory, EOVERFLOW of the queue */
};

/* As the kernel lays it out. */
struct handle {
    uint32_t len;
    int32_t type;
    const uint8_t *bytes;
};

static size_t set_of(const struct view *v, const struct handle *h)
{
    uint64_t x = (uint32_t)h->type * 0x9E3779B97F4A7C15ull;
    for (uint32_t i = 0; i < h->len; i += 8) {
        uint64_t word = 0;
        memcpy(&word, h->bytes + i, h->len - i < 8 ? h->len - i : 8);
        x = (x ^ word) * 0xD6E8FEB86659FD93ull;
        x ^= x >> 32;
    }
    return (size_t)(x % v->sets);
}

static ssize_t path_of(int fd, char path[PATH_MAX])
{
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, PATH_MAX - 1);
    if (len >= 0)
        path[len] = 0;
    return len;
}

/* Path of a directory, or where it is too long for the kernel to say, of the nearest above it whose path
 * is not, and that is as much inside; fd becomes that one's. */
static ssize_t path_above(int *fd, char path[PATH_MAX])
{
    ssize_t len;
    while ((len = path_of(*fd, path)) < 0 && errno == ENAMETOOLONG) {
        int up = openat(*fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (up < 0)
            return -1;
        close(*fd);
        *fd = up;
    }
    return len;
}

static int is_excluded(const struct view *v, const char *path, size_t len)
{
    const uint8_t *at = v->excluded, *end = v->excluded + v->excluded_len;
    while (at < end) {
        size_t n = strnlen((const char *)at, (size_t)(end - at));
        if (n <= len && memcmp(path, at, n) == 0 && (n == len || path[n] == '/'))
            return 1;
        at += n + 1;
    }
    return 0;
}

static int is_inside(const struct view *v, const char *path, size_t len)
{
    if (len == v->top_len && memcmp(path, v->top, len) == 0)
        return 1;
    size_t top = v->top_len == 1 ? 0 : v->top_len;
    if (len <= top + 1 || memcmp(path, v->top, top) != 0 || path[top] != '/')
        return 0;
    return !is_excluded(v, path + top + 1, len - top - 1);
}

static int open_handle(const struct view *v, const struct handle *h, int flags)
{
    union {
        struct file_handle head;
        uint8_t room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } u;
    if (h->len > MAX_HANDLE_SZ)
        return -EINVAL;
    u.head.handle_bytes = h->len, u.head.handle_type = h->type;
    memcpy(u.head.f_handle, h->bytes, h->len);
    for (int tries = 0;; tries++) {
        const struct timespec moment = {.tv_nsec = 1000000};
        int fd = open_by_handle_at(v->root, &u.head, flags | O_PATH | O_CLOEXEC);
        if (fd >= 0)
            return fd;
        /* Also said where the number of what is gone is being given to something new, for that moment.
         * Where it lasts memory is lacking, and the queue does not wait for each event of it. */
        if (errno != ENOMEM || tries == TRIES || v->lost)
            return -errno;
        nanosleep(&moment, NULL);
    }
}

/* Inode number of a directory, 0 where it is outside. 0 or -errno: ESTALE when it is gone. */
static int64_t ask(const struct view *v, const struct handle *h, uint64_t *ino)
{
    char path[PATH_MAX];
    struct stat st;
    int fd = open_handle(v, h, O_DIRECTORY);
    if (fd < 0)
        return fd;
    ssize_t len = fstat(fd, &st) ? -1 : path_above(&fd, path);
    int64_t result = len < 0 ? -errno : 0;
    close(fd);
    if (result == 0)
        *ino = is_inside(v, path, (size_t)len) ? st.st_ino : 0;
    return result;
}

/* Of what was in a directory that is gone nothing is to be done that is not told of the one above. */
static int is_gone(struct view *v, int64_t error)
{
    const int gone = error == -ESTALE || error == -ENOENT || error == -ENOTDIR;
    if (error && !gone && !v->lost)
        v->lost = (int)-error;
    return error != 0;
}

static uint64_t resolve(struct view *v, const struct handle *h)
{
    uint64_t ino = 0;
    if (h->len == 0)
        return 0;
    if (h->len > HANDLE_MAX)
        return is_gone(v, ask(v, h, &ino)) ? 0 : ino;
    struct place *set = v->places->place + WAYS * set_of(v, h), *slot = NULL;
    for (unsigned i = 0; i < WAYS; i++) {
        struct place *p = set + i;
        if (p->len != h->len || p->type != (uint16_t)h->type || memcmp(p->handle, h->bytes, h->len))
            continue;
        if (p->turn == v->places->turn)
            return p->ino;
        slot = p;
    }
    if (is_gone(v, ask(v, h, &ino)))
        return 0;
    for (unsigned i = 0; i < WAYS && !slot; i++)
        if (!set[i].len)
            slot = set + i;
    if (!slot)
        slot = set + v->places->next++ % WAYS;
    slot->ino = ino, slot->turn = v->places->turn;
    slot->len = (uint16_t)h->len, slot->type = (uint16_t)h->type;
    memcpy(slot->handle, h->bytes, h->len);
    return ino;
}

/* ------------------------------------------------------------------------------ decoding ----- */

struct told {
    struct handle dir, to, self;
    const uint8_t *name, *other;
    uint32_t name_len, other_len;
};

#define NOTHING ((const uint8_t *)"")

/* The records behind an event; 0 when they are not sound. */
static int decode(const uint8_t *at, size_t len, struct told *t)
{
    memset(t, 0, sizeof *t);
    t->name = t->other = NOTHING;
    while (len >= sizeof(struct fanotify_event_info_header)) {
        struct fanotify_event_info_header head;
        memcpy(&head, at, sizeof head);
        const size_t fixed = sizeof(struct fanotify_event_info_fid) + 8;
        if (head.len < sizeof head || head.len > len)
            return 0;
        int known = head.info_type == INFO_FID || head.info_type == INFO_DFID ||
                    head.info_type == INFO_DFID_NAME || head.info_type == INFO_OLD ||
                    head.info_type == INFO_NEW;
        if (known && head.len >= fixed) {
            struct handle h;
            memcpy(&h.len, at + sizeof(struct fanotify_event_info_fid), 4);
            memcpy(&h.type, at + sizeof(struct fanotify_event_info_fid) + 4, 4);
            h.bytes = at + fixed;
            if (h.len > head.len - fixed)
                return 0;
            const uint8_t *name = h.bytes + h.len;
            uint32_t room = head.len - (uint32_t)fixed - h.len;
            uint32_t name_len = room ? (uint32_t)strnlen((const char *)name, room) : 0;
            if (name_len == 1 && *name == '.')
                name_len = 0; /* the directory itself */
            if (head.info_type == INFO_FID)
                t->self = h;
            else if (head.info_type == INFO_NEW)
                t->to = h, t->other = name, t->other_len = name_len;
            else
                t->dir = h, t->name = name, t->name_len = name_len;
        }
        at += head.len, len -= head.len;
    }
    return 1;
}

/* An event of a file that was opened by its handle, as the NFS server does it, names neither directory
 * nor file where that was not in memory. Told is the directory where the kernel knows it to be by now, 0
 * where it knows nothing. */
static void take_nameless(const struct view *v, struct i2_fold *fold, const struct handle *file)
{
    struct i2_event e = {.mask = FAN_MODIFY};
    char path[PATH_MAX];
    struct stat st;
    int fd = open_handle(v, file, 0);
    if (fd < 0)
        return;
    ssize_t len = fstat(fd, &st) || !st.st_nlink ? -1 : path_of(fd, path);
    close(fd);
    if (len <= 0 || (len > 1 && !is_inside(v, path, (size_t)len)))
        return;
    if (len > 1) {
        *strrchr(path, '/') = 0;
        if (stat(*path ? path : "/", &st) == 0)
            e.where = st.st_ino;
    }
    i2_fold_add(fold, &e, NOTHING, NOTHING, 0);
}

static void take(struct view *v, struct i2_fold *fold, uint64_t mask, const struct told *t)
{
    const uint64_t alone = FAN_RENAME | HALVES | FAN_MOVE_SELF | FAN_DELETE_SELF;
    const int moves = (mask & (FAN_RENAME | FAN_MOVED_TO)) != 0, dir = (mask & FAN_ONDIR) != 0;
    struct i2_event e = {.mask = (uint32_t)mask, .name_len = t->name_len, .other_len = t->other_len};
    if (mask & FAN_Q_OVERFLOW) {
        v->lost = EOVERFLOW;
        return;
    }
    if (!t->dir.bytes && t->self.bytes && mask & (FAN_MODIFY | FAN_CLOSE_WRITE)) {
        take_nameless(v, fold, &t->self);
        return;
    }
    e.where = resolve(v, &t->dir);
    e.to = t->to.bytes ? resolve(v, &t->to) : 0;
    if (!e.where && !e.to)
        return;
    if (moves && dir)
        v->places->turn++; /* whatever is below it may be inside now, or outside */
    if (dir && t->self.bytes && t->name_len)
        e.what = resolve(v, &t->self);
    i2_fold_add(fold, &e, t->name, t->other, (mask & alone) != 0);
}

int64_t i2_fanotify(int group, int root, const uint8_t *excluded, size_t excluded_len, uint8_t *places,
                    size_t places_len, uint8_t *out, size_t cap)
{
    _Alignas(8) uint8_t raw[READ_MAX];
    struct view v = {.root = root, .excluded = excluded, .excluded_len = excluded_len};
    struct i2_fold fold;
    int64_t result = 0;
    v.places = (struct places *)places;
    v.sets = places_len > sizeof *v.places
                 ? (places_len - sizeof *v.places) / (WAYS * sizeof(struct place))
                 : 0;
    ssize_t top = path_of(root, v.top);
    if (((uintptr_t)out | (uintptr_t)places) & 7 || !v.sets || top <= 0)
        return -EINVAL;
    v.top_len = (size_t)top;
    i2_fold_begin(&fold, out, cap);
    for (;;) {
        /* an event takes at most twice what it takes in the kernel's form, of 52 bytes and more */
        size_t room = (fold.cap - fold.used) / 2;
        room = room < READ_MAX ? room : READ_MAX;
        if (room < READ_MIN) {
            result = fold.used ? 0 : -ENOBUFS;
            break;
        }
        ssize_t got = read(group, raw, room);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno != EAGAIN && fold.used == 0)
            result = -errno;
        if (got <= 0)
            break;
        for (size_t at = 0; at + sizeof(struct fanotify_event_metadata) <= (size_t)got;) {
            struct fanotify_event_metadata m;
            struct told t;
            memcpy(&m, raw + at, sizeof m);
            if (m.event_len < m.metadata_len || m.event_len > (size_t)got - at) {
                result = -EPROTO;
                break;
            }
            if (decode(raw + at + m.metadata_len, m.event_len - m.metadata_len, &t))
                take(&v, &fold, m.mask, &t);
            at += m.event_len;
        }
    }
    if (v.lost) {
        /* There is room: what was read is half of what there was. */
        const struct i2_event e = {.mask = FAN_Q_OVERFLOW, .cookie = (uint32_t)v.lost};
        i2_fold_add(&fold, &e, NOTHING, NOTHING, 1);
    }
    i2_fold_end(&fold);
    return result < 0 ? result : (int64_t)fold.used;
}

/* Whether handles can be resolved: that takes a right of its own (open_by_handle_at(2)), and without it
 * nothing would be known of any event. 0 or an errno. */
static int cannot_resolve(int root)
{
    union {
        struct file_handle head;
        uint8_t room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } u;
    int mount;
    u.head.handle_bytes = MAX_HANDLE_SZ;
    if (name_to_handle_at(root, "", &u.head, &mount, AT_EMPTY_PATH) < 0)
        return errno;
    int fd = open_by_handle_at(root, &u.head, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    close(fd);
    return 0;
}

int64_t i2_fanotify_open(int root, int32_t *told)
{
    const unsigned kind = FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_DFID_NAME;
    int error = cannot_resolve(root);
    if (error)
        return -error;
    for (int with = *told != 0; with >= 0; with--) {
        const unsigned more = with ? FAN_REPORT_FID | FAN_REPORT_TARGET_FID : 0;
        int group = fanotify_init(kind | more, O_RDONLY | O_LARGEFILE);
        if (group < 0) {
            error = errno;
            continue;
        }
        const uint64_t mask = CHANGES | (with ? FAN_RENAME : HALVES);
        if (fanotify_mark(group, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, mask, root, NULL) == 0 &&
            fanotify_mark(group, FAN_MARK_ADD, OF_ROOT, root, NULL) == 0) {
            *told = with;
            return group;
        }
        error = errno;
        close(group);
    }
    return -error;
}
