/* Records of attributes, as xattr.h describes them: sound ones, in bytes that grow. */
#ifndef I2_RECORDS_H
#define I2_RECORDS_H

#include <string.h>

#include "xattr.h"

struct i2_record {
    uint16_t name_len;
    uint16_t zero;
    uint32_t value_len;
    /* name, value */
};

/* The record at `at`, its name, its value; returns where the next begins. */
static inline size_t i2_record_at(const uint8_t *records, size_t at, struct i2_record *r,
                                  const uint8_t **name, const uint8_t **value)
{
    memcpy(r, records + at, sizeof *r);
    *name = records + at + sizeof *r;
    *value = *name + r->name_len;
    return at + sizeof *r + r->name_len + r->value_len;
}

/* The value of a name, with its length; NULL: there is none. */
const uint8_t *i2_record_find(const uint8_t *records, size_t len, const void *name, size_t name_len,
                              uint32_t *value_len);

/* Puts one in its place, instead of one of the same name. 0 or -ENOMEM. */
int i2_record_put(struct i2_bytes *records, const void *name, size_t name_len, const void *value,
                  uint32_t value_len);

#endif
