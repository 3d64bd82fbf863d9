#define _GNU_SOURCE
#include "xattr.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#define LABEL "security.selinux"

struct head {
    uint16_t name_len;
    uint16_t zero;
    uint32_t value_len;
};

int i2_bytes_room(struct i2_bytes *b, size_t more)
{
    if (b->cap - b->len >= more) return 0;
    size_t cap = b->cap ? b->cap : 512;
    while (cap - b->len < more) cap *= 2;
    uint8_t *p = realloc(b->p, cap);
    if (!p) return -ENOMEM;
    b->p = p;
    b->cap = cap;
    return 0;
}

static ssize_t list(const struct i2_bearer *of, char *buf, size_t cap)
{
    ssize_t n = of->fd >= 0 ? flistxattr(of->fd, buf, cap)
                : of->follow ? listxattr(of->path, buf, cap)
                             : llistxattr(of->path, buf, cap);
    return n < 0 ? -errno : n;
}

static ssize_t get(const struct i2_bearer *of, const char *name, void *buf, size_t cap)
{
    ssize_t n = of->fd >= 0 ? fgetxattr(of->fd, name, buf, cap)
                : of->follow ? getxattr(of->path, name, buf, cap)
                             : lgetxattr(of->path, name, buf, cap);
    return n < 0 ? -errno : n;
}

static int set(const struct i2_bearer *of, const char *name, const void *value, size_t len)
{
    int r = of->fd >= 0 ? fsetxattr(of->fd, name, value, len, 0)
            : of->follow ? setxattr(of->path, name, value, len, 0)
                         : lsetxattr(of->path, name, value, len, 0);
    return r < 0 ? -errno : 0;
}

static int drop(const struct i2_bearer *of, const char *name)
{
    int r = of->fd >= 0 ? fremovexattr(of->fd, name)
            : of->follow ? removexattr(of->path, name)
                         : lremovexattr(of->path, name);
    return r < 0 ? -errno : 0;
}

/* The names, NUL-ended: in buf when they fit, else in *heap, which the caller frees. */
static ssize_t names_of(const struct i2_bearer *of, char *buf, size_t cap, char **names, char **heap)
{
    *heap = NULL;
    *names = buf;
    ssize_t n = list(of, buf, cap);
    if (n != -ERANGE) return n;
    *heap = *names = malloc(I2_XATTR_VALUE);
    if (!*heap) return -ENOMEM;
    n = list(of, *heap, I2_XATTR_VALUE);
    return n == -ERANGE ? -E2BIG : n;
}

static int by_string(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int read_value(const struct i2_bearer *of, const char *name, struct i2_bytes *out)
{
    struct head head = {(uint16_t)strlen(name), 0, 0};
    size_t start = out->len, room = 256;
    for (;;) {
        if (i2_bytes_room(out, sizeof head + head.name_len + room)) return -ENOMEM;
        uint8_t *at = out->p + start + sizeof head + head.name_len;
        ssize_t n = get(of, name, at, room);
        if (n == -ERANGE && room < I2_XATTR_VALUE) {
            room = I2_XATTR_VALUE;
            continue;
        }
        if (n == -ENODATA) return 0;
        if (n < 0) return n == -ERANGE ? -E2BIG : (int)n;
        head.value_len = (uint32_t)n;
        memcpy(out->p + start, &head, sizeof head);
        memcpy(out->p + start + sizeof head, name, head.name_len);
        out->len = start + sizeof head + head.name_len + (size_t)n;
        return out->len > I2_XATTR_TOTAL ? -E2BIG : 0;
    }
}

int i2_xattr_read(const struct i2_bearer *of, struct i2_bytes *out)
{
    char buf[1024], *names, *heap;
    out->len = 0;
    ssize_t n = names_of(of, buf, sizeof buf, &names, &heap);
    int err = n < 0 ? (int)n : 0;
    if (n > 0) {
        size_t count = 0;
        for (ssize_t at = 0; at < n; at += (ssize_t)strlen(names + at) + 1) count++;
        const char **sorted = malloc(count * sizeof *sorted);
        if (!sorted) err = -ENOMEM;
        if (sorted) {
            count = 0;
            for (ssize_t at = 0; at < n; at += (ssize_t)strlen(names + at) + 1)
                sorted[count++] = names + at;
            qsort(sorted, count, sizeof *sorted, by_string);
            for (size_t i = 0; i < count && !err; i++) err = read_value(of, sorted[i], out);
        }
        free(sorted);
    }
    free(heap);
    return err;
}

int i2_xattr_any(const struct i2_bearer *of)
{
    char buf[1024], *names, *heap;
    ssize_t n = names_of(of, buf, sizeof buf, &names, &heap);
    int any = 0;
    for (ssize_t at = 0; at < n; at += (ssize_t)strlen(names + at) + 1)
        if (strcmp(names + at, LABEL)) any = 1;
    free(heap);
    return any;
}

/* Reads the record at `at`; returns where the next begins. The records are sound. */
static size_t record(const uint8_t *records, size_t at, struct head *head, const uint8_t **name)
{
    memcpy(head, records + at, sizeof *head);
    *name = records + at + sizeof *head;
    return at + sizeof *head + head->name_len + head->value_len;
}

static int wanted(const uint8_t *records, size_t len, const char *name)
{
    struct head head;
    const uint8_t *have;
    size_t n = strlen(name);
    for (size_t at = 0; at < len;) {
        at = record(records, at, &head, &have);
        if (head.name_len == n && !memcmp(have, name, n)) return 1;
    }
    return 0;
}

static int remove_others(const struct i2_bearer *of, const uint8_t *records, size_t len, int *none)
{
    char buf[1024], *names, *heap;
    int err = 0;
    ssize_t n = names_of(of, buf, sizeof buf, &names, &heap);
    *none = n == 0;
    if (n < 0 && !(n == -ENOTSUP && len == 0)) err = (int)n;
    for (ssize_t at = 0; at < n; at += (ssize_t)strlen(names + at) + 1) {
        if (!strcmp(names + at, LABEL) || wanted(records, len, names + at)) continue;
        int r = drop(of, names + at);
        if (r && r != -ENODATA && !err) err = r;
    }
    free(heap);
    return err;
}

int i2_xattr_apply(const struct i2_bearer *of, const uint8_t *records, size_t len, int bare)
{
    int none = bare;
    int err = bare ? 0 : remove_others(of, records, len, &none);
    if (len == 0) return err;
    uint8_t *now = none ? NULL : malloc(I2_XATTR_VALUE);
    if (!none && !now) return -ENOMEM;
    for (size_t at = 0; at < len;) {
        struct head head;
        const uint8_t *record_name;
        char name[I2_XATTR_NAME + 1];
        at = record(records, at, &head, &record_name);
        memcpy(name, record_name, head.name_len);
        name[head.name_len] = 0;
        const uint8_t *value = record_name + head.name_len;
        if (now) {
            ssize_t n = get(of, name, now, I2_XATTR_VALUE);
            if (n == (ssize_t)head.value_len && !memcmp(now, value, head.value_len)) continue;
        }
        int r = set(of, name, value, head.value_len);
        if (r && !err) err = r;
    }
    free(now);
    return err;
}

int i2_xattr_check(const uint8_t *records, size_t len)
{
    const uint8_t *before = NULL;
    size_t before_len = 0, listed = 0;
    if (len > I2_XATTR_TOTAL) return 0;
    for (size_t at = 0; at < len;) {
        struct head head;
        if (len - at < sizeof head) return 0;
        memcpy(&head, records + at, sizeof head);
        size_t left = len - at - sizeof head;
        if (head.name_len == 0 || head.name_len > I2_XATTR_NAME || head.zero ||
            head.value_len > I2_XATTR_VALUE || left < (size_t)head.name_len + head.value_len)
            return 0;
        const uint8_t *name = records + at + sizeof head;
        if (memchr(name, 0, head.name_len)) return 0;
        /* No file has more names than listxattr can tell. */
        if ((listed += head.name_len + 1u) > I2_XATTR_VALUE) return 0;
        if (before) {
            size_t shared = before_len < head.name_len ? before_len : head.name_len;
            int order = memcmp(before, name, shared);
            if (order > 0 || (order == 0 && before_len >= head.name_len)) return 0;
        }
        before = name;
        before_len = head.name_len;
        at += sizeof head + head.name_len + head.value_len;
    }
    return 1;
}
