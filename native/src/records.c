#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "records.h"

int i2_bytes_room(struct i2_bytes *b, size_t more)
{
    if (b->cap - b->len >= more) return 0;
    size_t cap = b->cap ? b->cap : 512;
    while (cap - b->len < more) cap *= 2;
    uint8_t *p = realloc(b->p, cap);
    if (!p) return -ENOMEM;
    b->p = p;
    b->cap = cap;
    return 0;
}

static int order(const uint8_t *a, size_t a_len, const void *b, size_t b_len)
{
    int by = memcmp(a, b, a_len < b_len ? a_len : b_len);
    return by ? by : a_len < b_len ? -1 : a_len > b_len;
}

const uint8_t *i2_record_find(const uint8_t *records, size_t len, const void *name, size_t name_len,
                              uint32_t *value_len)
{
    struct i2_record r;
    const uint8_t *have, *value;
    for (size_t at = 0; at < len;) {
        at = i2_record_at(records, at, &r, &have, &value);
        if (order(have, r.name_len, name, name_len)) continue;
        *value_len = r.value_len;
        return value;
    }
    return NULL;
}

int i2_record_put(struct i2_bytes *records, const void *name, size_t name_len, const void *value,
                  uint32_t value_len)
{
    struct i2_record r, put = {.name_len = (uint16_t)name_len, .value_len = value_len};
    const uint8_t *have, *old;
    size_t at = 0, end = 0, size = sizeof put + name_len + value_len;
    int by = -1;
    for (size_t next; at < records->len; at = next) {
        next = end = i2_record_at(records->p, at, &r, &have, &old);
        if ((by = order(have, r.name_len, name, name_len)) >= 0) break;
    }
    if (by) end = at;
    if (i2_bytes_room(records, size)) return -ENOMEM;
    uint8_t *p = records->p + at;
    if (records->len > end) memmove(p + size, records->p + end, records->len - end);
    records->len += size - (end - at);
    memcpy(p, &put, sizeof put);
    memcpy(p + sizeof put, name, name_len);
    memcpy(p + sizeof put + name_len, value, value_len);
    return 0;
}
