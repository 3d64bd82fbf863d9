"""Frames of a paired peer, or of one on the way, that are not as they must be: the session ends,
nothing of them is applied, and no memory goes into them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nursery import Nursery
from peer import Agent, Peer
from test_apply import put

from i2node.errors import I2Error
from i2node.net.identity import Identity
from i2node.net.seal import Direction, derive_key
from i2node.net.wire import CLEAR, FRAME_MAX, TAG_SIZE, ZSTD, pack_header

PUT = put(b"f", b"x" * 1000)


class Forge:
    """Seals what no sealer would, with the keys of a session."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.seq = 0

    def sealed(
        self,
        payload: bytes,
        *,
        flags: int = 0,
        raw: int | None = None,
        seq: int | None = None,
        stream: int = 0,
        direction: Direction = Direction.OUT,
        secret: bytes = b"",
        session: bytes | None = None,
    ) -> bytes:
        """A frame of type 1; all that is not said is as it is due."""
        channel = self.peer.channel
        at = self.seq if seq is None else seq
        self.seq = at + 1
        size = len(payload) if raw is None else raw
        head = pack_header(1, flags, stream, len(payload) + TAG_SIZE, size, at)
        key = derive_key(channel.secret, session or channel.session, direction, stream, secret)
        nonce = direction.prefix + stream.to_bytes(2, "big") + at.to_bytes(8, "big")
        return head + AESGCM(key).encrypt(nonce, payload, head)


def packed(data: bytes, window_log: int = 0, size: bool = True) -> bytes:
    more = {"window_log": window_log} if window_log else {}
    settings = zstandard.ZstdCompressionParameters(write_content_size=size, **more)
    return zstandard.ZstdCompressor(compression_params=settings).compress(data)


def claiming(size: int) -> bytes:
    """A zstd frame (RFC 8878 §3.1.1) that says it holds so much, and holds next to nothing."""
    return b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + b"\x01\0\0"


def flipped(frame: bytes, at: int) -> bytes:
    at %= len(frame)
    return frame[:at] + bytes([frame[at] ^ 0x10]) + frame[at + 1 :]


FORGERIES: dict[str, Callable[[Forge], bytes]] = {
    "a bit of the header": lambda f: flipped(f.sealed(PUT), 3),
    "a bit of the payload": lambda f: flipped(f.sealed(PUT), 100),
    "a bit of the tag": lambda f: flipped(f.sealed(PUT), -1),
    "twice": lambda f: f.sealed(b"") * 2,
    "replayed later": lambda f: (old := f.sealed(b"")) + f.sealed(b"") + old,
    "the second first": lambda f: f.sealed(PUT, seq=1) + f.sealed(PUT, seq=0),
    "one left out": lambda f: f.sealed(b"") + f.sealed(PUT, seq=2),
    "of another stream": lambda f: f.sealed(PUT, stream=1),
    "of the other direction": lambda f: f.sealed(PUT, direction=Direction.BACK),
    "of another session": lambda f: f.sealed(PUT, session=os.urandom(16)),
    "with another secret": lambda f: f.sealed(PUT, secret=b"guessed"),
    "in clear": lambda f: f.sealed(PUT, flags=CLEAR),
    "too long": lambda f: pack_header(1, 0, 0, (1 << 32) - 1, FRAME_MAX, 0),
    "too large": lambda f: f.sealed(b"x" * 100, flags=ZSTD, raw=FRAME_MAX + 1),
    "no frame at all": lambda f: b"\xff" * 4096,
    "compressed to more": lambda f: f.sealed(PUT, flags=ZSTD),
    "claiming a terabyte": lambda f: f.sealed(claiming(1 << 40), flags=ZSTD, raw=FRAME_MAX),
    "claiming what it has not": lambda f: f.sealed(claiming(FRAME_MAX), flags=ZSTD, raw=FRAME_MAX),
    "holding more than it says": lambda f: f.sealed(packed(bytes(99999)), flags=ZSTD, raw=9999),
    "of no size": lambda f: f.sealed(packed(bytes(99999), size=False), flags=ZSTD, raw=99999),
    "of a huge window": lambda f: f.sealed(
        packed(bytes(9999), window_log=31, size=False), flags=ZSTD, raw=9999
    ),
    "two in one": lambda f: f.sealed(packed(bytes(5000)) * 2, flags=ZSTD, raw=5000),
    "steps that are none": lambda f: f.sealed(b"\xff" * 128),
}


class Post:
    """An agent and whoever sends to it."""

    def __init__(self, place: Path, nursery: Nursery) -> None:
        self.agent = Agent(place, nursery)
        self.identity: Identity = self.agent.peer(place / "peer")

    def peer(self) -> Peer:
        made = Peer(self.agent, self.identity)
        assert made.open(self.agent.room / "root", tokens=["n"])["t"] == "opened"
        made.begin()
        return made


@pytest.fixture(scope="module")
def post(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> Iterator[Post]:
    made = Post(tmp_path_factory.mktemp("frames"), nursery)
    yield made
    made.agent.close()


def test_a_forger_who_forges_nothing_is_heard(post: Post) -> None:
    peer = post.peer()
    assert peer.stream is not None
    peer.stream.send([Forge(peer).sealed(put(b"honest"))])
    assert peer.hear()["t"] == "applied"
    peer.close()


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_frame_ends_the_session(post: Post, name: str) -> None:
    peer = post.peer()
    assert peer.stream is not None
    before = post.agent.memory(anew=True)
    peer.stream.send([FORGERIES[name](Forge(peer))])
    said = peer.hear()
    while said["t"] in ("applied", "durable"):  # of the sound ones before it
        said = peer.hear()
    assert said["code"] == "protocol", said
    with pytest.raises(I2Error):
        while peer.hear()["t"] in ("applied", "durable"):
            pass  # told by another thread, of those before it
    peer.close()
    assert not (post.agent.room / "root" / "f").exists()
    assert post.agent.memory() < before + (40 << 10)


def test_half_a_frame_is_nothing(post: Post) -> None:
    peer = post.peer()
    assert peer.stream is not None
    frame = Forge(peer).sealed(PUT)
    peer.stream.send([frame[:-1]])
    peer.stream.close()
    peer.close()
    again = post.peer()
    again.close()
    assert not (post.agent.room / "root" / "f").exists()
