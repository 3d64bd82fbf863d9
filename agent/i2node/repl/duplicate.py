"""A second copy of a tree that a target holds, made by the target itself, on one file system.

Content is shared where the file system can do that (ioctl_ficlonerange(2): XFS with reflink,
btrfs), else copied. It is never a second name of the same file: the mirror changes attributes, and
where it cannot clone also content, in place, and would change the copy with it. All else of a file
goes the way of a mirror: packed and applied, with what the file system refuses kept aside.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from i2node.errors import SessionError, TargetFault
from i2node.fs.tree import TargetTree, remedy_for
from i2node.model import MOUNT, Entry, Kind, Verdict, show
from i2node.mover import aside, batch, listing
from i2node.mover.batch import At, Op
from i2node.repl import staging
from i2node.repl.mend import apply_flags
from i2node.repl.plan import join, make_dir
from i2node.repl.remote import FAULTS_A_STEP

DIRS_AT_A_TIME = 64
ENTRIES_AT_A_TIME = 2000
BYTES_AT_A_TIME = 8 << 20
STAGED_AT_A_TIME = 256
SHARED_FROM = 4096
"""Bytes: a file that is no larger takes no more room of its own than its clone would."""
READ_FROM = 1 << 20
"""Bytes of a file that is copied by itself, not with others."""
_ROOM = 4 << 20  # for what steps have beside content
_STRETCH = 64 << 20
_FICLONE = 0x40049409
_OF_ATTRIBUTES = (At.OWNER, At.MODE, At.XATTR, At.TIMES, At.LINKS)

Skip = Mapping[bytes, tuple[bytes, ...]]
"""Names that are left out, by the directory."""


class Duplicate:
    """Of one tree, into an empty one. `fill`, then `dress`. stopped: whether it is to end early,
    with a SessionError. problems: attributes that could not be set. Raises TargetFault when the
    disk refuses."""

    def __init__(
        self, tree: TargetTree, copy: TargetTree, skip: Skip, stopped: Callable[[], bool]
    ) -> None:
        self.files = 0
        self.problems = 0
        self.shares = shares(copy.stage())
        self._tree = tree
        self._copy = copy
        self._skip = skip
        self._stopped = stopped
        self._flags = apply_flags(copy)
        self._first: dict[int, bytes] = {}
        self._dirs: list[tuple[bytes, bytes]] = []
        self._staged = 0

    def needs(self) -> tuple[int, int]:
        """Bytes and inodes that it takes."""
        room, inodes = 0, 1
        seen: set[int] = set()
        for _, entries in self._listed():
            for entry in listing.entries(entries):
                if entry.nlink > 1 and entry.kind != Kind.DIR:
                    if entry.ino in seen:
                        continue
                    seen.add(entry.ino)
                inodes += 1
                shared = self.shares and entry.kind == Kind.FILE and entry.size > SHARED_FROM
                room += 0 if shared else entry.blocks * 512
        return room, inodes

    def fill(self) -> None:
        """All content, and directories, whose times are not right yet."""
        for path, entries in self._listed():
            self._directory(path, entries)

    def dress(self, copy: TargetTree) -> None:
        """Owner, mode, attributes and times of directories: copy is the one that was filled."""
        self._copy = copy
        for path, records in self._dirs:
            self._pack(path, records, batch.PACK_META)
        tree = self._tree
        (answer,) = batch.list_dirs(tree.root.fd, tree.root.dev, [(b"", tree.skip)])
        own = listing.decode(aside.laid_over(tree.root.fd, tree.shelf.fd, answer.own))
        found = staging.attributes(tree.root.fd, shelf=tree.shelf.fd)
        self._apply(staging.root(own, found))

    def _listed(self) -> Iterator[tuple[bytes, bytes]]:
        """Every directory, after the one above, with what is in it."""
        root, stack = self._tree.root, [b""]
        while stack:
            if self._stopped():
                raise SessionError("it was given up")
            some = [stack.pop() for _ in range(min(DIRS_AT_A_TIME, len(stack)))]
            requests = [(path, self._left_out(path)) for path in some]
            answers = batch.list_dirs(root.fd, root.dev, requests, threads=2)
            for path, answer in zip(some, answers, strict=True):
                if answer.status:
                    raise _refused(f"list {show(path) or 'the root'}", answer.status)
                yield path, answer.entries
                if answer.dirs:
                    found = listing.kept(answer.entries, Kind.DIR)
                    stack += [join(path, e.name) for e in found if not e.flags & MOUNT]

    def _left_out(self, path: bytes) -> tuple[bytes, ...]:
        return (*self._skip.get(path, ()), *(self._tree.skip if not path else ()))

    def _directory(self, path: bytes, entries: bytes) -> None:
        together: list[bytes] = []
        alone: list[Entry] = []
        links: list[bytes] = []
        dirs: list[bytes] = []
        for entry in listing.entries(entries):
            full, new = join(path, entry.name), entry._replace(verdict=Verdict.NEW)
            if entry.flags & MOUNT:
                links.append(make_dir(full, entry))
                continue
            if entry.kind == Kind.DIR:
                dirs.append(listing.encode(entry._replace(verdict=Verdict.META)))
            elif entry.nlink > 1 and (first := self._first.setdefault(entry.ino, full)) != full:
                links.append(batch.step(Op.LINK, full, first))
                continue
            if self._is_alone(entry):
                alone.append(new)
            else:
                together.append(listing.encode(new))
        self._pack(path, b"".join(together), batch.PACK_ALL)
        for at in range(0, len(alone), STAGED_AT_A_TIME):
            staged = [self._alone(path, entry) for entry in alone[at : at + STAGED_AT_A_TIME]]
            self._pack(path, b"".join(staged), batch.PACK_STAGED)
        if links:
            self._apply(b"".join(links))
        if dirs:
            self._dirs.append((path, b"".join(dirs)))
        self.files += len(together) + len(alone) + len(links) - len(dirs)

    def _is_alone(self, entry: Entry) -> bool:
        if entry.kind != Kind.FILE:
            return False
        holed = entry.size > SHARED_FROM and entry.blocks * 512 < entry.size
        return holed or entry.size > (SHARED_FROM if self.shares else READ_FROM)

    def _alone(self, path: bytes, entry: Entry) -> bytes:
        """One file, in the stage; gives what it gets its name by, and all else that it has."""
        if self._stopped():
            raise SessionError("it was given up")
        self._staged += 1
        root, name = self._tree.root, f"{self._staged:016x}"
        made = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        what = show(join(path, entry.name))
        try:
            source = batch.open_file(root.fd, root.dev, join(path, entry.name))
            try:
                target = os.open(name, made, 0o600, dir_fd=self._copy.stage())
                try:
                    if not (self.shares and cloned(source, target)):
                        copied(source, target, entry.size, self._stopped)
                finally:
                    os.close(target)
            finally:
                os.close(source)
        except OSError as error:
            raise _refused(f"copy {what}", error.errno or 0) from error
        return listing.encode(entry._replace(rdev=self._staged, content=batch.UNKNOWN))

    def _pack(self, path: bytes, records: bytes, mode: int) -> None:
        while records:
            end, _, size = listing.cut(records, ENTRIES_AT_A_TIME, BYTES_AT_A_TIME)
            group = bytearray(batch.group(path, records[:end]))
            root, shelf = self._tree.root, self._tree.shelf.fd
            steps = batch.pack(
                *(root.fd, root.dev, group),
                mode=mode,
                small_max=max(READ_FROM, SHARED_FROM),
                threads=2,
                cap=_ROOM + (size if mode == batch.PACK_ALL else 0),
                shelf=shelf,
            )
            self._apply(steps)
            ((_, packed),) = batch.groups(group)
            again = []
            for entry in listing.troubled(packed):
                if entry.status != errno.ENOBUFS:
                    raise _refused(f"read {show(join(path, entry.name))}", entry.status)
                again.append(listing.encode(entry._replace(status=0)))
            records = b"".join(again) + records[end:]

    def _apply(self, steps: bytes | memoryview) -> None:
        rest = memoryview(steps)
        while rest:
            done = batch.apply(
                *(self._copy.root.fd, self._copy.stage(), rest),
                flags=self._flags,
                room=FAULTS_A_STEP * (len(rest) // batch.STEP.size),
                shelf=self._copy.shelf.fd,
            )
            for fault in done.faults:
                if fault.what == At.ASIDE:
                    continue
                if fault.fatal or fault.what not in _OF_ATTRIBUTES:
                    op, path, _ = batch.step_at(rest, fault.step)
                    raise _refused(f"{op.name.lower()} of {show(path)}", fault.status)
                self.problems += fault.what != At.LINKS
            if not any(fault.fatal for fault in done.faults):
                return
            self._copy.make_shelf()
            rest = rest[batch.step_offset(rest, done.done) :]


def shares(directory: int) -> bool:
    """Whether files of the file system of an open directory can share what they hold."""
    with suppress(OSError):
        two = [_unnamed(directory), -1]
        try:
            two[1] = _unnamed(directory)
            os.write(two[0], bytes(SHARED_FROM))
            return cloned(*two)
        finally:
            for fd in two:
                if fd >= 0:
                    os.close(fd)
    return False


def _unnamed(directory: int) -> int:
    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    return os.open(f"/proc/self/fd/{directory}", flags, 0o600)


def cloned(source: int, target: int) -> bool:
    """Whether an open file, new and empty, shares the content of another one now. Raises OSError
    when the disk refuses."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
        return True
    except OSError as error:
        # EINVAL: not of these two, of which one is not to be shared (chattr +C).
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV):
            raise
        return False


def copied(source: int, target: int, size: int, stopped: Callable[[], bool]) -> None:
    """Copies what an open file holds into another one, new and empty; holes stay holes. Raises
    OSError."""
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        end = min(os.lseek(source, at, os.SEEK_HOLE), size)
        os.lseek(target, at, os.SEEK_SET)
        while at < end:
            if stopped():
                raise SessionError("it was given up")
            sent = os.sendfile(target, source, at, min(end - at, _STRETCH))
            if not sent:
                raise OSError(errno.EIO, "it was cut short")
            at += sent
    os.ftruncate(target, size)
    # What the servers work with is not to be pushed out for it.
    os.posix_fadvise(source, 0, 0, os.POSIX_FADV_DONTNEED)


def _refused(operation: str, status: int) -> TargetFault:
    return TargetFault(f"{operation}: {os.strerror(status)}", remedy_for(status))
