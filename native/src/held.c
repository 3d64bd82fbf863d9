/* What can be written without an event: files that processes have mapped, or hold open for writing.
 *
 * Looked for in proc(5). A descriptor's link has the write bit of its mode where the file was opened for
 * writing, and so has the link of a mapping; of a mapping that is shared that is what decides, since
 * mprotect(2) makes it writable at any time. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "path.h"
#include "writers.h"

/* Headers of EL8 do not know the mount in a statx; where it stands is the kernel's ABI. */
#define MNT_ID 0x1000u
#define MNT_ID_AT 0x90

#define MAPS_SIZE (16u << 10)
#define HANDLE_MAX 128u

/* Told already: flags as in the record, and these. */
#define ELSEWHERE 4u /* its path is not in the tree, its number was told for other names */

struct told {
    uint64_t ino;
    unsigned what;
};

struct scan {
    int root;
    uint64_t dev, mount; /* mount 0: the kernel does not say */
    char top[PATH_MAX];  /* of the root, with a slash at the end */
    size_t top_len;
    struct told *slot; /* open addressing, ino 0 is free */
    size_t slots, used;
    uint8_t *out;
    size_t size, cap; /* size goes on counting where out is full */
    char maps[MAPS_SIZE + 1];
};

struct seen {
    uint64_t ino, mount;
    uint32_t nlink;
};

/* ------------------------------------------------------------------------------ told once ----- */

static struct told *find(const struct scan *s, uint64_t ino)
{
    size_t at = (size_t)((ino * 0x9E3779B97F4A7C15ull) >> 20);
    for (;; at++) {
        struct told *t = &s->slot[at & (s->slots - 1)];
        if (t->ino == ino || !t->ino) return t;
    }
}

/* What was told of an inode; NULL without memory. */
static struct told *told(struct scan *s, uint64_t ino)
{
    if (2 * s->used >= s->slots) {
        struct scan more = *s;
        more.slots = s->slots ? 4 * s->slots : 1024;
        more.slot = calloc(more.slots, sizeof *more.slot);
        if (!more.slot) return NULL;
        for (size_t i = 0; i < s->slots; i++)
            if (s->slot[i].ino) *find(&more, s->slot[i].ino) = s->slot[i];
        free(s->slot);
        s->slot = more.slot;
        s->slots = more.slots;
    }
    struct told *t = find(s, ino);
    s->used += !t->ino;
    t->ino = ino;
    return t;
}

static void tell(struct scan *s, uint64_t ino, unsigned flags, const char *path, size_t len)
{
    size_t length = i2_pad8(sizeof(struct i2_holding) + len);
    if (s->size + length <= s->cap) {
        struct i2_holding *h = (struct i2_holding *)(s->out + s->size);
        memset(h, 0, length);
        *h = (struct i2_holding){(uint32_t)length, flags, ino, (uint32_t)len, 0};
        memcpy(h + 1, path, len);
    }
    s->size += length;
}

/* ------------------------------------------------------------------------------ where it is --- */

/* The path of an open file by the root's own mount: another mount of the file system, in another
 * namespace perhaps, gives it another one. Bytes in path, or 0. */
static size_t path_here(const struct scan *s, int dir, const char *name, char path[PATH_MAX])
{
    union {
        struct file_handle h;
        char room[sizeof(struct file_handle) + HANDLE_MAX];
    } u;
    char link[40];
    int mount;
    u.h.handle_bytes = HANDLE_MAX;
    if (name_to_handle_at(dir, name, &u.h, &mount, AT_SYMLINK_FOLLOW) < 0) return 0;
    int fd = open_by_handle_at(s->root, &u.h, O_PATH | O_CLOEXEC);
    if (fd < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX);
    close(fd);
    return n > 0 && n < PATH_MAX ? (size_t)n : 0;
}

/* Tells of a file of the root's file system that a link of /proc leads to. */
static int found(struct scan *s, int dir, const char *name, const struct seen *f, unsigned flag)
{
    struct told *t = told(s, f->ino);
    if (!t) return -ENOMEM;
    if (t->what & flag || t->what & I2_HELD_MAPPED) return 0;
    char path[PATH_MAX];
    size_t len = 0;
    if (!s->mount || f->mount != s->mount) len = path_here(s, dir, name, path);
    if (!len) {
        ssize_t n = readlinkat(dir, name, path, sizeof path);
        if (n <= 0 || n >= PATH_MAX) return 0;
        len = (size_t)n;
    }
    if (len > s->top_len && memcmp(path, s->top, s->top_len) == 0) {
        t->what |= flag;
        tell(s, f->ino, flag, path + s->top_len, len - s->top_len);
        return 0;
    }
    const char gone[] = " (deleted)";
    const size_t end = sizeof gone - 1;
    if (f->nlink == 1 && !(len > end && memcmp(path + len - end, gone, end) == 0)) {
        t->what |= I2_HELD_MAPPED | I2_HELD_OPEN; /* the one name it has is not below the root */
    } else if (!(t->what & flag * ELSEWHERE)) {
        t->what |= flag * ELSEWHERE;
        tell(s, f->ino, flag, path, 0);
    }
    return 0;
}

/* Follows a link of /proc: 1 when it leads to a regular file with a name, on the root's file system; -1
 * when it may not be followed. */
static int leads_here(const struct scan *s, int dir, const char *name, struct seen *f)
{
    struct statx stx;
    *f = (struct seen){0};
    if (statx(dir, name, AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, STATX_BASIC_STATS | MNT_ID, &stx) == 0) {
        if (stx.stx_mask & MNT_ID) memcpy(&f->mount, (const char *)&stx + MNT_ID_AT, sizeof f->mount);
        f->ino = stx.stx_ino;
        f->nlink = stx.stx_nlink;
        return S_ISREG(stx.stx_mode) && i2_statx_dev(&stx) == s->dev && stx.stx_nlink;
    }
    struct stat st;
    if ((errno != ENOSYS && errno != EPERM) || fstatat(dir, name, &st, AT_NO_AUTOMOUNT) < 0)
        return errno == EPERM ? -1 : 0;
    f->ino = st.st_ino;
    f->nlink = (uint32_t)st.st_nlink;
    return S_ISREG(st.st_mode) && st.st_dev == s->dev && st.st_nlink;
}

static int written(int dir, const char *name)
{
    struct stat st;
    return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_mode & S_IWUSR;
}

/* ------------------------------------------------------------------------------ a process ----- */

/* A line of /proc/PID/maps: address-address perms offset major:minor inode path. */
static int mapping(struct scan *s, int maps, char *line)
{
    char *at = strchr(line, ' ');
    if (!at || strlen(at) < 5 || at[4] != 's') return 0;
    char *path = strchr(at, '/');
    if (!path || !strncmp(path, "/memfd:", 7) || !strncmp(path, "/SYSV", 5)) return 0;
    *at = 0;
    struct seen f;
    if (at[2] != 'w' && !written(maps, line)) return 0;
    int here = leads_here(s, maps, line, &f);
    if (here > 0) return found(s, maps, line, &f, I2_HELD_MAPPED);
    if (here == 0 || strncmp(path, s->top, s->top_len) || strchr(path, '\\')) return 0;
    /* The link may not be followed (proc(5), map_files): what the line says is for the caller to check. */
    unsigned long long ino;
    if (sscanf(at + 1, "%*s %*s %*s %llu", &ino) != 1 || !ino) return 0;
    tell(s, ino, I2_HELD_MAPPED, path + s->top_len, strlen(path) - s->top_len);
    return 0;
}

/* Returns bytes read, 0 for what has no memory, a thread of the kernel or a zombie; or -errno. */
static int64_t mappings(struct scan *s, int pid)
{
    int fd = openat(pid, "maps", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    int links = openat(pid, "map_files", O_PATH | O_DIRECTORY | O_CLOEXEC);
    int64_t all = 0, err = 0;
    size_t have = 0;
    for (ssize_t n; !err && (n = read(fd, s->maps + have, MAPS_SIZE - have)) > 0;) {
        all += n;
        have += (size_t)n;
        char *line = s->maps, *end;
        while (!err && (end = memchr(line, '\n', have - (size_t)(line - s->maps)))) {
            *end = 0;
            err = links < 0 ? 0 : mapping(s, links, line);
            line = end + 1;
        }
        have -= (size_t)(line - s->maps);
        memmove(s->maps, line, have);
        if (have == MAPS_SIZE) have = 0; /* longer than a line can be */
    }
    if (links >= 0) close(links);
    close(fd);
    return err ? err : all;
}

static int descriptors(struct scan *s, int pid)
{
    int fd = openat(pid, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return -errno;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return -ENOMEM;
    }
    int err = 0;
    for (struct dirent *d; !err && (d = readdir(dir));) {
        struct seen f;
        if (d->d_name[0] != '.' && written(fd, d->d_name) && leads_here(s, fd, d->d_name, &f) > 0)
            err = found(s, fd, d->d_name, &f, I2_HELD_OPEN);
    }
    closedir(dir);
    return err;
}

/* Whether a process has memory and was looked through; or -errno. */
static int64_t look(struct scan *s, int proc, const char *name)
{
    int pid = openat(proc, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int64_t err = pid < 0 ? -errno : mappings(s, pid);
    if (err > 0) {
        err = descriptors(s, pid);
        err = err ? err : 1;
    }
    if (pid >= 0) close(pid);
    return err == -ENOENT || err == -ESRCH ? 0 : err; /* it ended meanwhile */
}

/* The same of a process whose first thread has ended: its other threads, by whose numbers /proc has
 * all that it has of a process, hold what it held. */
static int64_t others(struct scan *s, int proc, const char *name)
{
    char path[32];
    struct stat st;
    snprintf(path, sizeof path, "%.16s/task", name);
    /* Its links are two and the threads: threads of the kernel and zombies are not looked into. */
    if (fstatat(proc, path, &st, 0) < 0 || st.st_nlink < 4) return 0;
    int fd = openat(proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT || errno == ESRCH ? 0 : -errno;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return -ENOMEM;
    }
    int64_t err = 0;
    for (struct dirent *d; !err && (d = readdir(dir));)
        if (d->d_name[0] != '.' && strcmp(d->d_name, name)) err = look(s, proc, d->d_name);
    closedir(dir);
    return err;
}

/* 0, 1 when it may not be looked into, or -errno. */
static int process(struct scan *s, int proc, const char *name)
{
    int64_t err = look(s, proc, name);
    if (!err) err = others(s, proc, name);
    if (err == -EACCES || err == -EPERM) return 1;
    return err < 0 ? (int)err : 0;
}

static int begin(struct scan *s)
{
    char link[40];
    struct seen root;
    snprintf(link, sizeof link, "/proc/self/fd/%d", s->root);
    ssize_t n = readlink(link, s->top, sizeof s->top);
    if (n < 0) return -errno;
    if (n >= PATH_MAX - 1) return -ENAMETOOLONG;
    if (n > 1) s->top[n++] = '/';
    s->top[n] = 0;
    s->top_len = (size_t)n;
    leads_here(s, s->root, ".", &root);
    s->mount = root.mount;
    return 0;
}

int64_t i2_held(int root, uint64_t dev, uint8_t *out, size_t cap, uint64_t *refused, uint64_t *need)
{
    if ((uintptr_t)out % 8) return -EINVAL;
    struct scan *s = calloc(1, sizeof *s);
    if (!s) return -ENOMEM;
    *s = (struct scan){.root = root, .dev = dev, .out = out, .cap = cap};
    *refused = *need = 0;
    int err = begin(s);
    DIR *proc = err ? NULL : opendir("/proc");
    if (!err && !proc) err = -errno;
    long self = (long)getpid();
    for (struct dirent *d; !err && (d = readdir(proc));) {
        if (d->d_name[0] < '1' || d->d_name[0] > '9' || atol(d->d_name) == self) continue;
        err = process(s, dirfd(proc), d->d_name);
        if (err == 1) {
            ++*refused;
            err = 0;
        }
    }
    if (proc) closedir(proc);
    *need = s->size;
    int64_t used = err ? err : s->size > cap ? -ENOBUFS : (int64_t)s->size;
    free(s->slot);
    free(s);
    return used;
}

/* ------------------------------------------------------------------------------ write-back ---- */

/* Magic numbers of statfs(2) of file systems that write-protect what they wrote back, and stamp the
 * file at the next write through a mapping (file_update_time in their page_mkwrite). */
static int stamps(unsigned long type)
{
    return type == 0xEF53 /* ext4 */ || type == 0x58465342 /* XFS */ || type == 0x9123683E /* btrfs */ ||
           type == 0xF2F52010 /* f2fs */;
}

int64_t i2_write_back(int fd)
{
    struct statfs fs;
    if (fstatfs(fd, &fs) < 0) return -errno;
    if (!stamps((unsigned long)fs.f_type)) return 0;
    const unsigned all =
        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    return sync_file_range(fd, 0, 0, all) < 0 ? -errno : 1;
}
