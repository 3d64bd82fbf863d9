"""What the target answers when the source asks: what stands there, and what a file consists of."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from i2node.errors import ProtocolError, Refused, SessionError
from i2node.fs.tree import FATAL, TargetTree
from i2node.model import PROBED, show
from i2node.mover import batch, blocks, listing
from i2node.repl.plan import named_root
from i2node.repl.remote import PART
from i2node.repl.shipment import SIGNED_MAX
from i2node.repl.windows import Signing, windows

Message = dict[str, object]

DIRS_MAX = 4096
"""Directories in one question."""


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
    (answer,) = batch.list_dirs(root.fd, root.dev, [(path, skip)])
    if answer.status:
        return answer.status, b"", b""
    own = b"" if path else named_root(listing.decode(answer.own))
    if not answer.entries:
        return 0, own, b""
    group = bytearray(batch.group(path, answer.entries))
    batch.digest_files(root.fd, root.dev, group, content=content, threads=2)
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
