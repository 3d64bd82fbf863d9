/* The shelf: a directory, of nothing else, on the file system of a root, where i2_apply keeps aside what that
 * refuses of a file. Where it does with I2_APPLY_ASIDE, owner, mode, times, attributes that are refused and
 * devices that may not be made are no faults. Where there is no shelf yet (-1) the step that needs one is
 * fatal (I2_AT_ASIDE), to be done again when there is one. With I2_APPLY_LOSE they are passed over instead.
 * i2_pack, i2_digest_files and i2_attributes lay it over what the file system tells. */
#ifndef I2_SHELF_H
#define I2_SHELF_H

#include <stddef.h>
#include <stdint.h>

/* cdef begin */

/* Whether a shelf can be where an open directory is: 1, 0 where nothing tells an inode from all others for
 * good, or -errno. */
int64_t i2_aside_able(int fd);

/* Lays what is aside of an open directory over its entry; shelf may be -1. 0 or -errno. */
int64_t i2_aside_entry(int fd, int shelf, uint8_t *entry, size_t len);

/* Takes away what is in a shelf for files that are no more, on the file system of root. How many, or -errno.
 * Only root may ask for a file by its handle; for others nothing is known to be gone. */
int64_t i2_aside_sweep(int root, int shelf);

/* cdef end */
#endif
