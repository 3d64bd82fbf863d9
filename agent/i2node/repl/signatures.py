"""Block signatures of large files as the target is expected to hold them, one file each.

Layout, little-endian: magic "i2sig1\\0\\0", u64 size, i64 mtime, i64 ctime (nanoseconds since
1970), u32 block (bytes), u32 zero, 16 bytes BLAKE2b of all that and of the records, then the
records (`struct i2_block` of mover.h, packed). The digest stands in for fsync: a file that a power
cut left empty or torn is no signature, and costs one full comparison.

That of a file that is written again and again is held in memory: twenty bytes for each block, put
to disk with each look, would be more than what changed. Nothing is left on disk of it meanwhile,
since an older version may carry the same size and times; a kill costs the comparison.
"""

from __future__ import annotations

import errno
import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

from i2node.errors import SessionError

BLOCK_RECORD = 20  # bytes of a packed struct i2_block

HELD_BYTES = 64 << 20
"""Records that are held in memory at most; those held longest go to disk first."""

_HEAD = struct.Struct("<8sQqqII16s")
_MAGIC = b"i2sig1\0\0"


@dataclass(frozen=True, slots=True)
class Signature:
    """size in bytes, mtime and ctime (nanoseconds since 1970) of the version that was hashed;
    block: its block size in bytes; blocks: the packed records, one for each block."""

    size: int
    mtime: int
    ctime: int
    block: int
    blocks: bytes


class Signatures:
    """A directory of signatures, by inode number at the source. The caller serialises.

    Every method raises SessionError when the directory cannot be used or is full.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.known: set[int] = set()
        self._held: dict[int, Signature] = {}
        self._unsettled: set[int] = set()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for file in directory.iterdir():
                if file.suffix == ".new":
                    file.unlink()
                    continue
                try:
                    self.known.add(int(file.name, 16))
                except ValueError:
                    continue
        except OSError as e:
            raise self._fault("opening", e) from e

    def read(self, ino: int) -> Signature | None:
        """None when there is none, or none that is sound."""
        if ino not in self.known:
            return None
        if ino in self._held:
            return self._held[ino]
        try:
            data = self._file(ino).read_bytes()
        except FileNotFoundError:
            self.known.discard(ino)
            return None
        except OSError as e:
            raise self._fault("reading", e) from e
        if len(data) < _HEAD.size:
            return None
        magic, size, mtime, ctime, block, _, digest = _HEAD.unpack_from(data)
        blocks = data[_HEAD.size :]
        if magic != _MAGIC or digest != _digest(size, mtime, ctime, block, blocks):
            return None
        return Signature(size, mtime, ctime, block, blocks)

    def write(self, ino: int, signature: Signature) -> None:
        """Replaces the signature of ino; a kill at any moment leaves the old one or the new one."""
        s = signature
        _check(s)
        digest = _digest(s.size, s.mtime, s.ctime, s.block, s.blocks)
        head = _HEAD.pack(_MAGIC, s.size, s.mtime, s.ctime, s.block, 0, digest)
        new = self._file(ino).with_suffix(".new")
        try:
            with new.open("wb") as file:
                file.write(head)
                file.write(s.blocks)
            new.replace(self._file(ino))
        except OSError as e:
            new.unlink(missing_ok=True)
            raise self._fault("writing", e) from e
        self.known.add(ino)
        self._held.pop(ino, None)
        self._unsettled.discard(ino)

    def hold(self, ino: int, signature: Signature) -> None:
        """The same in memory, until `settle` or `release`; a kill before that leaves none."""
        _check(signature)
        if ino not in self._unsettled:
            self.drop(ino)
        self._held[ino] = signature
        self._unsettled.add(ino)
        self.known.add(ino)
        while len(self._held) > 1 and sum(len(s.blocks) for s in self._held.values()) > HELD_BYTES:
            self.release(next(iter(self._held)))

    def settle(self, ino: int) -> None:
        """Puts to disk what is in memory alone; it stays there too."""
        held = self._held.get(ino)
        if held is not None and ino in self._unsettled:
            self.write(ino, held)
            self._held[ino] = held

    def release(self, ino: int) -> None:
        """Puts it to disk, and out of memory."""
        self.settle(ino)
        self._held.pop(ino, None)

    def settle_all(self) -> None:
        """Puts all to disk."""
        for ino in list(self._unsettled):
            self.settle(ino)

    def drop(self, ino: int) -> None:
        """Forgets the signature of ino, if there is one."""
        if ino in self.known:
            try:
                self._file(ino).unlink(missing_ok=True)
            except OSError as e:
                raise self._fault("removing", e) from e
            self.known.discard(ino)
            self._held.pop(ino, None)
            self._unsettled.discard(ino)

    def clear(self) -> None:
        """Forgets all."""
        for ino in list(self.known):
            self.drop(ino)

    def size(self) -> int:
        """Bytes of all signatures."""
        total = 0
        for ino in self.known:
            try:
                total += self._file(ino).stat().st_size
            except FileNotFoundError:
                continue
            except OSError as e:
                raise self._fault("reading", e) from e
        return total

    def _file(self, ino: int) -> Path:
        return self.directory / f"{ino:x}"

    def _fault(self, operation: str, error: OSError) -> SessionError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return SessionError(
            f"{operation} a signature in {self.directory}: {error.strerror}",
            f"make room in {self.directory}" if full else f"check {self.directory}",
        )


def _check(s: Signature) -> None:
    if s.block <= 0 or len(s.blocks) != -(-s.size // s.block) * BLOCK_RECORD:
        raise ValueError("a signature needs one record for each block")


def _digest(size: int, mtime: int, ctime: int, block: int, blocks: bytes) -> bytes:
    head = _HEAD.pack(_MAGIC, size, mtime, ctime, block, 0, bytes(16))
    digest = hashlib.blake2b(head, digest_size=16)
    digest.update(blocks)
    return digest.digest()
