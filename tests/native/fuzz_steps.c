/* libFuzzer: a peer's payload, checked and applied beneath a root of its own.
 *
 * The input is a script, not a payload: bytes that choose ops, short names and sizes, so that most of
 * what comes out is sound and reaches the file system; now and then raw bytes are laid over it. Aborts
 * when something beside the root changes. As root it makes devices and changes owners, all inside a
 * directory under TMPDIR. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mover.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char place[256];
static int top, root, stage;

static int make(const char *name)
{
    if (mkdirat(top, name, 0700) < 0) abort();
    return openat(top, name, O_RDONLY | O_DIRECTORY);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    const char *tmp = getenv("TMPDIR");
    snprintf(place, sizeof place, "%s/fuzz.XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(place)) abort();
    top = open(place, O_RDONLY | O_DIRECTORY);
    root = make("root");
    stage = make("stage");
    close(make("outside"));
    int fd = openat(top, "outside/canary", O_CREAT | O_WRONLY, 0600);
    if (fd < 0 || write(fd, "canary", 6) != 6) abort();
    close(fd);
    return 0;
}

/* Empties a directory, but never the one that holds the canary. */
static int drop(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type;
    return at->level ? remove(path) : 0;
}

/* Opens up what a payload made immutable or append-only. */
static int open_up(const char *path, const struct stat *st, int type, struct FTW *at)
{
    unsigned none = 0;
    (void)type, (void)at;
    if (!S_ISREG(st->st_mode) && !S_ISDIR(st->st_mode)) return 0;
    int fd = open(path, O_RDONLY | O_NOFOLLOW);
    if (fd >= 0) {
        if (ioctl(fd, FS_IOC_GETFLAGS, &none) == 0) none &= ~(unsigned)(FS_IMMUTABLE_FL | FS_APPEND_FL);
        ioctl(fd, FS_IOC_SETFLAGS, &none);
        close(fd);
    }
    return 0;
}

static void empty(const char *name)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s", place, name);
    if (nftw(path, open_up, 16, FTW_PHYS | FTW_MOUNT)) abort();
    if (nftw(path, drop, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT)) abort();
}

static void check_outside(void)
{
    struct stat st;
    char text[8];
    int fd = openat(top, "outside/canary", O_RDONLY);
    if (fd < 0 || fstat(fd, &st) < 0 || read(fd, text, sizeof text) != 6) abort();
    if (memcmp(text, "canary", 6) || st.st_nlink != 1 || (st.st_mode & 07777) != 0600) abort();
    close(fd);
    if (fstatat(top, "outside", &st, 0) < 0 || (st.st_mode & 07777) != 0700 || st.st_nlink != 2) abort();
    int n = 0, dup = openat(top, ".", O_RDONLY | O_DIRECTORY);
    DIR *d = fdopendir(dup);
    while (d && readdir(d)) n++;
    closedir(d);
    if (n != 5) abort(); /* ".", "..", root, stage, outside */
}

static const char *const paths[] = {"a", "b", "c", "a/b", "a/c", "b/a", "a/b/c", "c/outside/canary",
                                    "a/outside", "b/canary", "", "../outside/canary", "a/..", "a//b"};
static const char *const targets[] = {"../outside", "..", "/", "a", "canary", "../outside/canary"};
#define INODE 28 /* bytes of the first record, whose flags come with the input */
static const char attrs[] = "\x0c\0\0\0\x08\0\0\0i2node.inode\0\0\0\0\0\0\0\0"
                            "\x06\0\0\0\x01\0\0\0user.ax\x09\0\0\0\0\0\0\0trusted.b";

static size_t step_at(uint8_t *out, const uint8_t *in)
{
    struct i2_step s;
    memset(&s, 0, sizeof s);
    s.op = in[0] % 15;
    const char *path = paths[in[1] % (sizeof paths / sizeof *paths)];
    const char *other = "";
    s.kind = s.op == I2_PUT_FILE || s.op == I2_STAGED ? I2_FILE
             : s.op == I2_MAKE_DIR                   ? I2_DIR
             : s.op == I2_PUT_LINK                   ? I2_SYMLINK
             : s.op == I2_PUT_NODE                   ? I2_FIFO + in[2] % 2
             : s.op == I2_SET_META                   ? 1 + in[2] % 7
                                                     : 0;
    if (s.op == I2_PUT_LINK) other = targets[in[2] % (sizeof targets / sizeof *targets)];
    if (s.op == I2_LINK || s.op == I2_RENAME || s.op == I2_EXCHANGE)
        other = paths[in[2] % (sizeof paths / sizeof *paths)];
    if (s.op == I2_WRITE || s.op == I2_HOLE) path = "";
    if (s.kind) {
        s.mode = in[3] | (in[4] & 15u) << 8;
        s.uid = in[3] & 3;
        s.mtime_s = -(int64_t)(in[4] & 1); /* few, so that a basis is met now and then */
        if (in[5] & 1) s.xattr_len = in[5] & 2 ? 15 : sizeof attrs - 1 - INODE;
        if (in[5] & 4) s.xattr_len += INODE;
        if (in[5] & 8 && !s.xattr_len) s.flags |= I2_STEP_NO_XATTR;
    }
    if (s.op == I2_PUT_FILE || s.op == I2_WRITE) s.data_len = in[6] % 40;
    if (s.op == I2_PUT_FILE) s.size = s.data_len;
    if (s.op >= I2_STAGE) s.stage = in[3] % 3;
    if (s.op > I2_STAGE) s.size = (uint64_t)in[4] << (in[5] % 8);
    if (s.op == I2_COPY) s.rdev = in[6];
    if (s.op == I2_COPY || s.op == I2_HOLE) s.span = in[7];
    if (s.op == I2_STAGE) s.flags = in[4] & (I2_STEP_CLONE | I2_STEP_KEEP | I2_STEP_DROP);
    if (s.flags & I2_STEP_CLONE && s.op == I2_STAGE) s.size = in[6] % 40;
    if (s.op == I2_COPY || (s.op == I2_STAGE && s.flags & I2_STEP_CLONE)) s.mtime_s = -(int64_t)(in[7] & 1);
    s.path_len = (uint32_t)strlen(path);
    s.other_len = (uint32_t)strlen(other);
    s.length = (uint32_t)(sizeof s + s.path_len + s.other_len + s.xattr_len + s.data_len + 7) & ~7u;
    memset(out, 0, s.length);
    memcpy(out, &s, sizeof s);
    uint8_t *p = out + sizeof s;
    memcpy(p, path, s.path_len);
    p += s.path_len;
    memcpy(p, other, s.other_len);
    p += s.other_len;
    if (in[5] & 4 && s.xattr_len) {
        memcpy(p, attrs, s.xattr_len);
        p[INODE - 8] = in[7] & 0xf8;
    } else {
        memcpy(p, attrs + INODE, s.xattr_len);
    }
    return s.length;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* Raw: the checker alone, on memory that ends where the payload ends. */
    uint8_t *raw = malloc(size ? size : 1);
    memcpy(raw, data, size);
    i2_steps_check(raw, size);
    free(raw);

    size_t n = size / 8, used = 0;
    if (n > 64) n = 64;
    uint8_t *payload = malloc(n * 256 + 1);
    for (size_t i = 0; i < n; i++) {
        size_t length = step_at(payload + used, data + i * 8);
        /* A step that the checker refuses would hide those around it; one in eight is kept. */
        if (i2_steps_check(payload + used, length) == 1 || data[i * 8] >= 0xe0) used += length;
    }
    if (size % 8 == 7 && used) payload[(data[size - 1] * 131u + data[size - 2]) % used] = data[size - 3];

    /* Mostly none, so that most is done. */
    struct i2_budget budget = {.spare = size % 5 ? UINT64_MAX : size % 3};
    uint64_t spare = budget.spare;
    struct i2_fault faults[4];
    uint64_t noted = 4, more = 0;
    int64_t sound = i2_steps_check(payload, used);
    int64_t done = i2_apply(root, stage, -1, payload, used, 0, &budget, faults, &noted, &more);
    if (sound < 0 ? done >= 0 : done > sound || done < 0) abort();
    if (budget.lost + budget.shrunk > budget.gained && budget.lost + budget.shrunk - budget.gained > spare) abort();
    if (budget.wanted && done == sound) abort();
    for (uint64_t i = 0; i < noted; i++)
        if (faults[i].step >= sound || faults[i].status <= 0) abort();
    free(payload);
    check_outside();
    empty("root");
    empty("stage");
    return 0;
}
