/* Who may write to a file, and what they changed of it, where no event in the tree tells. */
#ifndef I2_WRITERS_H
#define I2_WRITERS_H

#include <stddef.h>
#include <stdint.h>

/* cdef begin */

/* Every descriptor on this host that has the file open for writing, as {process, descriptor}, when all of
 * them can only append and nobody shares a mapping of it. Returns their number; -EBUSY: somebody may write
 * elsewhere than at the end; -EACCES: not all processes can be seen; -ENOBUFS; another -errno. A search
 * through all of /proc. */
int64_t i2_appenders(uint64_t dev, uint64_t ino, int32_t (*found)[2], size_t cap);
/* 1 when this descriptor of that process still is one of them. */
int64_t i2_is_appender(uint64_t dev, uint64_t ino, int32_t pid, int32_t fd);

/* An inotify descriptor, the caller's, for guards; read by i2_events. */
int64_t i2_guards(void);
/* Guards an open file, whatever its names: returns a watch that tells of IN_OPEN, IN_CLOSE_WRITE and
 * IN_ATTRIB, or -errno (EOPNOTSUPP: not all who may write to it are seen on this file system). */
int64_t i2_guard(int notify, int fd);
void i2_unguard(int notify, int wd);

/* Where two files, a clone each (ioctl_ficlonerange(2)), differ in what they are made of, up to size: ranges of
 * bytes {from, to}, in order, to ranges (room for cap of them). What they do not name is the same on both.
 * *at: where to begin, with 0; afterwards up to where was looked, less than size when there was no
 * room for more. Returns the number of ranges or -errno; EOPNOTSUPP: nobody tells. */
int64_t i2_changed(int old, int now, uint64_t size, uint64_t (*ranges)[2], size_t cap, uint64_t *at);

/* A file that a process may write to without an event in the tree. */
struct i2_holding {
    uint32_t length;
    uint32_t flags;    /* I2_HELD_.. */
    uint64_t ino;
    uint32_t path_len; /* 0: it has names elsewhere too, and was opened under one of those, or a former one */
    uint32_t pad;
    /* path, relative to the root, not terminated, padded to 8 */
};
#define I2_HELD_MAPPED 1 /* mapped, shared, from a file opened for writing */
#define I2_HELD_OPEN 2   /* open for writing; not told of a file that was told as mapped before */

/* Looks through /proc for regular files of the file system dev that other processes have mapped or open
 * for writing, and that may stand below root; each inode a few times at most. Paths are hints, of
 * the moment: what stands there may be something else by now, or the path be excluded. Of a mount of the
 * same file system elsewhere or in another namespace the path is found by file handle, where the file system
 * gives any. *refused: processes that may not be looked into. Returns bytes written to out;
 * -ENOBUFS: *need is a cap that would have done. */
int64_t i2_held(int root, uint64_t dev, uint8_t *out, size_t cap, uint64_t *refused, uint64_t *need);

/* Writes back all that is dirty of a file. Returns 1: from here on the next write through a mapping moves
 * its ctime; 0: on this file system it may not (tmpfs), nothing was done; or -errno. */
int64_t i2_write_back(int fd);

/* cdef end */
#endif
