/* What is lost, counted as it goes; a step that would lose more than the budget spares is refused before
 * it does anything.
 *
 * What is done in a fresh directory is paid back when that gets no name; so what is gained in it can be
 * spent only when it has one. */
#define _GNU_SOURCE
#include <errno.h>

#include "apply.h"

/* A smaller file may well be written anew with half its content. */
#define SHRINKS_FROM 4096

uint64_t i2_spare(const struct i2_site *site)
{
    const struct i2_budget *b = site->budget;
    if (!b) return UINT64_MAX;
    uint64_t gained = b->gained;
    for (int i = 0; i < site->fresh_n; i++) gained -= site->fresh[i].paid.gained;
    uint64_t have = b->spare + gained < b->spare ? UINT64_MAX : b->spare + gained;
    uint64_t gone = b->lost + b->shrunk;
    return have > gone ? have - gone : 0;
}

int i2_may(struct i2_site *site, const struct i2_toll *toll)
{
    struct i2_budget *b = site->budget;
    uint64_t cost = toll->lost + toll->shrunk;
    cost -= cost < toll->gained ? cost : toll->gained;
    if (!b || !cost || cost <= i2_spare(site)) return 0;
    /* That of a call which begins with this step. */
    b->wanted = cost;
    site->braked = 1;
    return -ECANCELED;
}

void i2_paid(struct i2_site *site, const struct i2_held *held, const struct i2_toll *toll)
{
    struct i2_budget *b = site->budget;
    if (!b) return;
    b->gained += toll->gained;
    b->lost += toll->lost;
    b->shrunk += toll->shrunk;
    if (!held || !held->fresh) return;
    struct i2_toll *top = &site->fresh[held->fresh - 1].paid;
    top->gained += toll->gained;
    top->lost += toll->lost;
    top->shrunk += toll->shrunk;
}

void i2_paid_back(struct i2_site *site, const struct i2_toll *toll)
{
    struct i2_budget *b = site->budget;
    if (!b) return;
    b->gained -= toll->gained;
    b->lost -= toll->lost;
    b->shrunk -= toll->shrunk;
}

void i2_gained(struct i2_site *site, const struct i2_held *held)
{
    i2_paid(site, held, &(struct i2_toll){.gained = 1});
}

int i2_is_shrunk(const struct stat *old, uint64_t size)
{
    return S_ISREG(old->st_mode) && old->st_size >= SHRINKS_FROM && size < (uint64_t)old->st_size / 2;
}

int i2_toll_of(struct i2_site *site, int dir, const char *name, uint64_t size, struct i2_toll *toll)
{
    struct stat st;
    *toll = (struct i2_toll){0};
    if (!site->budget) return 0;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0) {
        toll->gained = errno == ENOENT;
        return 0;
    }
    toll->shrunk = (uint64_t)i2_is_shrunk(&st, size);
    /* Its name stays, and goes to another. */
    if (S_ISDIR(st.st_mode)) toll->lost = i2_count_below(site, dir, name, i2_spare(site));
    return i2_may(site, toll);
}
