/* What an inode carries beside owner, mode, times and attributes: file flags (chattr(1)) and the project
 * its space is counted for. To the rest of the mover it is one more extended attribute, of a name that no
 * file system lists. How a file system stores (compression, copy on write, journalled data) is its own
 * affair, and not among them. */
#ifndef I2_INODE_H
#define I2_INODE_H

#include <stdint.h>

#define I2_INODE_NAME "i2node.inode"

/* The value of the attribute, little-endian; no inode without either has it. */
struct i2_inode {
    uint32_t flags;   /* FS_..._FL of linux/fs.h, of those below */
    uint32_t project; /* 0: none */
};

/* FS_SECRM_FL FS_UNRM_FL FS_SYNC_FL FS_IMMUTABLE_FL FS_APPEND_FL FS_NODUMP_FL FS_NOATIME_FL
 * FS_DIRSYNC_FL FS_PROJINHERIT_FL */
#define I2_INODE_FLAGS 0x200100fbu
#define I2_INODE_LOCKS 0x30u       /* FS_IMMUTABLE_FL FS_APPEND_FL: no change is taken any more */
#define I2_INODE_HEIR 0x20000000u  /* FS_PROJINHERIT_FL: a directory takes nothing of another project */

/* Opens a file or directory to ask for what it carries; follow: also through a link at the end. Nothing
 * else is opened, which would wake a device or whoever waits at a pipe. A descriptor or -errno,
 * -EOPNOTSUPP for what has no flags. */
int i2_inode_open(const char *path, int follow);

/* Of an open file or directory; both are 0 where the file system has no such thing. */
void i2_inode_get(int fd, struct i2_inode *inode);

/* Makes it so. 0 or -errno: -EOPNOTSUPP where the file system holds part of it only. */
int i2_inode_set(int fd, const struct i2_inode *inode);

/* Takes flags off; those of them that it had, or -errno. */
int64_t i2_inode_drop(int fd, uint32_t flags);

/* Gives it these flags as well; 0 or -errno. */
int i2_inode_add(int fd, uint32_t flags);

/* Whether a value, of any length, can be one. */
int i2_inode_check(const void *value, uint32_t len);

#endif
