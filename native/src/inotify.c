/* Draining an inotify descriptor (inotify(7)). */
#include <errno.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "fold.h"

#define READ_MAX 65536u
#define READ_MIN 512u /* more than the longest event, which the kernel never splits */

/* Events whose place in the order means something. */
#define ALONE                                                                                \
    (IN_MOVED_FROM | IN_MOVED_TO | IN_MOVE_SELF | IN_DELETE_SELF | IN_IGNORED | IN_UNMOUNT | \
     IN_Q_OVERFLOW)

int64_t i2_inotify(int notify, uint8_t *out, size_t cap)
{
    _Alignas(struct inotify_event) uint8_t raw[READ_MAX];
    struct i2_fold fold;
    int64_t result = 0;
    if ((uintptr_t)out & 7)
        return -EINVAL;
    i2_fold_begin(&fold, out, cap);
    for (;;) {
        /* the shortest event of 16 bytes takes 56 */
        size_t room = (fold.cap - fold.used) / 7 * 2;
        room = room < READ_MAX ? room : READ_MAX;
        if (room < READ_MIN) {
            result = fold.used ? 0 : -ENOBUFS;
            break;
        }
        ssize_t got = read(notify, raw, room);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno != EAGAIN && fold.used == 0)
            result = -errno; /* behind events it waits for the next call, which meets it again */
        if (got <= 0)
            break;
        for (size_t at = 0; at + sizeof(struct inotify_event) <= (size_t)got;) {
            const struct inotify_event *in = (const struct inotify_event *)(raw + at);
            struct i2_event e = {.mask = in->mask,
                                 .where = (uint64_t)(int64_t)in->wd,
                                 .cookie = in->cookie,
                                 .name_len = in->len ? (uint32_t)strnlen(in->name, in->len) : 0};
            i2_fold_add(&fold, &e, (const uint8_t *)in->name, (const uint8_t *)"",
                        (in->mask & ALONE) != 0);
            at += sizeof *in + in->len;
        }
    }
    i2_fold_end(&fold);
    return result < 0 ? result : (int64_t)fold.used;
}
