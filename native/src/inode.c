/* File flags and project, by ioctl_iflags(2) and ioctl_xfs_fsgetxattr(2). */
#define _GNU_SOURCE
#include "inode.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

int i2_inode_open(const char *path, int follow)
{
    char again[40];
    struct stat st;
    int held = open(path, O_PATH | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW));
    if (held < 0) return -errno;
    int fd = -EOPNOTSUPP;
    if (fstat(held, &st) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode))) {
        snprintf(again, sizeof again, "/proc/self/fd/%d", held);
        fd = open(again, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0) fd = -errno;
    }
    close(held);
    return fd;
}

/* The kernel takes and gives an int, whatever the macros' type says. */
static int get_flags(int fd, unsigned *flags) { return ioctl(fd, FS_IOC_GETFLAGS, flags) < 0 ? -errno : 0; }

/* The flag of a directory that hands its project on is among the project's: that is where XFS on EL8
 * has it. */
void i2_inode_get(int fd, struct i2_inode *inode)
{
    struct fsxattr x;
    unsigned flags;
    memset(inode, 0, sizeof *inode);
    if (get_flags(fd, &flags)) return;
    inode->flags = flags & I2_INODE_FLAGS & ~I2_INODE_HEIR;
    if (ioctl(fd, FS_IOC_FSGETXATTR, &x) < 0) return;
    inode->project = x.fsx_projid;
    if (x.fsx_xflags & FS_XFLAG_PROJINHERIT) inode->flags |= I2_INODE_HEIR;
}

static int set_flags(int fd, unsigned wanted)
{
    unsigned now, next, mask = I2_INODE_FLAGS & ~I2_INODE_HEIR;
    wanted &= mask;
    /* Where there are no flags none are missing. */
    if (get_flags(fd, &now)) return wanted ? -EOPNOTSUPP : 0;
    unsigned differ = (now & mask) ^ wanted;
    if (!differ) return 0;
    next = now ^ differ;
    if (ioctl(fd, FS_IOC_SETFLAGS, &next) == 0) return 0;
    int err = -errno;
    if (err != -EOPNOTSUPP && err != -EINVAL) return err;
    /* All or nothing, says the file system: those that it has, one by one. */
    for (unsigned bit = 1; bit <= differ; bit <<= 1) {
        if (!(differ & bit) || get_flags(fd, &now)) continue;
        next = now ^ bit;
        ioctl(fd, FS_IOC_SETFLAGS, &next);
    }
    return -EOPNOTSUPP;
}

static int set_project(int fd, const struct i2_inode *wanted)
{
    struct fsxattr x;
    unsigned heir = wanted->flags & I2_INODE_HEIR ? FS_XFLAG_PROJINHERIT : 0;
    if (ioctl(fd, FS_IOC_FSGETXATTR, &x) < 0) return wanted->project || heir ? -EOPNOTSUPP : 0;
    if (x.fsx_projid == wanted->project && (x.fsx_xflags & FS_XFLAG_PROJINHERIT) == heir) return 0;
    x.fsx_projid = wanted->project;
    x.fsx_xflags = (x.fsx_xflags & ~(unsigned)FS_XFLAG_PROJINHERIT) | heir;
    if (ioctl(fd, FS_IOC_FSSETXATTR, &x) == 0) return 0;
    return errno == EINVAL ? -EOPNOTSUPP : -errno;
}

int i2_inode_set(int fd, const struct i2_inode *inode)
{
    int err = set_project(fd, inode);
    int flags = set_flags(fd, inode->flags);
    return err ? err : flags;
}

int64_t i2_inode_drop(int fd, uint32_t flags)
{
    struct i2_inode inode;
    i2_inode_get(fd, &inode);
    flags &= inode.flags;
    inode.flags &= ~flags;
    int err = flags ? i2_inode_set(fd, &inode) : 0;
    return err ? err : (int64_t)flags;
}

int i2_inode_add(int fd, uint32_t flags)
{
    struct i2_inode inode;
    i2_inode_get(fd, &inode);
    inode.flags |= flags;
    return i2_inode_set(fd, &inode);
}

int i2_inode_check(const void *value, uint32_t len)
{
    struct i2_inode inode;
    if (len != sizeof inode) return 0;
    memcpy(&inode, value, sizeof inode);
    return !(inode.flags & ~I2_INODE_FLAGS) && (inode.flags || inode.project);
}
