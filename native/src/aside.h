/* What the target's file system refuses of a file, kept aside: a file of its own in the shelf, a directory
 * on the same file system, named by the file handle (name_to_handle_at(2)). That follows the inode through
 * renames and hard links, and no other inode ever has it, so that one that was not taken away is no harm.
 *
 * It holds records as extended attributes are (xattr.h): of those that were refused, and two of our own.
 * "i2node.flags" is two struct i2_inode, what was wanted and what there is of it; "i2node.stat" is a struct
 * i2_aside_stat. Both count only while the file is as it was left: a change by somebody else shows. */
#ifndef I2_ASIDE_H
#define I2_ASIDE_H

#include "mover.h"
#include "xattr.h"

struct i2_site;

#define I2_ASIDE_NAME 160

struct i2_aside_stat {
    uint32_t what; /* I2_ASIDE_OWNER.. */
    uint32_t kind;
    uint32_t mode, uid, gid, mtime_ns;
    int64_t mtime_s;
    uint64_t rdev;
    /* what stands in the file system instead */
    uint32_t real_mode, real_uid, real_gid, real_mtime_ns;
    int64_t real_mtime_s;
};
#define I2_ASIDE_OWNER 1u
#define I2_ASIDE_MODE 2u
#define I2_ASIDE_MTIME 4u
#define I2_ASIDE_NODE 8u /* an empty file stands for a device, pipe or socket */

/* Under which name; `at` and `flags` as of name_to_handle_at(2), path "" with AT_EMPTY_PATH. 0 or -errno:
 * -EOPNOTSUPP where the file system has no handles that last. */
int i2_aside_name(int at, const char *path, int flags, char out[I2_ASIDE_NAME]);

/* What is aside, of what i2_aside_name takes; out is empty where nothing is, or what is there is damaged: then
 * it was never acknowledged. 0 or -errno. */
int i2_aside_read(int shelf, int at, const char *path, int flags, struct i2_bytes *out);

/* Lays what is aside over what the file system tells: the attributes, unowned without those that say who
 * may do what, and the fields of stat. */
int i2_aside_lay(const struct i2_bytes *aside, struct i2_bytes *xattrs, int unowned);
void i2_aside_lay_stat(const struct i2_bytes *aside, struct i2_entry *e);

/* Whether what is refused with err is no fault of the step: it is kept aside, or known to be lost. */
int i2_aside_takes(const struct i2_site *site, int err);

/* Keeps aside the records, and what is in `what` of the step's stat, of an open file or one held with
 * O_PATH; takes away what was aside and is not any more. Notes faults. */
void i2_aside_keep(struct i2_site *site, int fd, const struct i2_step *s, struct i2_bytes *records,
                   uint32_t what);

/* The same for flags that could not be set when all else was done. */
void i2_aside_keep_flags(struct i2_site *site, int fd, uint32_t flags);

/* Before what stands at a name is taken away or replaced, and when it was. */
void i2_aside_doom(struct i2_site *site, int dir, const char *name, char key[I2_ASIDE_NAME]);
void i2_aside_drop(struct i2_site *site, const char key[I2_ASIDE_NAME]);

/* Takes away what was kept aside of an open file, or one held with O_PATH, that got no name after all. */
void i2_aside_undo(struct i2_site *site, int fd);

/* Whether nothing is in a shelf; 1 where there is none. */
int i2_aside_is_empty(int shelf);

#endif
