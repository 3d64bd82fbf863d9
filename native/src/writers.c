/* Who has a file open for writing, and whether all of them can do no more than append to it.
 *
 * Looked for in /proc: descriptors of all processes (proc_pid_fdinfo(5) tells their flags), and mappings
 * (proc_pid_maps(5)), which outlive the descriptor they were made with. A descriptor with O_WRONLY and
 * O_APPEND can neither write elsewhere than at the end nor be mapped (mmap(2)). Not to be seen are a
 * thread with a table of descriptors of its own, descriptors in flight (unix(7)) or registered with an
 * io_uring, and the kernel itself. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "mover.h"
#include "path.h"
#include "writers.h"

#define FIRST_PID_SPACE 0xEFFFFFFCu /* inode number of /proc/self/ns/pid where all processes show */
#define LINE_MAX_MAPS 65536u

struct wanted {
    uint64_t dev, ino;
    int32_t (*found)[2];
    size_t cap, n;
};

static int is_gone(int err)
{
    return err == ENOENT || err == ESRCH;
}

/* The number that all of the text is, or -1. */
static long number(const char *text)
{
    char *end;
    if (*text < '0' || *text > '9') return -1;
    long n = strtol(text, &end, 10);
    return *end ? -1 : n;
}

/* 1: what is open as this is the file; 0: it is not, or is open no more; -errno. Nobody is asked who may
 * be out of reach. */
static int is_it(const struct wanted *w, int dir, const char *fd)
{
    struct statx st;
    if (statx(dir, fd, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE | STATX_INO, &st) < 0)
        return is_gone(errno) ? 0 : -errno;
    return S_ISREG(st.stx_mode) && st.stx_ino == w->ino && i2_statx_dev(&st) == w->dev;
}

/* The flags of a descriptor, of process directory proc; -errno. */
static long flags_of(int proc, const char *fd)
{
    char name[40], text[256];
    snprintf(name, sizeof name, "fdinfo/%s", fd);
    int info = openat(proc, name, O_RDONLY | O_CLOEXEC);
    if (info < 0) return -errno;
    ssize_t n = read(info, text, sizeof text - 1);
    int err = errno;
    close(info);
    if (n < 0) return -err;
    text[n] = 0;
    const char *at = strstr(text, "flags:");
    return at ? strtol(at + 6, NULL, 8) : -EIO;
}

/* 1: it can append and nothing else; 0: it cannot write; -EBUSY: it can write anywhere. */
static int appends(long flags)
{
    if (flags & O_PATH || (flags & O_ACCMODE) == O_RDONLY) return 0;
    return (flags & O_ACCMODE) == O_WRONLY && flags & O_APPEND ? 1 : -EBUSY;
}

static int look_at_descriptors(struct wanted *w, int proc, int pid)
{
    int err = 0, at = openat(proc, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (at < 0) return is_gone(errno) ? 0 : -errno;
    DIR *dir = fdopendir(at);
    if (!dir) {
        close(at);
        return -ENOMEM;
    }
    const struct dirent *e;
    while (!err && (errno = 0, e = readdir(dir))) {
        long fd = number(e->d_name);
        if (fd < 0 || (err = is_it(w, at, e->d_name)) <= 0) continue;
        long flags = flags_of(proc, e->d_name);
        err = flags >= 0 ? appends(flags) : is_gone((int)-flags) ? 0 : (int)flags;
        if (err <= 0) continue;
        err = w->n < w->cap ? 0 : -ENOBUFS;
        if (err) continue;
        w->found[w->n][0] = pid;
        w->found[w->n++][1] = (int32_t)fd;
    }
    if (!err && errno && !is_gone(errno)) err = -errno;
    closedir(dir);
    return err;
}

/* -EBUSY where the process maps a file of that number so that it sees what others write: whether it may
 * write there itself is not told. Of any file system, since that is told otherwise than by stat. */
static int look_at_mappings(const struct wanted *w, int proc, char *text)
{
    size_t have = 0;
    int err = 0, fd = openat(proc, "maps", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return is_gone(errno) ? 0 : -errno;
    for (ssize_t n; !err && (n = read(fd, text + have, LINE_MAX_MAPS - have)) != 0;) {
        if (n < 0) {
            err = is_gone(errno) ? 0 : -errno;
            break;
        }
        char *at = text, *end;
        have += (size_t)n;
        while (!err && (end = memchr(at, '\n', have - (size_t)(at - text)))) {
            char perms[5];
            unsigned long long ino;
            *end = 0;
            if (sscanf(at, "%*s %4s %*s %*s %llu", perms, &ino) == 2 && perms[3] == 's' &&
                ino == w->ino)
                err = -EBUSY;
            at = end + 1;
        }
        have -= (size_t)(at - text);
        memmove(text, at, have);
        if (have == LINE_MAX_MAPS) err = -EIO;
    }
    close(fd);
    return err;
}

static int look_at_all(struct wanted *w, char *text)
{
    struct stat space;
    if (stat("/proc/self/ns/pid", &space) < 0) return -errno;
    if (space.st_ino != FIRST_PID_SPACE) return -EACCES;
    DIR *all = opendir("/proc");
    if (!all) return -errno;
    int err = 0;
    const struct dirent *e;
    while (!err && (e = readdir(all))) {
        long pid = number(e->d_name);
        int proc = pid < 0 ? -1 : openat(dirfd(all), e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (proc < 0) {
            if (pid >= 0 && !is_gone(errno)) err = -errno;
            continue;
        }
        err = look_at_descriptors(w, proc, (int)pid);
        /* What this process maps it only asks for its pages (i2_cached). */
        if (!err && pid != getpid()) err = look_at_mappings(w, proc, text);
        /* Where init lets nobody look, it is taken not to write to what others append to. */
        if (err == -EACCES && pid == 1) err = 0;
        close(proc);
    }
    closedir(all);
    return err;
}

int64_t i2_appenders(uint64_t dev, uint64_t ino, int32_t (*found)[2], size_t cap)
{
    struct wanted w = {.dev = dev, .ino = ino, .found = found, .cap = cap};
    char *text = malloc(LINE_MAX_MAPS);
    int err = text ? look_at_all(&w, text) : -ENOMEM;
    free(text);
    return err ? err : (int64_t)w.n;
}

int64_t i2_is_appender(uint64_t dev, uint64_t ino, int32_t pid, int32_t fd)
{
    struct wanted w = {.dev = dev, .ino = ino};
    char name[40];
    snprintf(name, sizeof name, "/proc/%d", pid);
    int proc = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (proc < 0) return 0;
    snprintf(name, sizeof name, "fd/%d", fd);
    long flags = is_it(&w, proc, name) == 1 ? flags_of(proc, name + 3) : -ENOENT;
    close(proc);
    return flags >= 0 && appends(flags) == 1;
}

int64_t i2_guards(void)
{
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int64_t i2_guard(int notify, int fd)
{
    char path[40];
    struct statfs fs;
    if (fstatfs(fd, &fs) < 0) return -errno;
    switch ((unsigned long)fs.f_type) {
    case EXT4_SUPER_MAGIC:
    case XFS_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
    case TMPFS_MAGIC:
        break;
    default: /* who writes may be on another host, or have another inode open */
        return -EOPNOTSUPP;
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int wd = inotify_add_watch(notify, path, IN_OPEN | IN_CLOSE_WRITE | IN_ATTRIB);
    return wd < 0 ? -errno : wd;
}

void i2_unguard(int notify, int wd)
{
    inotify_rm_watch(notify, wd);
}
