/* What a directory hands on to what is made in it.
 *
 * A directory made in the stage and renamed is to be what it were if it had been made in place, and so
 * are the files made in it. A default ACL is handed on, the group of a set-group-id directory, file flags
 * (no copy on write, compression, a project), the SELinux type: where any of that would differ,
 * directories are made in place. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/fs.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>

#include "apply.h"

#define ENCRYPT 0x800u /* names that the headers of EL8 do not have (linux/fs.h) */
#define DAX 0x02000000u
#define CASEFOLD 0x40000000u
#define HANDED_ON                                                                                   \
    (FS_SECRM_FL | FS_UNRM_FL | FS_COMPR_FL | FS_SYNC_FL | FS_NODUMP_FL | FS_NOATIME_FL |           \
     FS_NOCOMP_FL | ENCRYPT | FS_JOURNAL_DATA_FL | FS_NOTAIL_FL | FS_DIRSYNC_FL | FS_NOCOW_FL |     \
     FS_PROJINHERIT_FL | DAX | CASEFOLD)
/* Of a file itself, not for those made in it. */
#define OWN (FS_XFLAG_HASATTR | FS_XFLAG_IMMUTABLE | FS_XFLAG_APPEND | FS_XFLAG_PREALLOC)

static int is_attr_absent(int fd, const char *name)
{
    return fgetxattr(fd, name, NULL, 0) < 0 && (errno == ENODATA || errno == EOPNOTSUPP);
}

/* 0 when it hands on what is not worth comparing. */
static int read_heirs(const struct i2_site *site, int fd, struct i2_heirs *h)
{
    struct stat st;
    struct fsxattr x;
    unsigned flags; /* the kernel gives an int, whatever the macro's type says */
    memset(h, 0, sizeof *h);
    if (fstat(fd, &st) < 0 || st.st_mode & S_ISGID) return 0;
    if (!is_attr_absent(fd, "system.posix_acl_default")) return 0;
    /* Mounted with grpid every directory hands its group on. Who may chown sets it afterwards. */
    if (site->flags & I2_APPLY_NO_OWNER) h->gid = st.st_gid;
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0) flags = 0;
    if (flags & FS_IMMUTABLE_FL) return 0; /* it takes no name */
    h->flags = flags & HANDED_ON;
    if (ioctl(fd, FS_IOC_FSGETXATTR, &x) == 0) {
        h->xflags = x.fsx_xflags & ~(unsigned)OWN;
        h->extsize = x.fsx_extsize;
        h->cowextsize = x.fsx_cowextsize;
        if (x.fsx_xflags & FS_XFLAG_PROJINHERIT) h->project = x.fsx_projid;
    }
    /* user:role:type:level; the user is the one of who makes it. */
    char label[sizeof h->label];
    ssize_t n = fgetxattr(fd, "security.selinux", label, sizeof label);
    if (n < 0) return errno == ENODATA || errno == EOPNOTSUPP;
    const char *colon = memchr(label, ':', (size_t)n);
    if (colon) memcpy(h->label, colon, (size_t)(label + n - colon));
    return 1;
}

int i2_heirs_alike(struct i2_site *site, struct i2_held *held)
{
    struct i2_heirs there;
    if (!site->heirs_known) {
        site->heirs_known = 1;
        if (!read_heirs(site, site->stage, &site->heirs)) site->no_fresh = 1;
    }
    if (site->no_fresh) return 0;
    if (held->alike < 0)
        held->alike =
            read_heirs(site, held->fd, &there) && !memcmp(&there, &site->heirs, sizeof there);
    return held->alike;
}
