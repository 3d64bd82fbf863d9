/* The data mover: everything that costs per file or per byte.
 *
 * This header is the C API and, between the cdef markers, the text cffi reads; there is no second
 * copy. Rules of the house:
 *   - no sockets, no globals, nothing that outlives a call; buffers belong to the caller;
 *   - kernels (hash, blocks, match, diff, merge) are pure functions; the batch calls (list, stat,
 *     pack, digest, apply) take descriptors and never close them;
 *   - what a peer sent (steps, listings, block lists) is parsed only after i2_*_check said it is sound;
 *   - all integers are little-endian, all records a multiple of 8 bytes long and 8-byte aligned;
 *   - a return value below zero is -errno; a trouble of one path is a status inside its record.
 */
#ifndef I2_MOVER_H
#define I2_MOVER_H

#include <stddef.h>
#include <stdint.h>

/* cdef begin */

/* ------------------------------------------------------------------ entries and listings ----- */

/* What stat says of one name. A listing is the entries of one directory, packed one behind the
 * other, sorted by name (memcmp order), each name once. The same record is what a walk returns,
 * what the index keeps, and what a target reports when it is probed. */
struct i2_entry {
    uint32_t length;   /* of this record with name and padding: a multiple of 8 */
    uint16_t name_len; /* 1..255; 0 only where an entry stands for the root itself */
    uint8_t kind;      /* I2_FILE.. */
    uint8_t verdict;   /* I2_SAME.., set by i2_diff */
    uint32_t mode;     /* permission bits, 07777 */
    uint32_t uid;      /* or I2_UNOWNED */
    uint32_t gid;
    uint32_t nlink;
    uint64_t ino;
    uint64_t size;     /* bytes; of a symlink: length of its target; 0 for other kinds */
    uint64_t rdev;     /* device numbers of I2_CHR, I2_BLK (as makedev gives them), else 0 */
    int64_t mtime_s;
    uint32_t mtime_ns;
    uint16_t flags;    /* I2_PROBED.. */
    uint16_t status;   /* errno of this entry in a batch call, 0 when fine */
    int64_t ctime;     /* nanoseconds since 1970; identity only */
    int64_t birth;     /* nanoseconds since 1970; 0 where the file system keeps none */
    uint64_t blocks;   /* 512-byte blocks allocated; never compared */
    uint64_t attrs;    /* hash of extended attributes and symlink target; 0 = not known */
    uint8_t content[16]; /* digest of a regular file's content; all zero = not known */
    /* name follows, not terminated */
};

/* kind */
#define I2_FILE 1
#define I2_DIR 2
#define I2_SYMLINK 3
#define I2_CHR 4
#define I2_BLK 5
#define I2_FIFO 6
#define I2_SOCK 7

/* The uid and gid of an entry, and of a step, that does not carry whose it is: its mode is without set-id
 * bits, which would lend the rights of somebody else, its attributes are without those of the namespaces security, system and
 * trusted. Who reads such an entry (i2_pack, i2_digest_files) keeps it so. Such a step leaves owner and
 * these attributes as they are at the target. No file has this owner (chown(2)). */
#define I2_UNOWNED 0xffffffffu

/* flags of an entry */
#define I2_PROBED 1 /* told by the target: ino, ctime, birth, nlink mean nothing at the source */
#define I2_RACY 2   /* ctime too close to the moment of stat to prove a later change: recheck */
#define I2_MOUNT 4  /* a directory where another file system or a bind mount begins: never entered */

/* verdict */
#define I2_SAME 0
#define I2_NEW 1     /* the target holds nothing of this name */
#define I2_GONE 2    /* the source holds nothing of this name; the entry is the old one */
#define I2_RETYPED 3 /* another kind than the target holds */
#define I2_DATA 4    /* regular file: content or metadata may differ */
#define I2_META 5    /* not a regular file: metadata differs */
#define I2_SWAPPED 6 /* another directory than before; another file than one that has other names */

/* Compares two listings. Writes the changed entries to out, a section behind the other, each
 * section a packed listing: used[s] bytes in section s. NEW, RETYPED, DATA, META and SWAPPED carry
 * the new entry (attrs replaced by the old one's where the kind is the same, content too where also
 * the size is and nothing tells of other holes, else zero, so that a later read can tell whether anything
 * differs); GONE carries the
 * old one. Entries of which either is I2_PROBED are compared by kind, size, mtime, mode, uid, gid, rdev,
 * and by attrs and content where both sides know them; others also by ino, ctime, nlink; an I2_RACY
 * old entry is never SAME. Of a directory size and nlink are not compared, of a symlink mode is not;
 * one that is I2_MOUNT now and was a directory is SAME.
 * A regular file with nlink > 1, or any non-directory with nlink > 1, is in LINKED; a
 * regular file with size > small_max or with holes (size >= 4096 and blocks * 512 < size) in LARGE.
 * RETYPED goes by the new kind.
 * cap must be >= old_len + new_len. Returns the number of changed entries, or -EINVAL when a
 * listing is not sound. */
int64_t i2_diff(const uint8_t *old, size_t old_len, const uint8_t *now, size_t now_len,
                uint64_t small_max, uint8_t *out, size_t cap, uint64_t used[5]);
#define I2_IN_GONE 0
#define I2_IN_DIRS 1
#define I2_IN_BULK 2
#define I2_IN_LARGE 3
#define I2_IN_LINKED 4

/* Lays the entries of change over base: same name replaces, verdict I2_GONE removes, entries with
 * status != 0 are passed over. The result is a sound listing with verdict and status 0. cap must be
 * >= base_len + change_len. Returns bytes written or -EINVAL. */
int64_t i2_merge(const uint8_t *base, size_t base_len, const uint8_t *change, size_t change_len,
                 uint8_t *out, size_t cap);

/* Sorts the entries of a listing in place by name; scratch has the same size. Returns the number of
 * entries or -EINVAL. Doubled names are -EINVAL. */
int64_t i2_sort(uint8_t *listing, size_t len, uint8_t *scratch);

/* Sound: aligned, lengths exact, kinds and verdicts known, mode, mtime_ns and size (63 bits) in range, no
 * '/' nor NUL in names, not "." or "..", sorted, unique. All functions on listings hold them to it.
 * Returns the number of entries or -EINVAL. For listings that a peer sent. */
int64_t i2_listing_check(const uint8_t *listing, size_t len);

/* The record of a name: its offset, or -ENOENT. */
int64_t i2_find(const uint8_t *listing, size_t len, const uint8_t *name, size_t name_len);

/* The entries that are all of `what`, copied to out (may be NULL: only counted); *entries of them, with
 * *bytes in regular files. Returns bytes written. */
int64_t i2_pick(const uint8_t *listing, size_t len, uint32_t what, uint8_t kind, int64_t since,
                uint8_t *out, size_t cap, uint64_t *entries, uint64_t *bytes);
#define I2_PICK_KIND 1     /* of this kind */
#define I2_PICK_PROBED 2   /* told by the target */
#define I2_PICK_TROUBLED 4 /* with a status */
#define I2_PICK_OVER 8     /* of which the target has another version: DATA or SWAPPED */
#define I2_PICK_RETYPED 32 /* of another kind than it was */
#define I2_PICK_LINKED 16  /* no directory, and with more than one name */
#define I2_PICK_SINCE 64   /* with a ctime of `since` or later */

/* How many leading bytes of a listing make a batch: at most max_entries entries whose sizes add up to at
 * most max_bytes, but at least one entry. *entries and *bytes tell what it holds. */
int64_t i2_cut(const uint8_t *listing, size_t len, uint64_t max_entries, uint64_t max_bytes,
               uint64_t *entries, uint64_t *bytes);

/* ------------------------------------------------------------------------------ walking ------ */

/* A request for the listing of one directory, packed; path is relative to the root, "" the root. */
struct i2_dir {
    uint32_t length;   /* record with path, skip list and padding */
    uint32_t path_len;
    uint32_t skip_len; /* names left out, each ended by NUL */
    uint32_t ticket;   /* the caller's number, given back */
    /* path, skip list */
};

/* The answer. */
struct i2_listing {
    uint32_t length;  /* the record with everything behind it */
    uint32_t ticket;
    int32_t status;   /* errno; not 0: nothing is known of the content, n is 0 */
    int32_t wd;       /* inotify watch descriptor, -1 when none was asked for or had */
    int32_t wd_status; /* errno of the watch (ENOSPC: limit reached) */
    uint32_t n;       /* entries */
    uint32_t dirs;    /* of which directories */
    uint32_t self_len; /* bytes of the directory's own entry (name_len 0), first behind this */
    uint64_t dev;     /* file system of the directory */
    uint64_t bytes;   /* sum of sizes of regular files */
    uint64_t unread;  /* of the entries, those with a status */
    /* self entry; then the listing, to the end */
};

/* Lists directories: opened beneath root (no symlink followed, never another file system than
 * dev), watched first when notify >= 0 (inotify_add_watch with mask), then read. A directory that
 * is a mount point of another file system is listed by its parent as an empty I2_DIR and answers
 * EXDEV here. flags: I2_LIST_PARTIAL: an entry of which the file system tells nothing (a dead mount, a bad
 * block) has an errno for a status, I2_FILE for a kind and else only its name; otherwise the directory
 * answers so. I2_LIST_UNOWNED: all are I2_UNOWNED, the directory's own too.
 * Up to `threads` at a time; answers in the order of the requests.
 * Returns bytes written to out; *done = requests answered. When a directory does not fit in what is
 * left of out, it and those behind it are not answered (done < asked); when not even the first
 * fits, returns -ENOBUFS and *done holds a cap that should. */
int64_t i2_list(int root, uint64_t dev, const uint8_t *dirs, size_t dirs_len, int notify,
                uint32_t mask, int flags, int threads, uint8_t *out, size_t cap, uint64_t *done);
#define I2_LIST_PARTIAL 1
#define I2_LIST_UNOWNED 2

/* The entries of some names of one directory; names are NUL-ended. Names that are not there are
 * absent from the listing. Same record as i2_list, one, and flags as there. */
int64_t i2_stat(int root, uint64_t dev, const uint8_t *path, size_t path_len,
                const uint8_t *names, size_t names_len, int flags, uint8_t *out, size_t cap);

/* ------------------------------------------------------------------------------ steps -------- */

/* What the target is to do, in the order given. The payload of a frame is steps, packed. */
struct i2_step {
    uint32_t length;    /* with all that follows, padded to a multiple of 8 */
    uint8_t op;         /* I2_MAKE_DIR.. */
    uint8_t kind;       /* of the entry */
    uint16_t flags;     /* I2_STEP_.. */
    uint32_t path_len;  /* path relative to the root; no leading, trailing, doubled '/', no "." or ".." part */
    uint32_t other_len; /* symlink target, or the second path of LINK, RENAME, EXCHANGE */
    uint32_t xattr_len; /* records {u16 name_len, u16 zero, u32 value_len, name, value}, sorted by name;
                         * "i2node.inode": {u32 flags, u32 project} (chattr(1)), where either is not 0 */
    uint32_t data_len;  /* content of FILE and WRITE */
    uint32_t mode;
    uint32_t uid;
    uint32_t gid;
    uint32_t mtime_ns;
    int64_t mtime_s;    /* STAGE with CLONE, COPY: with mtime_ns, what path must have (see I2_STAGE) */
    uint64_t size;      /* FILE, STAGED: the file's size. STAGE with CLONE: size path must have.
                         * WRITE, COPY, HOLE: offset in the file */
    uint64_t rdev;      /* NODE: device. COPY: offset in the old file */
    uint64_t span;      /* COPY, HOLE: bytes */
    uint64_t stage;     /* STAGE, WRITE, COPY, HOLE, STAGED: which staged file */
    uint8_t content[16]; /* digest where known */
    /* path, other, xattrs, data, padding */
};

#define I2_MAKE_DIR 1 /* mkdir; there already: fine; another kind there: replaced */
#define I2_PUT_FILE 2 /* a whole small file, replaces what is there */
#define I2_PUT_LINK 3 /* a symlink, replaces */
#define I2_PUT_NODE 4 /* device, fifo, socket, replaces */
#define I2_LINK 5     /* path becomes another name of other, replaces; see I2_AT_LINKS */
#define I2_SET_META 6 /* mode, owner, times, extended attributes of what is there */
#define I2_RENAME 7   /* path becomes other, replaces (what is in the way of a directory is removed) */
#define I2_EXCHANGE 8 /* path and other change places */
#define I2_REMOVE 9   /* whatever it is, a directory with all below it; not there: fine */
/* Staged files. A delta is right only on the very file it was made against: CLONE and COPY carry the
 * mtime (CLONE the size too) that path must have, else the fault is ESTALE at CHECK; a file system
 * that keeps whole seconds is held to those. What goes wrong on the way to a staged file, unless it is
 * fatal, spoils it: what else is sent for it is passed over, and STAGED, which has the path, faults
 * with the reason instead of giving a damaged file its name. This outlives the call.
 *
 * In place: a large file that cannot be cloned (ext4, XFS without reflink) is not copied for the few
 * blocks that change. STAGE begins a journal instead, WRITE and HOLE go into it as they come, and STAGED
 * makes it durable and then does it to the old file itself, which is durable too when STAGED is through
 * and the journal gone. For that the old file must have one name, the owner and mode it is to have, and
 * be, at STAGED, what it was at STAGE: a fault is ESTALE at CHECK then. Where it must not be written to
 * (it has got another name, another mode, it is being run), the journal is laid over a copy, which gets
 * the name; so it is from the start with I2_APPLY_VERIFY, since what is found wrong in place has been
 * done already. See i2_redo. */
#define I2_STAGE 10   /* begin staged file; I2_STEP_CLONE: as a copy (reflink where possible) of path,
                       * or as a journal of what is to change in it */
#define I2_WRITE 11   /* data at offset of the staged file */
#define I2_COPY 12    /* span bytes from offset rdev of path as it stands to offset size of the staged file */
#define I2_HOLE 13    /* span bytes at offset of the staged file are a hole */
#define I2_STAGED 14  /* staged file is complete: metadata, then renamed to path */

#define I2_STEP_CLONE 1   /* STAGE */
#define I2_STEP_SPARSE 2  /* PUT_FILE: no data, all hole */
#define I2_STEP_NO_XATTR 4 /* the source could not tell the attributes: leave them alone */
#define I2_STEP_KEEP 8    /* STAGE: go on with what an earlier session staged, which must be there */
#define I2_STEP_DROP 16   /* STAGE: the staged file is not wanted any more; not there: fine */

/* Sound: every length fits, ops and kinds known, paths clean, flags known, limits held, xattr
 * records whole. Returns the number of steps or -EINVAL. i2_apply calls it itself. */
int64_t i2_steps_check(const uint8_t *steps, size_t len);

/* A request to read entries, packed: the directory's path, then its entries. */
struct i2_group {
    uint32_t length;   /* with path (padded to 8) and entries */
    uint32_t path_len;
    uint64_t ino;      /* what the directory must be, 0: any; entries of another one are ESTALE */
    /* path, padding to 8, entries */
};

/* Reads entries into steps: FILE with content, symlink, node, or for kind DIR MAKE_DIR (verdict NEW,
 * RETYPED) or SET_META (META, SWAPPED). Opens beneath root without following a link. Updates each entry in place:
 * stat fields as read, attrs, content; status 0 or
 *   ENOENT/ENOTDIR vanished · EAGAIN still changing after `tries` readings (the step is there, it
 *   is the last reading: fuzzy) · EFBIG grew beyond small_max: no step · ENOBUFS no room: no step, ask again
 *   · any other errno: could not be read: no step.
 * Where content and attrs match the digests that the entry carried (verdict DATA or META), the step
 * is SET_META instead of the content.
 * mode: I2_PACK_ALL as said; I2_PACK_META: regular files and directories give SET_META without reading
 * content; I2_PACK_STAGED: regular files give I2_STAGED with step.stage = entry.rdev, content = entry.content.
 * In these two a file that changed since the entry was made keeps the entry's size, mtime and ctime,
 * in the step too, and is I2_RACY, EAGAIN when size or mtime moved: what was read is not what is there now;
 * ESTALE, without a step: another file is.
 * shelf: see shelf.h; may be -1.
 * Returns bytes written to out, or -errno for a trouble that is not one entry's. */
int64_t i2_pack(int root, uint64_t dev, int shelf, uint8_t *groups, size_t groups_len, int mode,
                uint64_t small_max, int tries, int threads, uint8_t *out, size_t cap);
#define I2_PACK_ALL 0
#define I2_PACK_META 1
#define I2_PACK_STAGED 2

/* Fills attrs of all entries and, with content != 0, content of regular files, of groups; for
 * probes and compare. Status and shelf as in i2_pack. */
int64_t i2_digest_files(int root, uint64_t dev, int shelf, uint8_t *groups, size_t groups_len,
                        int content, int threads);

/* The extended attributes of an open file or directory, as the records of a step: bytes, or -errno,
 * -ENOTSUP where the file system has none, -ENOBUFS where they are longer than cap. unowned: see
 * I2_UNOWNED. */
int64_t i2_attributes(int fd, int shelf, int unowned, uint8_t *out, size_t cap);

/* What became of a step that could not be done. */
struct i2_fault {
    uint32_t step;   /* its number in the payload, from 0 */
    int32_t status;  /* errno */
    uint32_t what;   /* I2_AT_.. */
    uint32_t fatal;  /* 1: applying stopped before this step (full, read-only, I/O error) */
};
#define I2_AT_OPEN 1   /* the directory it stands in */
#define I2_AT_CREATE 2
#define I2_AT_WRITE 3
#define I2_AT_OWNER 4
#define I2_AT_MODE 5
#define I2_AT_XATTR 6
#define I2_AT_TIMES 7
#define I2_AT_NAME 8   /* giving it its final name */
#define I2_AT_REMOVE 9
#define I2_AT_CHECK 10 /* content does not have the digest it should have, or a delta's old file is another */
#define I2_AT_DISK 12  /* what was written is not on disk, and counts as written the next time: it must come anew */
#define I2_AT_LINKS 11 /* no fault: the step is done, but the two names are those of a second file from here
                        * on, since the first has as many as it can have (EMLINK) */
#define I2_AT_ASIDE 13 /* something is to be kept aside, and there is no shelf; fatal */

/* What a call may lose, and what it gained and lost. A name counts one, a directory with all below it, and
 * so does a regular file of 4 KiB or more that is replaced or cut to less than half its size. */
struct i2_budget {
    uint64_t spare;  /* in: lost and shrunk may be so much more than gained, at no time more */
    uint64_t gained; /* out: names that came new */
    uint64_t lost;   /* out: names that went */
    uint64_t shrunk; /* out: files that were cut */
    uint64_t wanted; /* out: the spare that the step would need which was refused for lack of it, or, of
                      * a directory, how far it was counted; else 0 */
};

/* Applies steps beneath root, in order. stage: directory on the same file system for staged files and
 * for names in passing. A file appears under its final name only whole, with its metadata; a directory
 * that is made is built in the stage, where that hands on what the parent does, and appears with all that
 * is put in it up to the next step of another kind than MAKE_DIR and PUT; on XFS and btrfs files of PUT steps that
 * replace others appear together, before a step of another kind. A fault of one path is noted and the next step
 * done; ENOSPC, EDQUOT, EROFS, EIO, EMFILE, ENOMEM stop at that step (fatal), what was before it is done, and the
 * same payload can be applied again. So does a step that the budget (may be NULL) has no room for: nothing of it is done, its status is ECANCELED.
 * OWNER, MODE, XATTR, TIMES faults leave the file in place with what could be set.
 * flags: I2_APPLY_NO_OWNER: the process may not chown, do not try.
 * shelf: see shelf.h; may be -1.
 * Returns the number of steps gone through, with or without a fault: fewer than there are after a fatal
 * one; *faults in: room, out: noted, in the order of the steps (never more than room; the rest
 * is lost but counted in *more, except that a fatal one takes the last place). -EINVAL: the payload is not sound, nothing was done. */
int64_t i2_apply(int root, int stage, int shelf, const uint8_t *steps, size_t len, int flags,
                 struct i2_budget *budget, struct i2_fault *fault, uint64_t *faults, uint64_t *more);
#define I2_APPLY_NO_OWNER 1
#define I2_APPLY_VERIFY 2 /* contents with a digest are checked against it; a staged file is read back */
#define I2_APPLY_ASIDE 4 /* what is refused: see shelf.h */
#define I2_APPLY_LOSE 8

/* After a crash, before anything else: does what stands in a journal of the stage (".redo" at the end of its
 * name), if doing so had begun, or takes it away. shelf and flags as of i2_apply. Returns 1: done, the
 * file is new and durable; 0: taken away: nothing had been done, or the old file is there no more;
 * -errno: could not be done now, the journal stays. path: where the file is, *path_len 0 when unknown or
 * longer than cap. */
int64_t i2_redo(int root, int stage, int shelf, const uint8_t *name, size_t len, int flags, uint8_t *path,
                size_t cap, uint64_t *path_len);

/* Opens a regular file beneath root for reading, following no link. Returns a descriptor, the caller's,
 * or -errno: ENOENT where something else stands, ELOOP a symlink. */
int64_t i2_open(int root, uint64_t dev, const uint8_t *path, size_t len);

/* How many of these bytes of a file are in the page cache, in whole pages; -errno where nobody tells. */
int64_t i2_cached(int fd, uint64_t at, uint64_t len);

/* Takes off an open directory what keeps names from coming into it: immutable, append-only, of one
 * project. Gives what i2_lock_dir gives back; both -errno. */
int64_t i2_unlock_dir(int fd);
int64_t i2_lock_dir(int fd, uint32_t flags);

/* syncfs(2): returns when the file system that fd is on has everything on disk. 0 or -errno. */
int64_t i2_sync(int fd);

/* ------------------------------------------------------------------ hash, blocks, delta ------ */

/* BLAKE3 (github.com/BLAKE3-team/BLAKE3-specs), first out_len (<= 32) bytes. */
void i2_hash(const uint8_t *data, size_t len, uint8_t *out, size_t out_len);
/* The scalar oracle of the same. */
void i2_hash_scalar(const uint8_t *data, size_t len, uint8_t *out, size_t out_len);

/* A block's signature. A block that is all zero has strong all zero and weak 0. */
struct i2_block {
    uint32_t weak;      /* rolling sum of the block */
    uint8_t strong[16]; /* BLAKE3, 16 bytes */
};

/* Signatures of len bytes, the last block may be short. Returns the number of blocks. */
int64_t i2_blocks(const uint8_t *data, size_t len, uint32_t block, struct i2_block *out, size_t cap);
int64_t i2_blocks_scalar(const uint8_t *data, size_t len, uint32_t block, struct i2_block *out,
                         size_t cap);

/* Where two signatures of n blocks differ: runs of blocks, each {first, behind the last}, to runs (room
 * for cap of them). *looked = blocks looked at: fewer than n when there was no room for more. Returns the
 * number of runs. */
int64_t i2_differ(const struct i2_block *a, const struct i2_block *b, size_t n, uint64_t (*runs)[2],
                  size_t cap, uint64_t *looked);

/* The block size for a file of that many bytes: 4096 up to 4 GiB, then doubled so that a file has at most
 * 1 Mi blocks, which is 20 MiB of signature (2^31 at most). Both sides compute it, so it is part of the protocol. */
uint32_t i2_block_size(uint64_t size);
#define I2_SIZE_MAX 281474976710656 /* 256 TiB, holes counted: the blocks of more would take the memory */

/* The digest of a file's content from its blocks: BLAKE3-128 over the strong hashes, a run of k zero
 * blocks standing as one item {8 zero bytes, u64 k}; a file of one block that is not zero: its strong
 * hash; an empty file or one that is all zero: the item's hash like the rest. Two files of the
 * same size have the same digest exactly if their blocks are equal. */
void i2_digest(const struct i2_block *blocks, size_t n, uint8_t out[16]);

/* 1 when all zero. */
int i2_is_zero(const uint8_t *data, size_t len);

/* How a new window of a file is had from the old file. */
struct i2_op {
    uint64_t at;    /* offset in the new file */
    uint64_t from;  /* offset in the old file; I2_LITERAL: not there; I2_ZERO: zeros */
    uint64_t span;  /* bytes */
};
#define I2_LITERAL 0xffffffffffffffffu
#define I2_ZERO 0xfffffffffffffffeu

/* Matching. `table` is built once from the old file's blocks in the caller's memory:
 * i2_match_size(n) bytes. */
size_t i2_match_size(size_t n);
int64_t i2_match_init(uint8_t *table, size_t cap, const struct i2_block *old, size_t n,
                      uint64_t old_size, uint32_t block);

/* Covers data, which stands at offset `at` of the new file, with ops in order and without gap. First
 * each aligned block is compared with the old block of the same place, then with the place the run
 * before it suggests, and only what is left is searched with the rolling sum. end != 0: nothing
 * comes behind data, so a short last block may match too. Returns the number of ops; *used = bytes
 * of data covered (without end, up to two blocks at the end may be left: give them again with what
 * follows). *shift carries the last displacement (from - at) between calls; start with 0. */
int64_t i2_match(const uint8_t *table, const struct i2_block *old, size_t n, uint32_t block,
                 const uint8_t *data, size_t len, uint64_t at, int end, int64_t *shift,
                 struct i2_op *ops, size_t cap, uint64_t *used);

/* ------------------------------------------------------------------------------ events ------- */

/* One coalesced event: the masks of all that came for the same place and name are or-ed. */
struct i2_event {
    uint32_t length;
    uint32_t mask;    /* IN_ or FAN_ bits, which are the same numbers where both exist */
    uint64_t where;   /* inotify: the watch descriptor, sign-extended; fanotify: inode number of the
                       * directory, 0: outside */
    uint64_t what;    /* fanotify: inode number of the directory it happened to, 0: not told, or no directory */
    uint64_t to;      /* FAN_RENAME: inode number of the directory it went to, 0: outside */
    uint32_t cookie;  /* inotify: joins the halves of a move; fanotify, of an overflow: errno */
    uint32_t name_len; /* 0: it happened to the directory itself */
    uint32_t other_len; /* FAN_RENAME: of the name there */
    uint32_t pad;
    /* name, other name, not terminated, padding */
};

/* Reads all that an inotify descriptor (non-blocking) holds now, until it is empty or out is full,
 * and decodes it in order; an event that only repeats one of the same wd and name, with no
 * move in between, is or-ed into it. Returns bytes written. */
int64_t i2_inotify(int notify, uint8_t *out, size_t cap);

/* The same of a fanotify group (non-blocking, FAN_REPORT_DFID_NAME) with a mark on the file system of root.
 * File handles become inode numbers, what lies outside root or in an excluded directory is left out:
 * excluded is a list of paths relative to root, each ended by NUL. places: the caller's memory, zeroed
 * at first, where answers are kept from call to call; any size, 1 MiB knows about 16,000 directories.
 * Of a file that was opened by its handle the kernel may know no name: told is FAN_MODIFY without a name,
 * of the directory it is in, or where 0 when not even that is known.
 * Needs CAP_DAC_READ_SEARCH, as open_by_handle_at(2) does. */
int64_t i2_fanotify(int group, int root, const uint8_t *excluded, size_t excluded_len, uint8_t *places,
                    size_t places_len, uint8_t *out, size_t cap);

/* A fanotify group with a mark on the file system of root. *told: 1 where renames and what they happened to
 * are told (FAN_RENAME, FAN_REPORT_TARGET_FID), 0 where only their halves are; 0 on entry: no more is wanted. Returns the descriptor,
 * non-blocking, or -errno: EPERM without the right to set it or to resolve what it tells, EINVAL where the
 * kernel is too old, EXDEV, EOPNOTSUPP, ENODEV where the file system cannot. */
int64_t i2_fanotify_open(int root, int32_t *told);

/* ------------------------------------------------------------------------------ the host ----- */

/* How far the clock may be off, in microseconds, as whoever keeps it synchronised told the kernel
 * (adjtimex(2)); -ETIME: nobody does; -errno. */
int64_t i2_clock_error(void);

/* cdef end */
#endif
