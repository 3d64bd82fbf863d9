/* Content that lasts before it takes a name from other content.
 *
 * What stands under a name may be all that the source was told is durable. A file system that makes names
 * durable before the content they lead to has neither the old content nor the new one after a power cut.
 * ext4 waits for the content of what replaces a file (ext4(5), auto_da_alloc); XFS and btrfs do not. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "apply.h"

static int is_file(int dir, const char *name)
{
    struct stat st;
    return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) == 0 && S_ISREG(st.st_mode);
}

static int waits_itself(struct i2_site *site)
{
    struct statfs fs;
    if (!site->waits) {
        int known = fstatfs(site->root, &fs) == 0;
        site->waits = known && (fs.f_type == EXT4_SUPER_MAGIC || fs.f_type == TMPFS_MAGIC) ? 1 : -1;
    }
    return site->waits > 0;
}

int i2_last(struct i2_site *site, int fd)
{
    if (waits_itself(site) || fdatasync(fd) == 0) return 0;
    site->unwritten = 1;
    return -errno;
}

int i2_last_at(struct i2_site *site, int dir, const char *name, int over, const char *other)
{
    if (waits_itself(site) || !is_file(over, other) || !is_file(dir, name)) return 0;
    int fd = i2_open_in(&site->k, dir, name, O_RDONLY | O_NONBLOCK | O_NOATIME);
    if (fd < 0) return fd == -EACCES || fd == -EPERM ? 0 : fd; /* not for all of us, save root */
    int err = i2_last(site, fd);
    close(fd);
    return err;
}
