/* Changing the target: what the parts of i2_apply share.
 *
 * apply.c walks through the steps; put.c makes files, links and nodes; meta.c gives them owner,
 * mode, attributes and times; names.c moves and removes; twin.c parts a file of too many names;
 * fresh.c builds new directories where nobody sees them, if heirs.c allows; lasting.c has content
 * durable before it replaces other; remove.c takes trees down; budget.c counts what is lost, and refuses
 * what would be too much; stage.c builds large files, range.c copies between them, direct.c writes them
 * past the page cache, redo.c changes them in place; lock.c opens up what takes no change, and closes it
 * again. Every path is resolved from the held root, everything in passing stands in the stage. */
#ifndef I2_APPLY_H
#define I2_APPLY_H

#include "mover.h"
#include "path.h"
#include "steps.h"

#define I2_HELD 4
#define I2_FRESH 128
#define I2_DRAFTS 512
#define I2_STAGE_NAME 40
#define I2_BUFFER (1u << 20)
#define I2_OPENED 8 /* a step takes at most that many, but for a tree */

/* A directory of the target kept open while steps go to it. */
struct i2_held {
    int fd; /* -1: free */
    const uint8_t *path;
    size_t len;
    uint64_t used; /* the younger the greater */
    /* What a new file in it is given, which the first one tells. */
    int bare; /* no extended attributes, and nobody else has a say: 1, 0, -1 not known yet */
    uint32_t uid, gid;
    int fresh; /* nobody sees it yet: it stands in the stage; the top it is below, from 1 */
    int alike; /* of i2_heirs_alike: 1, 0, -1 not known yet */
};

/* What a step costs the budget. */
struct i2_toll {
    uint64_t gained, lost, shrunk;
};

/* What was opened up for the step at hand, and the flags it has again behind it. */
struct i2_opened {
    int fd;
    uint32_t flags;
};

/* What is noted of faults at a moment, to go back to. */
struct i2_told {
    uint64_t noted, more;
    struct i2_fault last;
};

/* A directory that was made in the stage and has its name still to get; what is below it is in it. */
struct i2_fresh {
    const uint8_t *path;
    size_t len;
    char staged[I2_STAGE_NAME];
    /* The step that made it, and what was noted before that: where to go back to. */
    size_t at;
    uint32_t index;
    struct i2_told told;
    struct i2_toll paid; /* for it and in it */
};

/* A whole file in the stage that has its name still to get, from a file that has it; and its step. */
struct i2_draft {
    size_t at;
    uint32_t index;
    char staged[I2_STAGE_NAME];
    struct i2_toll paid;
};

/* What a directory hands on to what is made in it; all zero where it is nothing. */
struct i2_heirs {
    uint32_t gid, flags, xflags, extsize, cowextsize, project;
    char label[256];
};

struct i2_site {
    struct i2_kernel k;
    int root, stage, shelf, flags;
    int shelf_empty; /* nothing is aside of any file */
    int fine_times;  /* the file system was seen to keep nanoseconds */
    unsigned umask;
    uint64_t dev, stage_ino; /* stage_ino 0: the stage is the root itself */
    /* where the stage and the shelf stand in the root, else empty */
    char stage_name[I2_NAME_LIMIT + 1], shelf_name[I2_NAME_LIMIT + 1];
    struct i2_held held[I2_HELD];
    uint64_t ticks;
    int stale; /* i2_forget was called */
    /* what the file system was found not to have */
    int no_tmpfile, no_empty_link, no_clone, no_range, no_direct;
    int unwritten; /* what was written before the step at hand is not on disk: I2_AT_DISK */
    int waits;     /* of lasting.c; 0: not known */
    uint64_t unique, uniques;
    /* the staged file and the old file that the last step used */
    int staged, source;
    uint64_t staged_id;
    int redo;   /* staged is a journal */
    int spoilt; /* staged_id is one that cannot be built any more */
    const uint8_t *source_path;
    size_t source_len;
    uint8_t *buffer; /* I2_BUFFER bytes; see i2_buffer */
    /* the step at hand */
    const uint8_t *steps;
    size_t len, at;
    uint32_t index;
    struct i2_opened opened[I2_OPENED];
    int opened_n;
    int torn; /* the step at hand left a file half changed: a fault of it is fatal */
    /* directories not seen yet */
    struct i2_fresh *fresh; /* I2_FRESH of them */
    int fresh_n, no_fresh, no_noreplace;
    size_t run_end; /* where the run of MAKE_DIR steps ends that was looked at last */
    int run_filled; /* something is put behind it */
    struct i2_heirs heirs; /* the stage's */
    int heirs_known;
    /* files that wait for their names */
    struct i2_draft *drafts; /* I2_DRAFTS of them; NULL: none waits */
    int drafts_n;
    /* losses */
    struct i2_budget *budget; /* NULL: nothing is counted */
    uint64_t unlinked;
    int braked; /* the step at hand was refused */
    /* faults */
    int fatal;
    struct i2_fault *fault;
    uint64_t noted, room, more;
};

/* Whether -err is a trouble of the file system, not of a path: whatever comes next would meet it too. */
int i2_is_fatal(int err);

/* Notes that the step at hand could not be done, or not in full; err is -errno. */
void i2_fault(struct i2_site *site, int what, int err);

/* What is noted so far; and back to that, for a step that is done again, with nothing fatal. */
struct i2_told i2_told(const struct i2_site *site);
void i2_untell(struct i2_site *site, const struct i2_told *told);

/* The directory that path stands in, and its last name; 0 or -errno. Good to the end of the step. */
int i2_parent(struct i2_site *site, const uint8_t *path, size_t len, struct i2_held **held,
              char name[I2_NAME_LIMIT + 1]);

/* A directory moved or went: what is held may no longer be what its path says. Lets go of it when the
 * step at hand is done. */
void i2_forget(struct i2_site *site);

/* Lets go of all directories held. */
void i2_let_go_held(struct i2_site *site);

/* A name for something in passing, new in the stage. */
void i2_unique_name(struct i2_site *site, char out[I2_STAGE_NAME]);

/* remove.c: takes name in dir away, a directory with all below it; not there is fine. Never crosses a
 * mount, never follows a link. 0 or -errno; on an error part of a tree may be gone. site->unlinked counts
 * the names that went. */
int i2_remove(struct i2_site *site, int dir, const char *name);

/* The same if the budget allows it, of which what went is taken; -ECANCELED: it does not. */
int i2_remove_within(struct i2_site *site, int dir, const char *name);

/* How many names a directory has below it, bounded: more than most is told as most + 1. What cannot be
 * looked into counts as empty. */
uint64_t i2_count_below(struct i2_site *site, int dir, const char *name, uint64_t most);

/* budget.c: 0, or -ECANCELED where the budget does not allow that. */
int i2_may(struct i2_site *site, const struct i2_toll *toll);

/* It was done; held: where, or NULL. */
void i2_paid(struct i2_site *site, const struct i2_held *held, const struct i2_toll *toll);

/* It was undone. */
void i2_paid_back(struct i2_site *site, const struct i2_toll *toll);

/* A name came new in held. */
void i2_gained(struct i2_site *site, const struct i2_held *held);

/* What it costs to replace what stands at name in dir, if anything, by something of `size` bytes (0: no
 * regular file); and whether the budget allows it: 0 or -ECANCELED. */
int i2_toll_of(struct i2_site *site, int dir, const char *name, uint64_t size, struct i2_toll *toll);

/* What may be lost still. */
uint64_t i2_spare(const struct i2_site *site);

/* Whether that is cutting a file. */
int i2_is_shrunk(const struct stat *old, uint64_t size);

/* lock.c: what took no change or no name, so that a step failed with err, takes it now: name in dir, and
 * dir. 1: worth another try. What is still there of the two when the step is through is as it was. */
int i2_unlock(struct i2_site *site, int err, int dir, const char *name);
#define I2_OBSTACLES 2 /* at most: it is locked, and it is of another project */

/* Takes flags off what is open, or held with O_PATH; again: it has them again when the step is through.
 * 1: it had some. */
int i2_open_up(struct i2_site *site, int fd, uint32_t flags, int again);

/* What was opened up of an open file has the flags from then on that the step gives it. */
void i2_stays_open(struct i2_site *site, int fd);

/* The step is through. */
void i2_lock_again(struct i2_site *site);

/* Gives what is open, or held with O_PATH, these flags as well, of I2_INODE_LOCKS: the last thing done to
 * it. Notes a fault. */
void i2_lock(struct i2_site *site, int fd, uint32_t flags);

/* put.c: gives what stands in the stage as `staged` its final name, in place of whatever is there. size:
 * of a regular file. 0 or -errno, then `staged` is still there. */
int i2_place(struct i2_site *site, const struct i2_held *held, const char *name, const char *staged,
             uint64_t size);

/* lasting.c: whether a file that is to be named can wait for that. */
int i2_can_wait(struct i2_site *site, const struct i2_held *held, const char *name);

/* A file of the step at hand, whole, in the stage as `staged`, waits for its name; 0 or -errno. */
int i2_wait(struct i2_site *site, const struct i2_held *held, const char *name, const char *staged,
            uint64_t size);

/* Whether files can go on waiting when the step is done. */
int i2_drafts_stay(const struct i2_site *site, const struct i2_step *s);

/* Gives those that wait their names, once they are durable. After a fatal fault the site is back at
 * the step of the one that met it, and those behind it are thrown away. */
void i2_name_drafts(struct i2_site *site);

/* Makes the content of a file durable that is about to take another one's name; 0 or -errno. */
int i2_last(struct i2_site *site, int fd);
/* The same of the file that is name in dir, where there is a file that is other in over. */
int i2_last_at(struct i2_site *site, int dir, const char *name, int over, const char *other);

/* fresh.c: MAKE_DIR of a name in held. 1: it is made, or was, in the stage; 0: to be made in place. */
int i2_fresh_make(struct i2_site *site, const struct i2_step *s, struct i2_held *held,
                  const char *name, mode_t mode);

/* Whether fresh directories can stay what they are when the step is done. */
int i2_fresh_stays(const struct i2_site *site, const struct i2_step *s);

/* Opens a directory that is fresh or below one, *top as in i2_held; I2_NOT_FRESH or -errno. */
int i2_fresh_open(struct i2_site *site, const uint8_t *path, size_t len, int *top);
#define I2_NOT_FRESH (-4096) /* no errno */

/* Gives fresh directories their names. 1: not all could be given theirs; the site is back at the step
 * that made the first such, with nothing noted of it, and from now on none is made. */
int i2_fresh_publish(struct i2_site *site);

/* heirs.c: whether what is made in the stage inherits the same as in held. */
int i2_heirs_alike(struct i2_site *site, struct i2_held *held);

/* meta.c: owner, mode, attributes and times of the step, in this order, as far as they differ from
 * *now. path_only: fd was opened with O_PATH. bare: it has no extended attributes. Notes faults. Returns
 * what is left to be done when it has its name: the flags for i2_lock. */
uint32_t i2_meta(struct i2_site *site, int fd, int path_only, const struct i2_step *s,
             const struct statx *now, int bare);

/* The ops. Each notes its own faults. */
void i2_do_put_file(struct i2_site *site, const struct i2_step *s);
void i2_do_put_link(struct i2_site *site, const struct i2_step *s);
void i2_do_put_node(struct i2_site *site, const struct i2_step *s);
void i2_do_make_dir(struct i2_site *site, const struct i2_step *s);
void i2_do_set_meta(struct i2_site *site, const struct i2_step *s);
void i2_do_link(struct i2_site *site, const struct i2_step *s);
void i2_do_rename(struct i2_site *site, const struct i2_step *s);
void i2_do_exchange(struct i2_site *site, const struct i2_step *s);
void i2_do_remove(struct i2_site *site, const struct i2_step *s);
void i2_do_stage(struct i2_site *site, const struct i2_step *s);
void i2_do_write(struct i2_site *site, const struct i2_step *s);
void i2_do_copy(struct i2_site *site, const struct i2_step *s);
void i2_do_hole(struct i2_site *site, const struct i2_step *s);
void i2_do_staged(struct i2_site *site, const struct i2_step *s);

/* apply.c: a site to apply steps at, with root, stage and flags set and all else zero; 0 or -errno. */
int i2_site_open(struct i2_site *site);
void i2_site_close(struct i2_site *site);

/* stage.c: lets go of the files that the last steps used. */
void i2_let_go_staged(struct i2_site *site);
void i2_let_go_source(struct i2_site *site);

/* Under which name something is staged: a file, or the journal of a change. */
void i2_staged_name(uint64_t id, int redo, char out[I2_STAGE_NAME]);
#define I2_REDO_SUFFIX ".redo"

/* A new one, empty; becomes site->staged. A descriptor or -errno. */
int i2_new_staged(struct i2_site *site, uint64_t id, int redo);

/* Takes away what is staged under a number, not there is fine; 0 or -errno. */
int i2_unstage(struct i2_site *site, uint64_t id);

/* Gives the staged file of a STAGED step, site->staged, its size, metadata and name; 0 or -errno with
 * *what, or site->fatal. */
int i2_finish_staged(struct i2_site *site, const struct i2_step *s, int *what);

/* Whether an open file, with its stat, is the one that the source means. */
int i2_is_meant(struct i2_site *site, const struct i2_step *s, int fd, const struct stat *st);

/* Opens a regular file and nothing else: opening a device or a pipe can do something already. */
int i2_open_regular(struct i2_site *site, int dir, const char *name, int flags);

/* redo.c: whether a delta to the open old file is better kept in a journal than laid over a copy. */
int i2_redo_pays(const struct i2_site *site, int from, const struct stat *st);

/* Begins the journal of a STAGE step, which becomes site->staged; 0 or -errno. */
int i2_redo_begin(struct i2_site *site, const struct i2_step *s, int from);

/* Adds a WRITE or HOLE to the journal that is site->staged; 0 or -errno, then it is as it was. */
int i2_redo_note(struct i2_site *site, const struct i2_step *s);

/* Makes of the journal that is site->staged the file it describes, which is site->staged then. A
 * descriptor, or -errno with *what. */
int i2_redo_build(struct i2_site *site, int *what);

/* Does what STAGED does with the journal that is site->staged; 0 or -errno with *what, or site->fatal. */
int i2_redo_staged(struct i2_site *site, const struct i2_step *s, int *what);

/* twin.c: makes name in held, one of many names of a regular file, a file of its own, equal in all but
 * that. 0 or -errno: EMLINK for another kind. */
int i2_twin(struct i2_site *site, const struct i2_held *held, const char *name);

/* range.c: makes all of `to` a clone of `from`; 0 or -errno. */
int i2_clone(struct i2_site *site, int from, int to);

/* Copies a range, its holes as holes; 0 or -errno. -ESTALE: the old file ends before it does. */
int i2_copy_range(struct i2_site *site, int from, uint64_t at, int to, uint64_t dest, uint64_t span);

/* 0 or -errno. */
int i2_make_hole(struct i2_site *site, int fd, uint64_t at, uint64_t span);

/* Writes all of it at an offset; 0 or -errno. */
int i2_write_at(int fd, const uint8_t *data, size_t len, uint64_t at);

/* direct.c: the same for large files, where possible past the page cache. data may be site->buffer. */
int i2_write_large(struct i2_site *site, int fd, const uint8_t *data, size_t len, uint64_t at);

/* Whether it would be. */
int i2_is_direct(const struct i2_site *site, uint64_t len, uint64_t at);

/* Makes site->buffer; 0 or -ENOMEM. */
int i2_buffer(struct i2_site *site);

#endif
