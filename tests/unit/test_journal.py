"""The journal against a model of dicts, through reopening, kills, damage and a full disk."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from i2node.errors import Halt, ProtocolError, SessionError
from i2node.model import PROBED, Entry, Kind, Verdict
from i2node.mover import listing as listings
from i2node.repl.journal import PAGE, Journal
from i2node.repl.signatures import Signature

BIG = 2**64 - 5  # an inode number that SQLite cannot hold as it is


def entry(name: bytes, ino: int = 7, kind: Kind = Kind.FILE, **fields: Any) -> bytes:
    values: dict[str, Any] = dict.fromkeys(Entry._fields, 0)
    values |= {"verdict": Verdict.SAME, "content": bytes(16), "nlink": 1, "mode": 0o644}
    return listings.encode(Entry(**(values | {"name": name, "ino": ino, "kind": kind} | fields)))


def listing(*records: bytes) -> bytes:
    return listings.sort(b"".join(records))


def names(data: bytes) -> list[bytes]:
    return [e.name for e in listings.entries(data)]


def copy_as_after_a_kill(journal: Journal, to: Path) -> Path:
    """What a process that dies now would leave."""
    to.mkdir()
    for file in journal.file.parent.iterdir():
        if file.is_file():
            shutil.copy(file, to / file.name)
        else:
            shutil.copytree(file, to / file.name)
    return to / journal.file.name


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    opened = Journal(tmp_path / "state" / "journal")
    yield opened
    opened.close()


def test_a_listing_is_given_back_and_survives(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j")
    data = listing(entry(b"b"), entry(b"a"), entry(b"\xff"))
    first.replace(BIG, data)
    first.put(5, data)
    assert first.listing(BIG) == first.listing(5) == data
    first.close()
    first.close()
    second = Journal(tmp_path / "j")
    assert second.listing(BIG) == data
    assert (second.clean, second.unclean_boot, second.rebuilt) == (True, False, False)
    second.close()


def test_what_was_committed_goes_into_the_database_when_nobody_waits(journal: Journal) -> None:
    def fill(first: int) -> int:
        """Bytes in the database itself."""
        for ino in range(first, first + 6000):
            journal.replace(ino, listing(entry(b"a")))
        journal.commit()
        return journal.file.stat().st_size

    before = fill(1)
    assert fill(6001) == before  # a commit does not wait for that
    journal.replace(1, b"")
    journal.tidy()
    assert journal.file.stat().st_size == before  # not half of what is to be kept together
    journal.commit()
    journal.tidy()
    tidied = journal.file.stat().st_size
    assert tidied > before
    journal.replace(99_999, b"")
    journal.commit()
    before = journal.file.stat().st_mtime_ns
    journal.tidy()  # nor does it for a little
    assert journal.file.stat().st_mtime_ns == before


def test_an_empty_directory_is_not_an_unknown_one(journal: Journal) -> None:
    assert not journal.lists(1)
    journal.replace(1, b"")
    assert journal.lists(1)
    journal.put(2, listing(entry(b"a")))
    journal.put(2, listing(entry(b"a", verdict=Verdict.GONE)))
    assert (journal.listing(2), journal.lists(2)) == (b"", True)


def test_entries_with_a_trouble_are_passed_over(journal: Journal) -> None:
    journal.put(1, listing(entry(b"a", size=1), entry(b"b", status=13)))
    journal.put(1, listing(entry(b"a", size=2, status=13)))
    assert [(e.name, e.size) for e in listings.entries(journal.listing(1))] == [(b"a", 1)]


def test_one_change_rewrites_one_page(journal: Journal) -> None:
    data = listing(*(entry(b"%06d" % n) for n in range(PAGE * 20)))
    journal.replace(3, data)
    journal.commit()

    def pages() -> dict[bytes, bytes]:
        return dict(journal._db.execute("SELECT first, records FROM listing WHERE dir=3"))

    before = pages()
    assert len(before) == 20
    inner = PAGE * 11 + 3
    journal.put(3, listing(entry(b"%06d" % inner, size=9), entry(b"%06dx" % inner)))
    after = pages()
    assert sum(1 for first in after if after[first] != before.get(first)) == 1
    assert len(names(journal.listing(3))) == PAGE * 20 + 1


def test_pages_split_and_vanish(journal: Journal) -> None:
    everything = [b"%06d" % n for n in range(PAGE * 5)]
    for at in range(0, len(everything), 100):
        journal.put(3, listing(*map(entry, everything[at : at + 100])))
    assert names(journal.listing(3)) == everything
    (most,) = journal._db.execute("SELECT max(n) FROM listing").fetchone()
    assert most <= PAGE * 3 // 2
    assert journal.statistics().entries == len(everything)
    journal.put(3, listing(*(entry(n, verdict=Verdict.GONE) for n in everything[1:])))
    assert names(journal.listing(3)) == everything[:1]
    (rows,) = journal._db.execute("SELECT count(*) FROM listing").fetchone()
    assert rows == 1


def test_an_unsound_listing_changes_nothing(journal: Journal) -> None:
    journal.put(1, listing(entry(b"a")))
    for bad in (b"x" * 120, entry(b"b") + entry(b"a")):
        with pytest.raises(ProtocolError):
            journal.put(1, bad)
        with pytest.raises(ProtocolError):
            journal.replace(1, bad)
    assert names(journal.listing(1)) == [b"a"]


def test_places_and_paths(journal: Journal) -> None:
    journal.place(10, 2, b"a")
    journal.place(11, 10, b"b")
    journal.place(BIG, 11, b"one")
    journal.place(BIG, 10, b"two")
    assert sorted(journal.places(BIG)) == [(10, b"two"), (11, b"one")]
    assert journal.path(11, 2) == b"a/b"
    assert journal.path(2, 2) == b""
    assert journal.path(99, 2) is None
    assert journal.occupant(11, b"one") == BIG
    journal.place(12, 11, b"one")
    assert journal.occupant(11, b"one") == 12
    assert journal.places(BIG) == [(10, b"two")]
    journal.unplace(BIG, 10, b"two")
    journal.unplace(BIG, 10, b"two")
    assert (journal.places(BIG), journal.occupant(10, b"two")) == ([], None)


def test_many_are_told_of_as_each_is(journal: Journal) -> None:
    """More than one query asks for; the numbers of some are above those that the database has."""
    inos = [*range(1, 1200), *range(BIG - 100, BIG)]
    for ino in inos:
        journal.replace(ino, listing(entry(b"%d" % ino)))
        journal.place(ino, 5, b"%d" % ino)
    asked = [7777, *inos]
    assert journal.listings(asked) == {ino: journal.listing(ino) for ino in inos}
    assert journal.places_of(asked) == {ino: journal.places(ino) for ino in inos}
    assert journal.placed([*range(3000, 5000), inos[-1]])
    assert not journal.placed(range(3000, 5000))


def test_a_path_that_goes_round_ends(journal: Journal) -> None:
    journal.place(10, 11, b"a")
    journal.place(11, 10, b"b")
    assert journal.path(10, 2) is None


def test_forgetting_takes_what_is_below_but_not_what_moved_away(journal: Journal) -> None:
    sig = Signature(100, 1, 2, 4096, bytes(20))
    for ino, parent, name in ((10, 2, b"a"), (11, 10, b"b"), (12, 2, b"moved"), (13, 11, b"deep")):
        journal.place(ino, parent, name)
    d = Kind.DIR
    journal.replace(2, listing(entry(b"a", 10, d), entry(b"moved", 12, d)))
    journal.replace(10, listing(entry(b"b", 11, d), entry(b"old", 12, d), entry(b"u", 14, d)))
    journal.replace(11, listing(entry(b"deep", 13, d), entry(b"probed", 15, d, flags=PROBED)))
    for ino in (12, 13, 14, 15):
        journal.replace(ino, listing(entry(b"x")))
    journal.place(50, 13, b"large")
    journal.place(51, 13, b"linked")
    journal.place(51, 2, b"other name")
    for ino in (50, 51):
        journal.put_signature(ino, sig)
    journal.doubt(11, b"a/b", 5)
    journal.doubt(12, b"moved", 5)
    journal.forget(10)
    assert [ino for ino in range(2, 16) if journal.lists(ino)] == [2, 12, 15]
    assert [ino for ino in (10, 11, 13, 50) if journal.places(ino)] == []
    assert journal.places(51) == [(2, b"other name")]
    assert journal.places(12) == [(2, b"moved")]
    assert journal.doubts() == [(12, b"moved")]
    assert (journal.doubt_of(12), journal.doubt_of(11)) == (5, None)
    assert (journal.signature(50), journal.signature(51)) == (None, sig)


def test_rekey(journal: Journal) -> None:
    data = listing(entry(b"x"))
    journal.place(10, 2, b"a")
    journal.place(11, 10, b"b")
    journal.replace(10, data)
    journal.doubt(10, b"a", 1)
    journal.doubt(20, b"a", 3)
    journal.suspect(10, [b"x", b"y"], 1)
    journal.suspect(20, [b"x"], 3)
    journal.replace(20, listing(entry(b"stale")))
    journal.place(20, 2, b"stale")
    journal.rekey(10, 20)
    journal.rekey(20, 20)
    assert (journal.listing(20), journal.lists(10)) == (data, False)
    assert journal.path(11, 2) == b"a/b"
    assert journal.occupant(2, b"a") == 20
    assert journal.occupant(2, b"stale") is None
    assert (journal.doubts(), sorted(journal.suspects(20))) == ([(20, b"a")], [b"x", b"y"])
    journal.settle(2)
    assert (journal.doubts(), journal.suspects(20)) == ([(20, b"a")], [b"x"])


def test_doubt_is_settled_in_order(journal: Journal) -> None:
    journal.doubt(1, b"one", 10)
    journal.doubt(BIG, b"two", 11)
    journal.doubt(1, b"one again", 12)
    journal.settle(11)
    assert journal.doubts() == [(1, b"one")]
    assert (journal.doubted(b"one"), journal.doubted(b"one again")) == ([1], [])
    journal.settle(12)
    assert journal.doubts() == []
    assert journal.all_doubt == ""
    journal.doubt_all("restored from a copy")
    assert journal.all_doubt == "restored from a copy"
    journal.trust()
    assert journal.all_doubt == ""


def test_a_frame_that_was_not_done_in_full_settles_nothing(journal: Journal) -> None:
    journal.doubt(1, b"before", 3)
    journal.doubt(2, b"failed", 4)
    journal.doubt(3, b"behind", 5)
    journal.distrust(4)
    journal.settle(5)
    assert journal.doubts() == [(2, b"failed"), (3, b"behind")]
    # The target is asked, and what follows from its answer is done.
    journal.answered(2)
    journal.compared(2)
    journal.settle(1000)
    assert journal.doubts() == [(2, b"failed"), (3, b"behind")]
    journal.sent(6)
    journal.settle(6)
    assert journal.doubts() == [(3, b"behind")]


def test_wipe_keeps_meta_only(journal: Journal) -> None:
    journal.set("token", b"\x00\x01")
    journal.put(1, listing(entry(b"a")))
    journal.place(1, 2, b"a")
    journal.doubt(1, b"a", 1)
    journal.put_signature(1, Signature(0, 0, 0, 1, b""))
    journal.wipe()
    status = journal.statistics()
    assert (status.entries, status.directories, status.places, status.doubts) == (0, 0, 0, 0)
    assert status.disk_bytes > 0
    assert journal.signature(1) is None
    assert journal.get("token") == b"\x00\x01"
    assert journal.get("none") is None


def test_files_are_private(journal: Journal) -> None:
    journal.put(1, listing(entry(b"a")))
    journal.commit()
    state = journal.file.parent
    for file in state.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file


def test_a_second_process_is_kept_out(journal: Journal) -> None:
    with pytest.raises(SessionError, match="another process"):
        Journal(journal.file)


def test_kill_reboot_and_orderly_end_are_told_apart(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a" / "j", boot_id="one")
    killed = copy_as_after_a_kill(journal, tmp_path / "b")
    journal.close()
    same_boot = Journal(killed, boot_id="one")
    assert (same_boot.clean, same_boot.unclean_boot) == (False, False)
    crashed = copy_as_after_a_kill(same_boot, tmp_path / "c")
    same_boot.close()
    other_boot = Journal(crashed, boot_id="two")
    assert (other_boot.clean, other_boot.unclean_boot) == (False, True)
    other_boot.close()
    third = Journal(crashed, boot_id="three")
    assert (third.clean, third.unclean_boot) == (True, False)
    third.close()


def test_a_kill_leaves_the_last_commit(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from i2node.repl.journal import Journal
journal = Journal(Path(sys.argv[1]))
for n in range(10**9):
    for ino in range(1, 9):
        journal.undoubt(ino)
        journal.doubt(ino, b"%d" % n, n)
    journal.set("n", b"%d" % n)
    journal.commit()
    print(n, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "j")], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) >= 50:
                break
        child.send_signal(signal.SIGKILL)
        last = max([50, *map(int, child.stdout.read().split())])
    journal = Journal(tmp_path / "j")
    n = int(journal.get("n") or b"")
    assert n in (last, last + 1)
    assert journal.doubts() == [(ino, b"%d" % n) for ino in range(1, 9)]
    assert (journal.clean, journal.unclean_boot) == (False, False)
    journal.close()


@pytest.mark.parametrize("damage", ["garbage", "truncated", "foreign"])
def test_a_damaged_database_is_set_aside(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "j"
    journal = Journal(file)
    journal.put(1, listing(*(entry(b"%d" % n) for n in range(3000))))
    journal.put_signature(1, Signature(0, 0, 0, 1, b""))
    journal.close()
    data = file.read_bytes()
    if damage == "garbage":
        file.write_bytes(os.urandom(len(data)))
    elif damage == "truncated":
        file.write_bytes(data[: len(data) // 2])
    else:
        file.unlink()
        with sqlite3.connect(file) as other:
            other.execute("CREATE TABLE something(x)")
        other.close()
    again = Journal(file)
    assert again.rebuilt
    assert again.statistics().entries == 0
    assert again.signature(1) is None
    assert (tmp_path / "j.damaged").exists()
    again.close()


def test_damage_found_while_running_leads_to_a_rebuild(tmp_path: Path) -> None:
    file = tmp_path / "j"
    journal = Journal(file)
    for ino in range(40):
        journal.replace(ino, listing(*(entry(b"%d" % n) for n in range(300))))
    journal.close()
    size = file.stat().st_size
    with file.open("r+b") as raw:
        raw.seek(8192 * 4)
        raw.write(os.urandom(size - 8192 * 4))
    journal = Journal(file)
    assert not journal.rebuilt  # the end was orderly, so nothing was checked
    with pytest.raises(SessionError, match="malformed"):
        for ino in range(40):
            journal.put(ino, listing(entry(b"zz")))
    try:
        journal.close()
    except SessionError as e:
        assert "set aside" in e.remedy
    journal = Journal(file)
    assert journal.rebuilt
    journal.close()


def test_damage_is_looked_for_after_an_unclean_reboot(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a" / "j", boot_id="one")
    for ino in range(40):
        journal.replace(ino, listing(*(entry(b"%d" % n) for n in range(300))))
    journal.commit()
    journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file = copy_as_after_a_kill(journal, tmp_path / "b")
    journal.close()
    with file.open("r+b") as raw:
        raw.seek(8192 * 6)
        raw.write(os.urandom(8192 * 6))
    again = Journal(file, boot_id="two")
    assert again.rebuilt
    again.close()


def test_a_newer_schema_is_for_a_person(tmp_path: Path) -> None:
    file = tmp_path / "j"
    Journal(file).close()
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(Halt, match="newer release") as caught:
        Journal(file)
    assert caught.value.remedy
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA user_version=1")
    db.close()
    Journal(file).close()


def test_a_full_disk_is_a_session_error_and_undoes_what_was_not_committed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.put(1, listing(entry(b"kept")))
    journal.commit()
    (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
    journal._db.execute(f"PRAGMA max_page_count={pages + 2}")
    journal.put(1, listing(entry(b"lost")))
    with pytest.raises(SessionError, match="full") as caught:
        journal.put(2, listing(*(entry(b"%d" % n) for n in range(5000))))
    assert str(tmp_path) in caught.value.remedy
    assert names(journal.listing(1)) == [b"kept"]
    journal._db.execute("PRAGMA max_page_count=100000")
    journal.put(1, listing(entry(b"later")))
    journal.close()
    again = Journal(tmp_path / "j")
    assert names(again.listing(1)) == [b"kept", b"later"]
    again.close()


def test_signatures_are_whole_or_not_there(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    sig = Signature(10_000, -5, 2**60, 4096, os.urandom(60))
    with pytest.raises(ValueError, match="record"):
        journal.put_signature(BIG, Signature(10_000, 0, 0, 4096, b""))
    journal.put_signature(BIG, sig)
    journal.put_signature(8, sig)
    (tmp_path / "sig" / "77.new").write_bytes(b"half")
    journal.close()
    journal = Journal(tmp_path / "j")
    assert journal.signature(BIG) == sig
    assert journal.signature(9) is None
    assert sorted(p.name for p in (tmp_path / "sig").iterdir()) == ["8", f"{BIG:x}"]
    file = tmp_path / "sig" / "8"
    for torn in (b"", file.read_bytes()[:-1], file.read_bytes()[:-1] + b"\0", bytes(200)):
        file.write_bytes(torn)
        assert journal.signature(8) is None
    journal.drop_signature(BIG)
    journal.drop_signature(BIG)
    assert journal.signature(BIG) is None
    journal.close()


def test_a_state_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SessionError):
        Journal(tmp_path / "file" / "j")


class Reopened(RuleBasedStateMachine):
    """Random writing, with ends that are orderly, and ends that are kills."""

    @initialize()
    def begin(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="journal-"))
        self.count = 0
        self.journal = Journal(self.home / "0" / "j")
        self.now: dict[str, dict[Any, Any]] = {"listing": {}, "place": {}, "doubt": {}, "meta": {}}
        self.keep()

    def keep(self) -> None:
        self.kept = {k: dict(v) for k, v in self.now.items()}
        self.kept["listing"] = {k: dict(v) for k, v in self.now["listing"].items()}

    inos = st.sampled_from([1, 2, 3, BIG])
    name = st.sampled_from([b"a", b"b", b"ba", b"\xfe"])

    @rule(ino=inos, sizes=st.dictionaries(st.integers(0, 1500), st.integers(0, 9), max_size=900))
    def put(self, ino: int, sizes: dict[int, int]) -> None:
        records = []
        known = self.now["listing"].setdefault(ino, {}) if sizes else {}
        for number, size in sizes.items():
            name = b"%04d" % number
            gone = size == 0
            verdict = Verdict.GONE if gone else Verdict.NEW
            records.append(entry(name, size=size, verdict=verdict))
            if gone:
                known.pop(name, None)
            else:
                known[name] = size
        self.journal.put(ino, listing(*records))

    @rule(ino=inos, numbers=st.sets(st.integers(0, 1500), max_size=900))
    def replace(self, ino: int, numbers: set[int]) -> None:
        self.journal.replace(ino, listing(*(entry(b"%04d" % n, size=n) for n in numbers)))
        self.now["listing"][ino] = {b"%04d" % n: n for n in numbers}

    @rule(ino=inos, dir=inos, name=name)
    def place(self, ino: int, dir: int, name: bytes) -> None:
        self.journal.place(ino, dir, name)
        self.now["place"][dir, name] = ino

    @rule(ino=inos, dir=inos, name=name)
    def unplace(self, ino: int, dir: int, name: bytes) -> None:
        self.journal.unplace(ino, dir, name)
        if self.now["place"].get((dir, name)) == ino:
            del self.now["place"][dir, name]

    @rule(ino=inos, path=name, seq=st.integers(0, 9))
    def doubt(self, ino: int, path: bytes, seq: int) -> None:
        self.journal.doubt(ino, path, seq)
        first, before = self.now["doubt"].get(ino, (path, 0))
        self.now["doubt"][ino] = (first, max(seq, before))

    @rule(seq=st.integers(0, 9))
    def settle(self, seq: int) -> None:
        self.journal.settle(seq)
        self.now["doubt"] = {k: v for k, v in self.now["doubt"].items() if v[1] > seq}

    @rule(value=name)
    def set(self, value: bytes) -> None:
        self.journal.set("key", value)
        self.now["meta"]["key"] = value

    @rule()
    def commit(self) -> None:
        self.journal.commit()
        self.keep()

    @rule()
    def reopen(self) -> None:
        self.journal.close()
        self.keep()
        self.journal = Journal(self.journal.file)
        assert self.journal.clean

    @rule()
    def kill(self) -> None:
        self.count += 1
        file = copy_as_after_a_kill(self.journal, self.home / str(self.count))
        self.journal.close()
        self.journal = Journal(file)
        assert not self.journal.clean
        self.now = self.kept
        self.keep()

    @invariant()
    def agrees(self) -> None:
        for ino in (1, 2, 3, BIG):
            held = {e.name: e.size for e in listings.entries(self.journal.listing(ino))}
            assert held == self.now["listing"].get(ino, {})
            assert self.journal.lists(ino) == (ino in self.now["listing"])
            expected = sorted(k for k, v in self.now["place"].items() if v == ino)
            assert sorted(self.journal.places(ino)) == expected
        assert dict(self.journal.doubts()) == {k: v[0] for k, v in self.now["doubt"].items()}
        assert self.journal.get("key") == self.now["meta"].get("key")

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.journal.close()
            shutil.rmtree(self.home)


TestReopened = Reopened.TestCase
TestReopened.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def test_a_log_that_lost_its_end_is_noticed(tmp_path: Path) -> None:
    """SQLite passes over what is unsound of it, without a word."""
    journal = Journal(tmp_path / "live" / "index.db")
    journal.set("a", b"1")
    journal.commit()
    log = (tmp_path / "live" / "index.db-wal").read_bytes()
    journal.set("a", b"2")
    journal.commit()
    for name, lost in (("as it was", False), ("shorter", True)):
        copy = shutil.copytree(tmp_path / "live", tmp_path / name)
        if lost:
            (copy / "index.db-wal").write_bytes(log)
        found = Journal(copy / "index.db")
        assert (found.unclean_boot, found.get("a")) == (lost, b"1" if lost else b"2")
        found.close()
        again = Journal(copy / "index.db")
        assert not again.unclean_boot
        again.close()
    journal.close()
