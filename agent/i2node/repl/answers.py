"""What the target answers when the source asks: what its file system keeps, what stands there, and
what a file consists of."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from i2node.errors import ProtocolError, Refused, SafetyStop, SessionError
from i2node.fs.ground import try_ground
from i2node.fs.tree import FATAL, TargetTree, host_id, within
from i2node.model import PROBED, Whole, show
from i2node.mover import aside, batch, blocks, listing
from i2node.repl.fidelity import told
from i2node.repl.plan import named_root
from i2node.repl.remote import PART
from i2node.repl.rules import is_rule
from i2node.repl.shipment import SIGNED_MAX
from i2node.repl.windows import Signing, windows

Message = dict[str, object]

PARTS_MAX = 256
"""Parts of a whole."""
DEPTH_MAX = 256
"""Directories on the way to the root of one of them."""
ROOTS_MAX = 64 * 1024
"""Bytes of all their roots."""
_NAME = re.compile(r"[0-9A-Za-z-]{1,64}")
DIRS_MAX = 4096
"""Directories in one question."""
TOKENS_MAX = 16
TEXT_MAX = 32_768
"""Characters of what is kept of a source: its name, its token."""


def opening(message: Message) -> tuple[str, bytes, list[str], str]:
    """The rule, the root, the tokens that the source knows and the one it offers."""
    rule, root, tokens = message.get("rule"), message.get("root"), message.get("tokens")
    if not (
        is_rule(rule)
        and isinstance(root, bytes)
        and isinstance(tokens, list)
        and len(tokens) <= TOKENS_MAX
        and all(isinstance(token, str) for token in tokens)
    ):
        raise ProtocolError("open is malformed")
    return rule, root, tokens, text(message, "next")


def text(message: Message, key: str) -> str:
    """A text that is kept and shown: escaped, and not longer than it need be."""
    value = message.get(key, "")
    if not isinstance(value, str) or len(value) > TEXT_MAX:
        raise ProtocolError(f"open has no sound {key}")
    return show(value.encode())


def whole(message: Message, real: Callable[[bytes], bytes]) -> Whole | None:
    """What the rule is a part of, if of anything. real: the real path of a root, Refused where none
    may be."""
    told = message.get("whole")
    if told is None:
        return None
    try:
        assert isinstance(told, list)
        name, rows = told
        parts = tuple((rule, root) for rule, root in rows)
    except (AssertionError, TypeError, ValueError) as error:
        raise ProtocolError("open is malformed") from error
    sound = all(
        is_rule(rule) and isinstance(root, bytes) and root.count(b"/") <= DEPTH_MAX
        for rule, root in parts
    )
    if not (isinstance(name, str) and _NAME.fullmatch(name) and sound and len(parts) <= PARTS_MAX):
        raise ProtocolError("open is malformed")
    if sum(len(root) for _, root in parts) > ROOTS_MAX:
        raise ProtocolError("open names more than can be")
    return Whole(name, tuple((rule, real(root)) for rule, root in parts))


def apart(message: Message, target: bytes) -> None:
    """A source on this very host must not overlap its target: the one would be mirrored into
    itself, or deleted as what the source does not have. A target inside the source is fine where
    the source leaves it out."""
    source = message.get("path")
    if message.get("host") != host_id() or not isinstance(source, bytes) or not source:
        return
    if within(source, target) or (within(target, source) and not message.get("left_out")):
        raise SafetyStop(
            f"source {show(source)} and target {show(target)} overlap",
            "choose a target outside the source, or --exclude it",
        )


def examining(message: Message) -> tuple[str, bytes]:
    """The rule that may be made one day, and its root."""
    rule, root = message.get("rule"), message.get("root")
    if not (is_rule(rule) and isinstance(root, bytes)):
        raise ProtocolError("examine is malformed")
    return rule, root


def examined(
    path: bytes, rule: str, state: Path, allowed: Sequence[Path], beside: bytes
) -> Message:
    """What the file system of a target root keeps, be it there yet or not; nothing of it stays."""
    return told(try_ground(path, rule, state, allowed, beside))


def probed(tree: TargetTree, question: Message) -> Iterator[Message]:
    """Lists directories with the attributes of what is in them and, if asked, content digests."""
    n, dirs, content = question.get("n"), question.get("dirs"), bool(question.get("content"))
    if not isinstance(n, int) or not isinstance(dirs, list) or len(dirs) > DIRS_MAX:
        raise ProtocolError("probe is malformed")
    for i, row in enumerate(dirs):
        path, skip = _directory(row)
        status, own, told = _listed(tree, path, skip, content)
        for part, last in _parts(told):
            yield {
                "t": "probed",
                "n": n,
                "i": i,
                "status": status,
                "own": own,
                "part": part,
                "last": last,
            }


def signed(tree: TargetTree, question: Message) -> Iterator[Message]:
    """The block signatures of a file that the source has none of; block 0 where it has to be
    sent whole."""
    n, path = question.get("n"), question.get("path")
    if not isinstance(n, int) or not isinstance(path, bytes):
        raise ProtocolError("sign is malformed")
    size, mtime, block, signature = 0, 0, 0, b""
    try:
        fd = batch.open_file(tree.root.fd, tree.root.dev, path)
        try:
            st = os.fstat(fd)
            size, mtime = st.st_size, st.st_mtime_ns
            if size <= SIGNED_MAX:
                # What the disk has, not what it was given: it may have refused that (fsync(2)).
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                block = blocks.block_size(size)
                signature = sign_file(fd, size, block)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in FATAL - {errno.EIO}:
            raise SessionError(f"sign: {os.strerror(error.errno or 0)}") from error
        block = 0
    for part, last in _parts(signature):
        yield {
            "t": "signed",
            "n": n,
            "size": size,
            "mtime": divmod(mtime, 10**9),
            "block": block,
            "part": part,
            "last": last,
        }


def sign_file(fd: int, size: int, block: int) -> bytes:
    """The block signatures of an open file; what is hole is not read."""
    signing = Signing(block)
    for window in windows(fd, 0, size, block):
        signing.add(window)
    return bytes(signing.records)


def _listed(
    tree: TargetTree, path: bytes, skip: tuple[bytes, ...], content: bool
) -> tuple[int, bytes, bytes]:
    """The errno of listing a directory, the root's own entry, and the entries in it."""
    root = tree.root
    if not path:
        skip = (*skip, *tree.skip)
    (answer,) = root.list_dirs([(path, skip)])
    if answer.status:
        return answer.status, b"", b""
    shelf = tree.shelf.fd
    own = b"" if path else named_root(listing.decode(aside.laid_over(root.fd, shelf, answer.own)))
    if not answer.entries:
        return 0, own, b""
    group = bytearray(batch.group(path, answer.entries))
    batch.digest_files(root.fd, root.dev, group, content=content, threads=2, shelf=shelf)
    ((_, filled),) = batch.groups(group)
    told = b"".join(
        listing.encode(e._replace(flags=e.flags | PROBED, status=0))
        for e in listing.entries(filled)
    )
    return 0, own, told


def _directory(row: object) -> tuple[bytes, tuple[bytes, ...]]:
    if not (isinstance(row, list) and len(row) == 2):
        raise ProtocolError("probe is malformed")
    path, skip = row
    if not isinstance(path, bytes) or not isinstance(skip, list):
        raise ProtocolError("probe is malformed")
    if not all(isinstance(s, bytes) and s for s in skip):
        raise ProtocolError("probe is malformed")
    parts = path.split(b"/") if path else []
    if any(p in (b"", b".", b"..") for p in parts):
        raise Refused(f"path {show(path)} is not clean", "this is a defect of the source")
    return path, tuple(skip)


def _parts(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Cut into messages, at least one, with whether it is the last."""
    for at in range(0, max(len(data), 1), PART):
        yield data[at : at + PART], at + PART >= len(data)


def faults(
    seq: int, payload: bytes | memoryview, found: Sequence[batch.Fault]
) -> Iterator[Message]:
    """What tells the source of the faults of a frame, of every one: what it does not hear of it
    takes for done."""
    rows: list[list[object]] = []
    size = step = at = 0
    for fault in found:
        at += batch.step_offset(memoryview(payload)[at:], fault.step - step)
        step = fault.step
        op, path, other = batch.step_at(memoryview(payload)[at:], 0)
        rows.append([path, other, int(op), fault.status, int(fault.what)])
        size += len(path) + len(other) + 32
        if size >= PART or fault is found[-1]:
            yield {"t": "faults", "seq": seq, "faults": rows}
            rows, size = [], 0
