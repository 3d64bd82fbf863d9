#define _GNU_SOURCE
#include "xattr.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "inode.h"
#include "records.h"

#define LABEL "security.selinux"

/* 1: there are flags or a project; 0: none, or nobody to ask. */
static int inode_get(const struct i2_bearer *of, struct i2_inode *inode)
{
    int fd = of->fd >= 0 ? of->fd : i2_inode_open(of->path, of->follow);
    if (fd < 0) return 0;
    i2_inode_get(fd, inode);
    if (fd != of->fd) close(fd);
    return inode->flags || inode->project;
}

static int inode_set(const struct i2_bearer *of, struct i2_inode inode)
{
    if (of->locks) {
        *of->locks = inode.flags & I2_INODE_LOCKS;
        inode.flags &= ~I2_INODE_LOCKS;
    }
    int fd = of->fd >= 0 ? of->fd : i2_inode_open(of->path, of->follow);
    if (fd < 0) return fd;
    int err = i2_inode_set(fd, &inode);
    if (fd != of->fd) close(fd);
    return err;
}

static int is_inode(const char *name) { return !strcmp(name, I2_INODE_NAME); }

static ssize_t list(const struct i2_bearer *of, char *buf, size_t cap)
{
    struct i2_inode inode;
    ssize_t n = of->fd >= 0 ? flistxattr(of->fd, buf, cap)
                : of->follow ? listxattr(of->path, buf, cap)
                             : llistxattr(of->path, buf, cap);
    if (n < 0) return -errno;
    if (!inode_get(of, &inode)) return n;
    if (cap - (size_t)n < sizeof I2_INODE_NAME) return -ERANGE;
    memcpy(buf + n, I2_INODE_NAME, sizeof I2_INODE_NAME);
    return n + (ssize_t)sizeof I2_INODE_NAME;
}

static ssize_t get(const struct i2_bearer *of, const char *name, void *buf, size_t cap)
{
    if (is_inode(name)) {
        struct i2_inode inode;
        if (!inode_get(of, &inode)) return -ENODATA;
        memcpy(buf, &inode, sizeof inode);
        return sizeof inode;
    }
    ssize_t n = of->fd >= 0 ? fgetxattr(of->fd, name, buf, cap)
                : of->follow ? getxattr(of->path, name, buf, cap)
                             : lgetxattr(of->path, name, buf, cap);
    return n < 0 ? -errno : n;
}

static int set(const struct i2_bearer *of, const char *name, const void *value, size_t len)
{
    if (is_inode(name)) {
        struct i2_inode inode;
        memcpy(&inode, value, sizeof inode);
        return inode_set(of, inode);
    }
    int r = of->fd >= 0 ? fsetxattr(of->fd, name, value, len, 0)
            : of->follow ? setxattr(of->path, name, value, len, 0)
                         : lsetxattr(of->path, name, value, len, 0);
    return r < 0 ? -errno : 0;
}

static int drop(const struct i2_bearer *of, const char *name)
{
    if (is_inode(name)) return inode_set(of, (struct i2_inode){0});
    int r = of->fd >= 0 ? fremovexattr(of->fd, name)
            : of->follow ? removexattr(of->path, name)
                         : lremovexattr(of->path, name);
    return r < 0 ? -errno : 0;
}

int i2_xattr_secures(const char *name, size_t len)
{
    static const char *const spaces[] = {"security.", "system.", "trusted."};
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++)
        if (len >= strlen(spaces[i]) && !memcmp(name, spaces[i], strlen(spaces[i]))) return 1;
    return 0;
}

/* Takes the names out that say who may do what; the bytes left. */
static ssize_t unsecured(char *names, ssize_t n)
{
    ssize_t kept = 0;
    for (ssize_t at = 0; at < n;) {
        size_t len = strlen(names + at);
        if (!i2_xattr_secures(names + at, len)) {
            memmove(names + kept, names + at, len + 1);
            kept += (ssize_t)len + 1;
        }
        at += (ssize_t)len + 1;
    }
    return kept;
}

/* The names, NUL-ended: in buf when they fit, else in *heap, which the caller frees. */
static ssize_t names_of(const struct i2_bearer *of, char *buf, size_t cap, char **names, char **heap)
{
    *heap = NULL;
    *names = buf;
    ssize_t n = list(of, buf, cap);
    if (n == -ERANGE) {
        *heap = *names = malloc(I2_XATTR_VALUE);
        if (!*heap) return -ENOMEM;
        n = list(of, *heap, I2_XATTR_VALUE);
    }
    if (n == -ERANGE) return -E2BIG;
    return n > 0 && of->unowned ? unsecured(*names, n) : n;
}

static int by_string(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int read_value(const struct i2_bearer *of, const char *name, struct i2_bytes *out)
{
    struct i2_record head = {(uint16_t)strlen(name), 0, 0};
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
            for (size_t i = 0; i < count && !err; i++) {
                /* Who serves a file system by FUSE may list a name twice, or one that is ours. */
                if (!i || strcmp(sorted[i], sorted[i - 1])) err = read_value(of, sorted[i], out);
            }
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

static int remove_others(const struct i2_bearer *of, const uint8_t *records, size_t len, int *none)
{
    char buf[1024], *names, *heap;
    uint32_t value_len;
    int err = 0;
    ssize_t n = names_of(of, buf, sizeof buf, &names, &heap);
    *none = n == 0;
    if (n < 0 && !(n == -ENOTSUP && len == 0)) err = (int)n;
    for (ssize_t at = 0; at < n; at += (ssize_t)strlen(names + at) + 1) {
        const char *name = names + at;
        if (!strcmp(name, LABEL) || i2_record_find(records, len, name, strlen(name), &value_len)) continue;
        int r = drop(of, name);
        if (r && r != -ENODATA && !err) err = r;
    }
    free(heap);
    return err;
}

int i2_xattr_refuses(int err)
{
    switch (-err) {
    case EPERM:
    case EACCES:
    case EOPNOTSUPP:
    case ENOTTY:
    case ENOSYS:
    case EINVAL:
    case E2BIG:
    case ERANGE:
    case EOVERFLOW: return 1;
    default: return 0;
    }
}

/* ext4 says ENOSPC of attributes that do not fit beside an inode, however empty the disk is. */
static int too_large(const struct i2_bearer *of, int err)
{
    struct statfs fs;
    if (err != -ENOSPC || (of->fd >= 0 ? fstatfs(of->fd, &fs) : statfs(of->path, &fs)) < 0) return err;
    return fs.f_bavail > 64 ? -E2BIG : err;
}

/* Hands over what was refused with err, and lets no older version of it stay. */
static int put_aside(const struct i2_bearer *of, const char *name, const void *value, uint32_t len,
                     int err, struct i2_bytes *aside)
{
    struct i2_inode pair[2];
    if (is_inode(name)) {
        memcpy(&pair[0], value, sizeof pair[0]);
        memset(&pair[1], 0, sizeof pair[1]);
        inode_get(of, &pair[1]);
        return i2_record_put(aside, I2_ASIDE_FLAGS, sizeof I2_ASIDE_FLAGS - 1, pair, sizeof pair);
    }
    /* Such names are ours, not a peer's. */
    if (!strncmp(name, I2_ASIDE_OWN, sizeof I2_ASIDE_OWN - 1)) return err;
    int old = drop(of, name);
    if (old && old != -ENODATA && !i2_xattr_refuses(old)) return old;
    return i2_record_put(aside, name, strlen(name), value, len);
}

int i2_xattr_apply(const struct i2_bearer *of, const uint8_t *records, size_t len, int bare,
                   struct i2_bytes *aside)
{
    int none = bare;
    int err = bare ? 0 : remove_others(of, records, len, &none);
    if (len == 0) return err;
    uint8_t *now = none ? NULL : malloc(I2_XATTR_VALUE);
    if (!none && !now) return -ENOMEM;
    for (size_t at = 0; at < len;) {
        struct i2_record head;
        const uint8_t *record_name, *value;
        char name[I2_XATTR_NAME + 1];
        at = i2_record_at(records, at, &head, &record_name, &value);
        memcpy(name, record_name, head.name_len);
        name[head.name_len] = 0;
        if (now) {
            ssize_t n = get(of, name, now, I2_XATTR_VALUE);
            if (n == (ssize_t)head.value_len && !memcmp(now, value, head.value_len)) continue;
        }
        int r = too_large(of, set(of, name, value, head.value_len));
        if (aside && i2_xattr_refuses(r)) r = put_aside(of, name, value, head.value_len, r, aside);
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
        struct i2_record head;
        if (len - at < sizeof head) return 0;
        memcpy(&head, records + at, sizeof head);
        size_t left = len - at - sizeof head;
        if (head.name_len == 0 || head.name_len > I2_XATTR_NAME || head.zero ||
            head.value_len > I2_XATTR_VALUE || left < (size_t)head.name_len + head.value_len)
            return 0;
        const uint8_t *name = records + at + sizeof head;
        if (memchr(name, 0, head.name_len)) return 0;
        if (head.name_len == sizeof I2_INODE_NAME - 1 && !memcmp(name, I2_INODE_NAME, head.name_len) &&
            !i2_inode_check(name + head.name_len, head.value_len))
            return 0;
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
