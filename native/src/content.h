/* The digest of content: of bytes at hand, or of an open file of any size. */
#ifndef I2_CONTENT_H
#define I2_CONTENT_H

#include "mover.h"

/* Memory kept from file to file. Start with zeros. */
struct i2_reading {
    struct i2_block *blocks;
    size_t blocks_cap;
    uint8_t *window;
    size_t window_cap;
};
void i2_reading_free(struct i2_reading *r);

/* 0 or -ENOMEM. */
int i2_digest_bytes(struct i2_reading *r, const uint8_t *data, size_t len, uint8_t content[16]);

/* Reads the first `size` bytes of fd; sparse: looks for holes and passes over them. A file that ends
 * earlier gives some other digest: the caller's stat tells. 0 or -errno. */
int i2_digest_open(struct i2_reading *r, int fd, uint64_t size, int sparse, uint8_t content[16]);

/* Reads up to len bytes at an offset; fewer only at the end of the file. Bytes or -errno. */
int64_t i2_read_at(int fd, uint8_t *p, size_t len, uint64_t at);

/* Is it a digest, or all zero for "not known"? */
int i2_is_known(const uint8_t content[16]);

#endif
