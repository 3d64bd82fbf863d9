/* The output of i2_pack: one buffer, in which every thread takes room for the step at hand. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "pack.h"
#include "steps.h"

int i2_out_take(struct i2_hall *h, size_t n, size_t *at)
{
    size_t head = atomic_load(&h->head);
    do {
        if (n > h->cap - head) return -ENOBUFS;
    } while (!atomic_compare_exchange_weak(&h->head, &head, head + n));
    *at = head;
    return 0;
}

void i2_out_give_back(struct i2_hall *h, size_t at, size_t n, size_t used)
{
    size_t end = at + n;
    atomic_compare_exchange_strong(&h->head, &end, at + used);
}

static int by_at(const void *a, const void *b)
{
    const struct i2_job *x = a, *y = b;
    return (x->at > y->at) - (x->at < y->at);
}

size_t i2_out_close_up(struct i2_hall *h)
{
    size_t sum = 0;
    for (size_t i = 0; i < h->n; i++) sum += h->jobs[i].used;
    if (sum == atomic_load(&h->head)) return sum;
    qsort(h->jobs, h->n, sizeof *h->jobs, by_at);
    size_t end = 0;
    for (size_t i = 0; i < h->n; i++) {
        if (!h->jobs[i].used) continue;
        memmove(h->out + end, h->out + h->jobs[i].at, h->jobs[i].used);
        end += h->jobs[i].used;
    }
    return end;
}

static size_t path_size(const struct i2_job *j)
{
    return j->group->path_len + (j->group->path_len != 0) + j->entry->name_len;
}

size_t i2_out_size(const struct i2_job *j, size_t other, size_t xattrs, size_t data)
{
    return i2_pad8(sizeof(struct i2_step) + path_size(j) + other + xattrs + data);
}

uint8_t *i2_out_data(const struct i2_reader *r, const struct i2_job *j, size_t at)
{
    return r->hall->out + at + sizeof(struct i2_step) + path_size(j) + r->xattrs.len;
}

void i2_out_step(struct i2_reader *r, struct i2_job *j, size_t at, int op, int flags, size_t data)
{
    const struct i2_entry *e = j->entry;
    uint8_t *p = r->hall->out + at;
    struct i2_step s;
    memset(&s, 0, sizeof s);
    s.op = (uint8_t)op;
    s.kind = e->kind;
    s.flags = (uint16_t)flags;
    s.path_len = (uint32_t)path_size(j);
    s.other_len = op == I2_PUT_LINK ? (uint32_t)r->target_len : 0;
    s.xattr_len = (uint32_t)r->xattrs.len;
    s.data_len = (uint32_t)data;
    s.mode = e->mode;
    s.uid = e->uid;
    s.gid = e->gid;
    s.mtime_s = e->mtime_s;
    s.mtime_ns = e->mtime_ns;
    if (e->kind == I2_FILE) s.size = data ? data : e->size;
    if (op == I2_PUT_NODE) s.rdev = e->rdev;
    if (op == I2_STAGED) s.stage = e->rdev;
    if (e->kind == I2_FILE) memcpy(s.content, e->content, 16);
    s.length = (uint32_t)i2_step_size(&s);
    memcpy(p, &s, sizeof s);
    p += sizeof s;
    if (j->group->path_len) {
        memcpy(p, j->group + 1, j->group->path_len);
        p += j->group->path_len;
        *p++ = '/';
    }
    memcpy(p, e + 1, e->name_len);
    p += e->name_len;
    memcpy(p, r->target, s.other_len);
    p += s.other_len;
    if (s.xattr_len) memcpy(p, r->xattrs.p, s.xattr_len);
    p += s.xattr_len + data;
    memset(p, 0, (size_t)(r->hall->out + at + s.length - p));
    j->at = at;
    j->used = s.length;
}

int i2_out_put(struct i2_reader *r, struct i2_job *j, int op, int flags)
{
    size_t at, n = i2_out_size(j, op == I2_PUT_LINK ? r->target_len : 0, r->xattrs.len, 0);
    int err = i2_out_take(r->hall, n, &at);
    if (!err) i2_out_step(r, j, at, op, flags, 0);
    return err;
}
