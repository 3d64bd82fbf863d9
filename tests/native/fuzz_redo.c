/* libFuzzer: a journal in the stage, as a crash or a hand of somebody's left it.
 *
 * Even inputs are the journal as they stand; odd ones are orders for its steps, which are sealed as they
 * should be, so that what they say is done. Aborts when anything but the one file changes, or when the
 * journal is neither done nor taken away. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blake3.h"
#include "entry.h"
#include "mover.h"
#include "path.h"

#define OLD 20000u
#define JOURNAL "0000000000000007.redo"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int root, stage;

static int make(int at, const char *name)
{
    if (mkdirat(at, name, 0700) < 0) abort();
    return openat(at, name, O_RDONLY | O_DIRECTORY);
}

static void put(int at, const char *name, size_t size)
{
    static const uint8_t content[OLD] = {7};
    int fd = openat(at, name, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    if (fd < 0 || write(fd, content, size) != (ssize_t)size) abort();
    close(fd);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    char place[256];
    const char *tmp = getenv("TMPDIR");
    snprintf(place, sizeof place, "%s/fuzz.XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(place)) abort();
    int top = open(place, O_RDONLY | O_DIRECTORY);
    root = make(top, "root");
    stage = make(top, "stage");
    put(make(top, "outside"), "canary", 6);
    if (symlinkat("../outside", root, "link") < 0) abort();
    return 0;
}

static const char *const paths[] = {"f", "link/canary", "../outside/canary", "", "d/f", "f/x"};

/* One record of the journal, from eight bytes; its length. */
static size_t record(uint8_t *out, const uint8_t *in, int op)
{
    struct i2_step s;
    memset(&s, 0, sizeof s);
    s.op = (uint8_t)op;
    s.stage = in[0] < 250 ? 7 : in[0];
    const char *path = op == I2_WRITE || op == I2_HOLE ? "" : paths[in[1] < 200 ? 0 : in[1] % 6];
    if (op == I2_STAGE) {
        struct stat st;
        struct statx now;
        struct i2_kernel k = {0};
        struct i2_entry e = {0};
        if (fstatat(root, "f", &st, 0) < 0 || i2_statx(&k, root, "f", 0, &now)) abort();
        i2_entry_fill(&e, &now, 0);
        s.flags = I2_STEP_CLONE;
        s.size = in[2] < 250 ? OLD : in[2];
        s.mtime_s = st.st_mtim.tv_sec;
        s.mtime_ns = (uint32_t)st.st_mtim.tv_nsec;
        s.rdev = in[3] < 250 ? e.ino : in[3];
        s.span = (uint64_t)e.birth;
    } else if (op == I2_STAGED) {
        s.kind = I2_FILE;
        s.mode = in[2] < 200 ? 0600 : 0640;
        s.size = (uint64_t)in[3] << in[4] % 9;
        s.uid = in[5] > 250;
    } else {
        s.size = (uint64_t)in[2] << in[3] % 9;
        if (op == I2_HOLE) s.span = (uint64_t)in[4] << in[5] % 9;
        else s.data_len = in[4];
    }
    s.path_len = (uint32_t)strlen(path);
    s.length = (uint32_t)(sizeof s + s.path_len + s.data_len + 7) & ~7u;
    memset(out, in[6], s.length);
    memcpy(out, &s, sizeof s);
    memcpy(out + sizeof s, path, s.path_len);
    return s.length;
}

static size_t journal(uint8_t *out, const uint8_t *data, size_t n)
{
    size_t used = record(out, data, I2_STAGE);
    for (size_t i = 1; i + 1 < n; i++)
        used += record(out + used, data + i * 8, data[i * 8 + 7] & 1 ? I2_WRITE : I2_HOLE);
    const uint8_t *last = data + (n - 1) * 8;
    if (last[7] > 240) return used; /* a crash before it was sealed */
    used += record(out + used, last, I2_STAGED);
    struct {
        uint8_t magic[8];
        uint64_t length;
        uint8_t hash[32];
    } seal = {.magic = "i2redo1\n", .length = used};
    i2_hash(out, used, seal.hash, sizeof seal.hash);
    memcpy(out + used, &seal, sizeof seal);
    return used + sizeof seal;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 17) return 0;
    size_t n = (size - 1) / 8;
    if (n > 32) n = 32;
    uint8_t *made = malloc(n * 400 + 512);
    const uint8_t *say = data + 1;
    size_t len = size - 1;
    put(root, "f", OLD);
    if (data[0] & 1) {
        len = journal(made, data + 1, n);
        if (data[0] > 250) made[(data[1] * 131u) % len] ^= data[2];
        say = made;
    }
    int fd = openat(stage, JOURNAL, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    if (fd < 0 || write(fd, say, len) != (ssize_t)len) abort();
    close(fd);
    free(made);

    uint8_t path[64];
    uint64_t path_len = 0;
    int64_t done = i2_redo(root, stage, -1, (const uint8_t *)JOURNAL, strlen(JOURNAL), 0, path, sizeof path,
                           &path_len);
    if (path_len > sizeof path) abort();
    int there = faccessat(stage, JOURNAL, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    if (done < 0 ? !there : there) abort();
    if (done < 0) unlinkat(stage, JOURNAL, 0);
    unlinkat(stage, "0000000000000007", 0);

    struct stat st, outside;
    if (fstatat(root, "../outside/canary", &outside, 0) < 0 || outside.st_size != 6) abort();
    if ((outside.st_mode & 07777) != 0600 || outside.st_nlink != 1) abort();
    if (fstatat(root, "link", &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISLNK(st.st_mode)) abort();
    if (fstatat(root, "f", &st, AT_SYMLINK_NOFOLLOW) < 0 || (done == 0 && st.st_size != OLD)) abort();
    fchmodat(root, "f", 0600, 0);
    if (fchownat(root, "f", 0, 0, 0) < 0 && geteuid() == 0) abort();
    return 0;
}
