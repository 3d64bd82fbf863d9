/* Extended attributes as records: {u16 name_len, u16 zero, u32 value_len, name, value}, sorted by
 * name, packed without padding. All namespaces that the kernel shows; POSIX ACLs come along as
 * system.posix_acl_access and system.posix_acl_default, file flags and project as one of our own
 * (inode.h). */
#ifndef I2_XATTR_H
#define I2_XATTR_H

#include <stddef.h>
#include <stdint.h>

#define I2_XATTR_NAME 255        /* limits of the kernel: XATTR_NAME_MAX, */
#define I2_XATTR_VALUE 65536     /* XATTR_SIZE_MAX, XATTR_LIST_MAX */
#define I2_XATTR_TOTAL (4u << 20) /* of ours, for the records of one file */

/* Bytes that grow. Start with zeros; free(p) at the end. */
struct i2_bytes {
    uint8_t *p;
    size_t len, cap;
};
/* Room for `more` bytes behind len; 0 or -ENOMEM. */
int i2_bytes_room(struct i2_bytes *b, size_t more);

/* Whose attributes: an open file, or a path. `follow` 0 takes a symlink at its end for itself. */
struct i2_bearer {
    int fd; /* of a regular file or a directory; -1: by path */
    const char *path;
    int follow;
    int unowned; /* what says who may do what is neither seen nor touched: see I2_UNOWNED */
    /* Where flags that lock the inode are noted instead of being set; NULL: they are set. */
    uint32_t *locks;
};

/* Writes the records of all attributes to out (emptied first). An attribute that goes away meanwhile
 * is left out. Returns 0 or -errno; -ENOTSUP: the file system has none. */
int i2_xattr_read(const struct i2_bearer *of, struct i2_bytes *out);

/* Makes the attributes be the records: sets those that differ, removes those not listed, except
 * security.selinux, which is the target's policy's when the source has none. bare: the bearer
 * is known to have none. Does what it can and returns 0 or the first -errno. aside, where it is given,
 * gets what was refused, which is no error then; see aside.h. */
int i2_xattr_apply(const struct i2_bearer *of, const uint8_t *records, size_t len, int bare,
                   struct i2_bytes *aside);
#define I2_ASIDE_OWN "i2node."
#define I2_ASIDE_STAT "i2node.stat"
#define I2_ASIDE_FLAGS "i2node.flags"

/* Whether err says that a file system, or the rights of the process, do not allow a thing for good;
 * -E2BIG is that there is no room for attributes. */
int i2_xattr_refuses(int err);

/* 1: the bearer has attributes besides security.selinux. 0: none, or no telling. */
int i2_xattr_any(const struct i2_bearer *of);

/* Whether an attribute says who may do what: an ACL, a capability, a label. */
int i2_xattr_secures(const char *name, size_t len);

/* Sound: whole, sorted, each name once, within the limits. 1 or 0. */
int i2_xattr_check(const uint8_t *records, size_t len);

#endif
