/* libFuzzer: paths and names that a peer asks about, and attributes that it sends.
 *
 * The input is a request for a listing, for entries of a directory, for a file to be opened, and a list
 * of extended attributes, each as it stands. Aborts when an answer tells of anything outside the root. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "entry.h"
#include "mover.h"
#include "xattr.h"

#define CAP 65536u

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int root, bearer;
static uint64_t dev;
static uint8_t *out;

static void put(int at, const char *name, const char *content)
{
    int fd = openat(at, name, O_CREAT | O_WRONLY, 0600);
    if (fd < 0 || write(fd, content, strlen(content)) < 0) abort();
    close(fd);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    char place[256];
    struct stat st;
    const char *tmp = getenv("TMPDIR");
    snprintf(place, sizeof place, "%s/fuzz.XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(place)) abort();
    int top = open(place, O_RDONLY | O_DIRECTORY);
    if (mkdirat(top, "root", 0700) < 0 || mkdirat(top, "outside", 0700) < 0) abort();
    root = openat(top, "root", O_RDONLY | O_DIRECTORY);
    put(openat(top, "outside", O_RDONLY | O_DIRECTORY), "canary", "a secret outside");
    if (mkdirat(root, "d", 0700) < 0 || symlinkat("../outside", root, "l") < 0) abort();
    if (symlinkat("/proc/self/root", root, "p") < 0 || mkfifoat(root, "fifo", 0600) < 0) abort();
    put(root, "f", "inside");
    put(root, "d/f", "inside");
    bearer = openat(root, "f", O_RDWR);
    if (fstat(root, &st) < 0) abort();
    dev = st.st_dev;
    out = malloc(CAP);
    return 0;
}

static void check(const uint8_t *answer, size_t len)
{
    if (memmem(answer, len, "canary", 6) || memmem(answer, len, "secret", 6)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    size_t path = data[0] % (size - 1), rest = size - 2 - path;
    const uint8_t *names = data + 2 + path;
    /* Each in memory that ends where it ends. */
    uint8_t *asked = malloc(path + 1), *more = malloc(rest + 1);
    memcpy(asked, data + 2, path);
    memcpy(more, names, rest);

    int64_t fd = i2_open(root, dev, asked, path);
    if (fd >= 0) {
        int64_t n = read((int)fd, out, CAP);
        if (n < 0) abort();
        check(out, (size_t)n);
        close((int)fd);
    }
    int64_t used = i2_stat(root, dev, asked, path, more, rest, data[1] & 1, out, CAP);
    if (used > 0) check(out, (size_t)used);

    struct i2_dir dir = {.path_len = (uint32_t)path, .skip_len = (uint32_t)rest, .ticket = 1};
    dir.length = (uint32_t)(sizeof dir + path + rest + 7) & ~7u;
    if (data[1] > 250) dir.length -= 8;
    if (data[1] == 250) dir.path_len = UINT32_MAX;
    uint8_t *request = calloc(1, sizeof dir + path + rest + 8);
    memcpy(request, &dir, sizeof dir);
    memcpy(request + sizeof dir, asked, path);
    memcpy(request + sizeof dir + path, more, rest);
    uint64_t done = 0;
    used = i2_list(root, dev, request, dir.length, -1, 0, data[1] & 1, 1, out, CAP, &done);
    if (used > 0) check(out, (size_t)used);
    free(request);

    if (i2_xattr_check(more, rest)) {
        const struct i2_bearer of = {.fd = bearer};
        struct i2_bytes have = {0}, aside = {0};
        i2_xattr_apply(&of, more, rest, 0, &aside);
        if (i2_xattr_read(&of, &have) == 0 && !i2_xattr_check(have.p, have.len)) abort();
        i2_xattr_apply(&of, more, 0, 0, NULL);
        free(have.p);
        free(aside.p);
    }
    free(asked);
    free(more);
    return 0;
}
