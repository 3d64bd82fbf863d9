/* The redo journal: a file of which little changes, where the file system cannot clone it.
 *
 * A copy would write all of the file for the sake of a few blocks. Instead the steps of the delta are
 * kept in the stage as they came, and when STAGED has come too they are made durable and then done to
 * the old file itself. Whatever happens on the way, doing them all once more gives the new file: they
 * say what stands where, whatever stood there before.
 *
 *     STAGE (rdev: inode number of the old file, span: its birth)  WRITE | HOLE ...  STAGED  seal
 *
 * Without the seal nothing has been done to the old file. With it the journal is done again, by the
 * STAGED step when that is tried again, by i2_redo after a crash. Where the old file itself must not be
 * written to, the journal is laid over a copy of it, which gets the name as any staged file does. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "apply.h"
#include "blake3.h"
#include "content.h"
#include "inode.h"

/* From how many bytes on disk it pays: three times the disk is waited for, and a copy of less is
 * written in that time. */
#ifndef I2_REDO_FROM
#define I2_REDO_FROM (4u << 20)
#endif
#define RECORD_MAX (16u << 20) /* no step is as long: a frame is 8 MiB */

struct seal {
    uint8_t magic[8];
    uint64_t length; /* of all before the seal */
    uint8_t hash[32]; /* BLAKE3 of that */
};
static const uint8_t MAGIC[8] = {'i', '2', 'r', 'e', 'd', 'o', '1', '\n'};

/* A journal being read. */
struct journal {
    struct i2_site *site;
    int fd;
    uint64_t size, at, end; /* of the file; of the next record; of WRITE and HOLE */
    struct i2_step *record; /* the one read last */
    size_t room;
    struct i2_step *first, *last; /* STAGE; STAGED, where it is sealed */
    uint64_t ino;
    int64_t birth;
    int hashing;
    struct b3_stream hash; /* of what was read through */
};

/* ---------------------------------------------------------------------------- writing --------- */

int i2_redo_pays(const struct i2_site *site, int from, const struct stat *st)
{
    struct statfs fs;
    /* What is to be verified has to be whole before it gets its name. */
    if ((site->flags & I2_APPLY_VERIFY) || st->st_nlink != 1) return 0;
    if ((uint64_t)st->st_blocks * 512 < I2_REDO_FROM || fstatfs(from, &fs) < 0) return 0;
    /* Inode numbers that mean the same after a reboot, and a sync that is one. tmpfs has no reboot. */
    return fs.f_type == EXT4_SUPER_MAGIC || fs.f_type == XFS_SUPER_MAGIC || fs.f_type == TMPFS_MAGIC;
}

/* Adds bytes at the end; what is there of them after an error is cut off again. */
static int append(int fd, const void *data, size_t len)
{
    off_t end = lseek(fd, 0, SEEK_END);
    if (end < 0) return -errno;
    int err = i2_write_at(fd, data, len, (uint64_t)end);
    if (err && ftruncate(fd, end) < 0) return -EIO;
    return err;
}

int i2_redo_note(struct i2_site *site, const struct i2_step *s)
{
    return s->length > RECORD_MAX ? -EFBIG : append(site->staged, s, s->length);
}

/* What stat says of an open file, as an entry. */
static int look(struct i2_site *site, int fd, struct i2_entry *e)
{
    struct statx now;
    memset(e, 0, sizeof *e);
    int err = i2_statx(&site->k, fd, "", AT_EMPTY_PATH, &now);
    if (!err) i2_entry_fill(e, &now, 0);
    return err;
}

int i2_redo_begin(struct i2_site *site, const struct i2_step *s, int from)
{
    struct i2_entry old;
    int err = look(site, from, &old);
    int fd = err ? err : i2_new_staged(site, s->stage, 1);
    if (fd < 0) return fd;
    struct i2_step head = *s;
    head.rdev = old.ino;
    head.span = (uint64_t)old.birth;
    err = append(fd, &head, sizeof head);
    return err ? err : append(fd, i2_step_path(s), s->length - sizeof head);
}

/* ---------------------------------------------------------------------------- reading --------- */

/* Reads the record at j->at and holds it to what a payload is held to. -EBADMSG: it is damaged. */
static int next(struct journal *j)
{
    struct i2_step head;
    uint64_t left = j->size - j->at;
    if (left < sizeof head) return -EBADMSG;
    int64_t got = i2_read_at(j->fd, (uint8_t *)&head, sizeof head, j->at);
    if (got < 0) return (int)got;
    if (got < (int64_t)sizeof head || head.length < sizeof head) return -EBADMSG;
    if (head.length > RECORD_MAX || head.length > left) return -EBADMSG;
    if (head.length > j->room) {
        free(j->record);
        j->record = malloc(head.length);
        j->room = j->record ? head.length : 0;
        if (!j->record) return -ENOMEM;
    }
    got = i2_read_at(j->fd, (uint8_t *)j->record, head.length, j->at);
    if (got < 0) return (int)got;
    if (got < (int64_t)head.length || j->record->length != head.length) return -EBADMSG;
    if (j->hashing) i2_b3_add(&j->hash, (const uint8_t *)j->record, head.length);
    if (!j->at) {
        /* What the wire leaves empty, the journal does not. */
        j->ino = j->record->rdev;
        j->birth = (int64_t)j->record->span;
        j->record->rdev = j->record->span = 0;
    }
    j->at += head.length;
    return i2_steps_check((const uint8_t *)j->record, head.length) == 1 ? 0 : -EBADMSG;
}

static int keep(const struct journal *j, struct i2_step **as)
{
    *as = malloc(j->record->length);
    if (!*as) return -ENOMEM;
    memcpy(*as, j->record, j->record->length);
    return 0;
}

/* Whether the seal, which is all that is left, is right. */
static int sealed(struct journal *j)
{
    struct seal want = {.length = j->at}, have;
    if (j->size - j->at != sizeof have) return -EBADMSG;
    int64_t got = i2_read_at(j->fd, (uint8_t *)&have, sizeof have, j->at);
    if (got < 0) return (int)got;
    memcpy(want.magic, MAGIC, sizeof MAGIC);
    i2_b3_end(&j->hash, want.hash, sizeof want.hash);
    return got == sizeof have && !memcmp(&want, &have, sizeof have) ? 0 : -EBADMSG;
}

/* Reads all of the journal. 0: it is sound, and sealed where j->last is there; else -EBADMSG, or why
 * it cannot be read. */
static int read_through(struct journal *j)
{
    struct stat st;
    if (fstat(j->fd, &st) < 0) return -errno;
    j->size = (uint64_t)st.st_size;
    i2_b3_begin(&j->hash);
    j->hashing = 1;
    int err = next(j);
    if (!err && (j->record->op != I2_STAGE || !(j->record->flags & I2_STEP_CLONE))) err = -EBADMSG;
    if (!err) err = keep(j, &j->first);
    for (j->end = j->at; !err && j->at < j->size; j->end = j->at) {
        err = next(j);
        const struct i2_step *s = j->record;
        if (err || s->stage != j->first->stage) return err ? err : -EBADMSG;
        if (s->op == I2_STAGED) {
            j->hashing = 0;
            err = sealed(j);
            return err ? err : keep(j, &j->last);
        }
        if (s->op != I2_WRITE && s->op != I2_HOLE) return -EBADMSG;
    }
    j->hashing = 0;
    return err;
}

static void free_journal(struct journal *j)
{
    if (j->fd >= 0) close(j->fd);
    free(j->record);
    free(j->first);
    free(j->last);
}

/* Takes the journal that is site->staged. */
static struct journal *take(struct i2_site *site, struct journal *j)
{
    memset(j, 0, offsetof(struct journal, hash));
    j->site = site;
    j->fd = site->staged;
    site->staged = -1;
    return j;
}

/* ---------------------------------------------------------------------------- applying -------- */

/* Does what the journal says to an open file, as far as it lies before limit. */
static int play(struct journal *j, int fd, uint64_t limit)
{
    int err = 0;
    for (j->at = j->first->length; !err && j->at < j->end;) {
        err = next(j);
        const struct i2_step *s = j->record;
        if (err || s->size >= limit) continue;
        uint64_t room = limit - s->size;
        if (s->op == I2_HOLE) {
            err = i2_make_hole(j->site, fd, s->size, s->span < room ? s->span : room);
        } else {
            size_t n = s->data_len < room ? s->data_len : (size_t)room;
            err = i2_write_at(fd, i2_step_data(s), n, s->size);
        }
    }
    return err;
}

/* Opens up an immutable or append-only file. */
static int open_up(struct i2_site *site, int dir, const char *name)
{
    int fd = i2_open_regular(site, dir, name, O_RDONLY);
    if (fd < 0) return 0;
    int done = i2_open_up(site, fd, I2_INODE_LOCKS, 1);
    close(fd);
    return done;
}

/* Opens the very file that STAGE saw, if it stands at the path. -ESTALE: another one does. */
static int open_old(struct journal *j, const struct i2_step *at, int flags, struct i2_entry *e)
{
    struct i2_held *held;
    struct stat st;
    char name[I2_NAME_LIMIT + 1];
    struct i2_site *site = j->site;
    int err = i2_parent(site, i2_step_path(at), at->path_len, &held, name);
    if (err) return err;
    int fd = i2_open_regular(site, held->fd, name, flags);
    if (fd == -EPERM && flags != O_RDONLY && open_up(site, held->fd, name))
        fd = i2_open_regular(site, held->fd, name, flags);
    i2_let_go_held(site); /* the path may be the journal's, which does not last */
    if (fd < 0) return fd;
    err = look(site, fd, e);
    if (!err && (e->ino != j->ino || e->birth != j->birth)) err = -ESTALE;
    /* Once it is sealed, what differs from what STAGE saw may be our doing. */
    if (!err && !j->last) {
        if (fstat(fd, &st) < 0) err = -errno;
        else if (!i2_is_meant(site, j->first, fd, &st)) err = -ESTALE;
    }
    if (!err) return fd;
    close(fd);
    return err;
}

/* Whether an ACL says who may read the file, before or afterwards. */
static int has_acl(int fd, const struct i2_step *s)
{
    static const char name[] = "system.posix_acl_access";
    return fgetxattr(fd, name, NULL, 0) >= 0 ||
           memmem(i2_step_xattrs(s), s->xattr_len, name, sizeof name - 1);
}

/* Opens the old file where it may be written to: no other name changes with it, nobody runs it, and
 * the new content is not seen by whom only the old was meant for. */
static int open_in_place(struct journal *j, const struct i2_step *s)
{
    struct i2_entry e;
    int flags = j->site->flags;
    if ((flags & I2_APPLY_VERIFY) && i2_is_known(s->content)) return -EPERM;
    int fd = open_old(j, s, O_RDWR, &e);
    if (fd < 0) return fd;
    int same = (flags & I2_APPLY_NO_OWNER) || s->uid == I2_UNOWNED ||
               (e.uid == s->uid && e.gid == s->gid);
    if (e.nlink == 1 && e.mode == s->mode && same && !has_acl(fd, s)) return fd;
    close(fd);
    return -EPERM;
}

/* Ends the journal and makes it durable, with its name. From then on it is done again after a crash. */
static int seal(struct journal *j, const struct i2_step *s)
{
    struct seal seal = {.length = j->end + s->length};
    if (s->length > RECORD_MAX) return -EFBIG;
    memcpy(seal.magic, MAGIC, sizeof MAGIC);
    i2_b3_add(&j->hash, (const uint8_t *)s, s->length);
    i2_b3_end(&j->hash, seal.hash, sizeof seal.hash);
    int err = append(j->fd, s, s->length);
    if (!err && (err = append(j->fd, &seal, sizeof seal)) && ftruncate(j->fd, (off_t)j->end) < 0)
        err = -EIO;
    if (err) return err;
    if (fdatasync(j->fd) == 0 && fsync(j->site->stage) == 0) return 0;
    err = -errno;
    /* What could not be written counts as written the next time (fsync(2)): it must come anew. */
    return ftruncate(j->fd, 0) < 0 ? -EIO : err;
}

/* Takes the room that what is to be written before limit needs: what is there of the old file reads as
 * before. Else a full disk would leave it torn for as long as it is full. */
static int reserve(const struct journal *j, int fd, uint64_t limit)
{
    struct i2_step s;
    struct stat st;
    if (fstat(fd, &st) < 0) return -errno;
    for (uint64_t at = j->first->length; at < j->end; at += s.length) {
        int64_t got = i2_read_at(j->fd, (uint8_t *)&s, sizeof s, at);
        if (got < 0) return (int)got;
        if (got < (int64_t)sizeof s || s.length < sizeof s) return -EBADMSG;
        if (s.op != I2_WRITE || s.size >= limit) continue;
        uint64_t n = s.data_len < limit - s.size ? s.data_len : limit - s.size;
        off_t hole = lseek(fd, (off_t)s.size, SEEK_HOLE);
        if (!n || (hole >= 0 && (uint64_t)hole >= s.size + n)) continue;
        int err;
        do err = fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)s.size, (off_t)n) < 0 ? -errno : 0;
        while (err == -EINTR);
        if (!err) continue;
        if (err == -EOPNOTSUPP || err == -ENOSYS) return 0;
        /* The rest moved the times. */
        const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, st.st_mtim};
        return futimens(fd, times) < 0 ? -errno : err;
    }
    return 0;
}

/* Makes of the old file the new one; *torn: it is neither by now. 0 or -errno, or site->fatal. */
static int patch(struct journal *j, int fd, const struct i2_step *s, int *torn)
{
    struct statx now;
    int err = reserve(j, fd, s->size);
    if (err) return err;
    /* Before the rest, since a size can be refused for good: nothing is written behind it. */
    if (ftruncate(fd, (off_t)s->size) < 0) return -errno;
    *torn = 1;
    err = play(j, fd, s->size);
    if (!err) err = i2_statx(&j->site->k, fd, "", AT_EMPTY_PATH, &now);
    if (err) return err;
    now.stx_mtime.tv_nsec = UINT32_MAX; /* writing moved it */
    if (!(s->flags & I2_STEP_NO_XATTR)) i2_stays_open(j->site, fd);
    i2_lock(j->site, fd, i2_meta(j->site, fd, 0, s, &now, 0));
    return fsync(fd) < 0 ? -errno : 0;
}

/* Makes a copy of the old file with what the journal says before limit; it becomes site->staged. */
static int build(struct journal *j, uint64_t limit, int *what)
{
    struct i2_entry e;
    char name[I2_STAGE_NAME];
    *what = I2_AT_OPEN;
    int from = open_old(j, j->first, O_RDONLY, &e);
    if (from == -ESTALE) *what = I2_AT_CHECK;
    if (from < 0) return from;
    *what = I2_AT_WRITE;
    i2_staged_name(j->first->stage, 0, name);
    /* It may have been begun before, when the disk was full. */
    unlinkat(j->site->stage, name, 0);
    int fd = i2_new_staged(j->site, j->first->stage, 0);
    int err = fd < 0 ? fd : i2_copy_range(j->site, from, 0, fd, 0, e.size);
    close(from);
    return err ? err : play(j, fd, limit);
}

static void drop(struct i2_site *site, uint64_t id)
{
    char name[I2_STAGE_NAME];
    i2_staged_name(id, 1, name);
    unlinkat(site->stage, name, 0);
}

int i2_redo_build(struct i2_site *site, int *what)
{
    struct journal j;
    *what = I2_AT_CHECK;
    int err = read_through(take(site, &j));
    if (!err) err = build(&j, INT64_MAX, what);
    if (!err) drop(site, j.first->stage);
    free_journal(&j);
    return err ? err : site->staged;
}

/* Whether an error says that the old file is there no more, so that nothing can be torn. */
static int is_gone(int err)
{
    return err == -ENOENT || err == -ENOTDIR || err == -ESTALE || err == -EXDEV || err == -ELOOP;
}

/* What it costs to change the open old file in place. */
static int toll_of_patch(struct journal *j, int fd, const struct i2_step *s, struct i2_toll *toll)
{
    struct stat st;
    if (fstat(fd, &st) < 0) return -errno;
    toll->shrunk = i2_is_shrunk(&st, s->size);
    return i2_may(j->site, toll);
}

/* Does what the sound journal says, s being its STAGED step. 0 or -errno with *what, or site->fatal. */
static int settle(struct journal *j, const struct i2_step *s, int *what)
{
    int torn = j->last != NULL;
    *what = I2_AT_WRITE;
    struct i2_toll toll = {0};
    int fd = open_in_place(j, s);
    int err = fd < 0 ? fd : 0;
    if (!err && !torn) err = toll_of_patch(j, fd, s, &toll);
    if (!err && !torn) err = seal(j, s);
    /* Sealed, it is done, however long that takes. */
    if (!err) i2_paid(j->site, NULL, &toll);
    if (!err) err = patch(j, fd, s, &torn);
    if (fd >= 0) close(fd);
    if (!err || i2_is_fatal(err) || j->site->braked) return err;
    err = build(j, s->size, what);
    if (!err) err = i2_finish_staged(j->site, s, what);
    /* A torn file under its name: nothing else may be done before it is whole, whatever the reason. */
    j->site->torn = err && torn && !is_gone(err);
    return err;
}

int i2_redo_staged(struct i2_site *site, const struct i2_step *s, int *what)
{
    struct journal j;
    *what = I2_AT_CHECK;
    int err = read_through(take(site, &j));
    if (!err) err = settle(&j, s, what);
    if (!err && !site->fatal) drop(site, s->stage);
    free_journal(&j);
    return err;
}

/* ---------------------------------------------------------------------------- after a crash --- */

/* A journal that this agent wrote, whatever else may have got into the stage. */
static int is_ours(int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0) return 0;
    return S_ISREG(st.st_mode) && st.st_uid == geteuid() && st.st_nlink == 1 && !(st.st_mode & 077);
}

int64_t i2_redo(int root, int stage, int shelf, const uint8_t *name, size_t len, int flags,
                uint8_t *path, size_t cap, uint64_t *path_len)
{
    struct i2_fault fault = {0};
    struct i2_site site;
    struct journal j;
    char file[I2_STAGE_NAME], right[I2_STAGE_NAME] = "";
    *path_len = 0;
    if (len >= sizeof file || !i2_name_clean(name, len)) return -EINVAL;
    memcpy(file, name, len);
    file[len] = 0;
    memset(&site, 0, sizeof site);
    site.root = root;
    site.stage = stage;
    site.shelf = shelf;
    site.flags = flags;
    site.fault = &fault;
    site.room = 1;
    int what = I2_AT_CHECK, err = i2_site_open(&site);
    if (err) return err;
    site.staged = openat(stage, file, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (site.staged < 0) err = -errno;
    take(&site, &j);
    if (!err) err = is_ours(j.fd) ? read_through(&j) : -EBADMSG;
    const struct i2_step *s = j.last ? j.last : j.first;
    if (s) i2_staged_name(s->stage, 1, right);
    if (s && s->path_len <= cap) {
        *path_len = s->path_len;
        memcpy(path, i2_step_path(s), s->path_len);
    }
    if (!err) err = j.last && !strcmp(file, right) ? settle(&j, s, &what) : -EBADMSG;
    if (err) i2_fault(&site, what, err);
    i2_lock_again(&site);
    /* Done, or never to be done. */
    if (!site.fatal) unlinkat(stage, file, 0);
    if (err && !site.fatal && !strcmp(file, right)) i2_unstage(&site, s->stage);
    i2_site_close(&site);
    free_journal(&j);
    return site.fatal ? -fault.status : !err;
}
