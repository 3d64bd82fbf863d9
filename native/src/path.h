/* Opening what stands beneath a held directory, and asking what it is.
 *
 * Nothing here follows a symlink or enters another mount. The kernel does the work where it has
 * openat2(2) (Linux 5.6); elsewhere every part of the path is opened by itself. */
#ifndef I2_PATH_H
#define I2_PATH_H

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "mover.h"

/* Longest path of a request or step. The kernel limits one lookup to PATH_MAX, not a tree. */
#define I2_PATH_LIMIT (1u << 20)
#define I2_NAME_LIMIT 255

/* What the running kernel was found not to have. Learnt by the first refusal, kept for one call;
 * one for each thread. Start with zeros. */
struct i2_kernel {
    int no_openat2;
    int no_statx;
    int no_noatime;
};

/* 1: one name that can stand in a directory: not empty, no '/', no NUL, not "." or "..". */
int i2_name_clean(const uint8_t *name, size_t len);

/* 1: clean names joined by single slashes. "" is clean: the root itself. */
int i2_path_clean(const uint8_t *path, size_t len);

/* Splits a clean path that is not empty: returns where the last name begins; the parent's path is
 * the first *parent_len bytes. */
size_t i2_path_split(const uint8_t *path, size_t len, size_t *parent_len);

/* Whether a clean path is dir, or below it. */
int i2_path_within(const uint8_t *path, size_t len, const uint8_t *dir, size_t dir_len);

/* Opens one name in dir without following it and without leaving dir's mount; flags as of open(2).
 * Returns a descriptor or -errno (EXDEV: a mount stands there). */
int i2_open_in(struct i2_kernel *k, int dir, const char *name, int flags);

/* Opens the directory `path` beneath root for reading; *self tells what it is. Returns a descriptor
 * or -errno: EXDEV where another file system than dev or another mount begins on the way, ENOTDIR where
 * a symlink or something else that is no directory stands in it. */
int i2_open_dir(struct i2_kernel *k, int root, uint64_t dev, const uint8_t *path, size_t len,
                struct statx *self);

/* statx(2) with the basic fields and birth; fstatat(2) where there is none. Returns 0 or -errno. */
int i2_statx(struct i2_kernel *k, int dir, const char *name, int flags, struct statx *out);

/* File system of what statx told, as st_dev gives it. */
uint64_t i2_statx_dev(const struct statx *stx);

/* Kind (I2_FILE..) of a st_mode; 0 for what has none. */
uint8_t i2_kind(unsigned mode);

/* Fills the stat fields of an entry; name, verdict, status, attrs and content are left alone. With
 * racy_after (nanoseconds since 1970): I2_RACY is set when ctime is behind that moment. */
void i2_entry_fill(struct i2_entry *e, const struct statx *stx, int64_t racy_after);

/* Makes the entry one that does not carry whose it is. */
static inline void i2_entry_disown(struct i2_entry *e)
{
    e->uid = e->gid = I2_UNOWNED;
    e->mode &= 01777;
}

/* The moment before which a ctime proves that a later change will show another one: 20 ms ago (the
 * kernel stamps with the time of its last tick, which is at most 10 ms old). */
int64_t i2_racy_after(void);

static inline size_t i2_pad8(size_t n) { return (n + 7) & ~(size_t)7; }

#endif
