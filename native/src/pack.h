/* Reading entries into steps: what the parts of i2_pack share.
 *
 * pack.c has a few threads read entries, output.c is where they all write their steps. */
#ifndef I2_PACK_H
#define I2_PACK_H

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>

#include "content.h"
#include "mover.h"
#include "path.h"
#include "xattr.h"

/* A directory that is read from: opened for its first job, closed after the last. */
struct i2_origin {
    const struct i2_group *group;
    size_t left; /* jobs */
    int fd, err;
};

/* One entry. */
struct i2_job {
    const struct i2_group *group;
    struct i2_origin *origin;
    struct i2_entry *entry;
    size_t at, used; /* the step in out */
};

/* What all threads share. */
struct i2_hall {
    int root, mode, tries, content;
    int shelf; /* -1: nothing is aside */
    uint64_t dev, small_max;
    uint8_t *out;
    size_t cap, n;
    struct i2_job *jobs;
    struct i2_origin *origins;
    pthread_mutex_t door; /* of the origins */
    atomic_size_t next, head;
};

/* One thread. */
struct i2_reader {
    struct i2_hall *hall;
    struct i2_kernel k;
    int dir; /* of the job at hand */
    struct i2_bytes xattrs, hashed;
    struct i2_bytes aside; /* of the entry at hand */
    char target[PATH_MAX];
    size_t target_len;
    struct i2_reading reading;
};

/* output.c: takes n bytes of the output; 0 or -ENOBUFS. */
int i2_out_take(struct i2_hall *h, size_t n, size_t *at);

/* Gives back what is behind `used` of the n bytes taken at `at`, when nobody took more since. What
 * cannot be given back is closed up at the end. */
void i2_out_give_back(struct i2_hall *h, size_t at, size_t n, size_t used);

/* Closes up what was given back, when all jobs are done; the bytes that are used. */
size_t i2_out_close_up(struct i2_hall *h);

/* Bytes of a step with such parts, padded. */
size_t i2_out_size(const struct i2_job *j, size_t other, size_t xattrs, size_t data);

/* Where a step at `at` has its data, which is read before the step is written. Not for a symlink. */
uint8_t *i2_out_data(const struct i2_reader *r, const struct i2_job *j, size_t at);

/* Writes the step's head, path, other and xattrs at `at`; the data is there or follows by itself. */
void i2_out_step(struct i2_reader *r, struct i2_job *j, size_t at, int op, int flags, size_t data);

/* Takes what a step without data needs, and writes it; 0 or -ENOBUFS. */
int i2_out_put(struct i2_reader *r, struct i2_job *j, int op, int flags);

#endif
