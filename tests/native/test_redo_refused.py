"""Where a large file must not be changed in place although little of it changes, and what happens
when that turns out late."""
# Names are bytes here, as on disk; pathlib has only text.

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import kernel
import pytest
from inplace import MODE, SIZE, begin, clone, disk, fresh, leave, needs_root, noise, seal
from test_apply import Target
from test_stage import copy, staged, write
from trees import NO_ID, acl

pytestmark = [pytest.mark.root, needs_root]


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    with disk(tmp_path) as mount, fresh(mount) as made:
        yield made


def test_new_content_is_not_seen_by_those_an_acl_lets_read_the_old(target: Target) -> None:
    have = begin(target, noise(0, SIZE))
    path = target.root / "f"
    # user::rw, user:65534:r, group::r, mask::r, other::-
    rights = acl((1, 6, NO_ID), (2, 4, 65534), (4, 4, NO_ID), (16, 4, NO_ID), (32, 0, NO_ID))
    os.setxattr(path, "system.posix_acl_access", rights)
    have = path.stat()
    assert have.st_mode & 0o777 == MODE
    assert target.apply(clone(have), write(0, b"secret"), staged(b"f", SIZE)) == []
    assert path.stat().st_ino != have.st_ino
    assert os.listxattr(path) == []
    assert path.read_bytes() == b"secret" + noise(0, SIZE)[6:]


def test_a_copy_onto_a_journal_in_a_later_payload(target: Target) -> None:
    """The journal is laid over a copy; nothing of it may be looked at once it is gone."""
    (target.root / "a directory of some length").mkdir()
    name = b"a directory of some length/f"
    old = noise(0, SIZE)
    have = begin(target, old, name)
    assert target.apply(clone(have, name)) == []
    assert target.apply(copy(name, 0, 4096, 4096, have), staged(name, SIZE)) == []
    want = old[:4096] + old[:4096] + old[8192:]
    assert (target.root / os.fsdecode(name)).read_bytes() == want
    assert leave(target) == []


def test_what_cannot_be_finished_says_why_and_nothing_goes_on(target: Target) -> None:
    """The file may be half changed: the reason is told as it is, and no step behind it is done."""
    begin(target, noise(0, SIZE))
    seal(target, [write(0, b"new")], staged(b"f", SIZE))

    def work() -> None:
        (fault,) = target.apply(staged(b"f", SIZE))
        assert (fault.status, fault.fatal) == (errno.EACCES, True), fault

    kernel.without([("openat2", errno.EACCES, None, 0)], work)
    assert leave(target)
    assert target.apply(staged(b"f", SIZE)) == []
    assert (target.root / "f").read_bytes() == b"new" + noise(0, SIZE)[3:]
    assert leave(target) == []
