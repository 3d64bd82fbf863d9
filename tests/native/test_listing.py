"""Listings against a model that is a plain dict from name to Entry."""

import struct
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entries import PLAIN
from i2node.errors import ProtocolError
from i2node.model import MOUNT, PROBED, RACY, Entry, Kind, Verdict
from i2node.mover import listing
from i2node.mover._mover import ffi, lib

SMALL = 1 << 16
D16 = [bytes(16), b"A" * 16, b"B" * 16]


def entry(name: bytes = b"f", kind: Kind = Kind.FILE, **fields: object) -> Entry:
    plain = PLAIN._replace(
        name=name,
        kind=kind,
        uid=1,
        gid=2,
        ino=77,
        size=100 if kind is Kind.FILE else 0,
        mtime_s=1_700_000_000,
        mtime_ns=5,
        ctime=1_700_000_000_000_000_005,
        birth=1_600_000_000_000_000_000,
    )
    return plain._replace(**fields)


def pack(found: Iterable[Entry]) -> bytes:
    return b"".join(listing.encode(e) for e in sorted(found, key=lambda e: e.name))


names = st.one_of(
    st.sampled_from([b"a", b"ab", b"abcdefgh", b"abcdefghi", b"b", b"...", b".a", b"\xff" * 255]),
    st.binary(min_size=1, max_size=12).filter(
        lambda n: b"/" not in n and b"\0" not in n and n not in (b".", b"..")
    ),
)

# Few values for each field, so that old and new often agree in most of them.
entries = st.builds(
    entry,
    name=names,
    kind=st.sampled_from([Kind.FILE, Kind.FILE, Kind.DIR, Kind.SYMLINK, Kind.CHR, Kind.FIFO]),
    mode=st.sampled_from([0o644, 0o755]),
    uid=st.sampled_from([1, 9]),
    nlink=st.sampled_from([1, 1, 2]),
    ino=st.sampled_from([77, 78]),
    size=st.sampled_from([100, 4096, SMALL, SMALL + 1]),
    rdev=st.sampled_from([0, 0, 5]),
    mtime_ns=st.sampled_from([5, 6]),
    flags=st.sampled_from([0, 0, 0, PROBED, RACY, MOUNT]),
    ctime=st.sampled_from([1, 2]),
    birth=st.sampled_from([0, 3, 4]),
    blocks=st.sampled_from([0, 8, 200]),
    attrs=st.sampled_from([0, 1, 2]),
    content=st.sampled_from(D16),
)
worlds = st.lists(entries, max_size=12).map(lambda found: {e.name: e for e in found})


def judge(o: Entry, n: Entry) -> Verdict:
    """The rules of mover.h, written down a second time."""
    probed = (o.flags | n.flags) & PROBED
    if o.kind is not n.kind:
        return Verdict.RETYPED
    fields = ["uid", "gid", "mtime_s", "mtime_ns"]
    if n.kind is not Kind.SYMLINK:
        fields.append("mode")
    if n.kind is not Kind.DIR:
        fields += ["size", "rdev"]
        if not probed:
            fields += ["ino", "nlink"]
    if not probed:
        fields.append("ctime")
    differs = any(getattr(o, f) != getattr(n, f) for f in fields) or bool(o.flags & RACY)
    differs |= bool(o.attrs and n.attrs and o.attrs != n.attrs)
    if n.kind is Kind.DIR:
        if n.flags & MOUNT:
            return Verdict.SAME
        if not probed and (o.ino != n.ino or (o.birth and n.birth and o.birth != n.birth)):
            return Verdict.SWAPPED
        return Verdict.META if differs else Verdict.SAME
    if n.kind is Kind.FILE:
        differs |= any(o.content) and any(n.content) and o.content != n.content
    if not differs:
        return Verdict.SAME
    if o.nlink > 1 and (n.nlink == 1 if probed else o.ino != n.ino):
        return Verdict.SWAPPED
    return Verdict.DATA if n.kind is Kind.FILE else Verdict.META


def section(e: Entry) -> str:
    if e.verdict is Verdict.GONE:
        return "gone"
    if e.kind is Kind.DIR:
        return "dirs"
    if e.nlink > 1:
        return "linked"
    return "large" if e.kind is Kind.FILE and (e.size > SMALL or holed(e)) else "bulk"


def holed(e: Entry) -> bool:
    return e.size >= 4096 and e.blocks * 512 < e.size


def says_content(o: Entry, n: Entry) -> bool:
    """Whether what the old one's digest says is all there is to say of the new one."""
    probed = (o.flags | n.flags) & PROBED
    as_many = bool(probed) or o.blocks == n.blocks or not (holed(o) or holed(n))
    return o.size == n.size and as_many


def model_diff(old: dict[bytes, Entry], now: dict[bytes, Entry]) -> dict[str, list[Entry]]:
    out: dict[str, list[Entry]] = {s: [] for s in ("gone", "dirs", "bulk", "large", "linked")}
    for name in sorted(old.keys() | now.keys()):
        o, n = old.get(name), now.get(name)
        if n is None:
            assert o is not None
            changed = o._replace(verdict=Verdict.GONE, status=0)
        elif o is None:
            changed = n._replace(verdict=Verdict.NEW)
        else:
            changed = n._replace(verdict=judge(o, n))
            if o.kind is n.kind:
                content = o.content if says_content(o, n) else bytes(16)
                changed = changed._replace(attrs=o.attrs, content=content)
        if changed.verdict is not Verdict.SAME:
            out[section(changed)].append(changed)
    return out


def sections(changes: listing.Changes) -> dict[str, bytes]:
    return {s: getattr(changes, s) for s in ("gone", "dirs", "bulk", "large", "linked")}


def bare(found: Iterable[Entry]) -> list[Entry]:
    """Without what a diff fills in."""
    return [e._replace(verdict=Verdict.SAME, attrs=0, content=bytes(16), status=0) for e in found]


@given(worlds)
def test_encode_and_decode(world: dict[bytes, Entry]) -> None:
    packed = pack(world.values())
    assert list(listing.entries(packed)) == sorted(world.values(), key=lambda e: e.name)
    assert listing.check(packed) == len(world)


@given(worlds, worlds)
def test_diff_is_the_models(old: dict[bytes, Entry], now: dict[bytes, Entry]) -> None:
    want = model_diff(old, now)
    got = listing.diff(pack(old.values()), pack(now.values()), SMALL)
    if got is None:
        assert not any(want.values())
    else:
        assert {s: list(listing.entries(d)) for s, d in sections(got).items()} == want


@given(worlds, worlds)
def test_merging_the_changes_gives_the_new_listing(
    old: dict[bytes, Entry], now: dict[bytes, Entry]
) -> None:
    base = pack(old.values())
    got = listing.diff(base, pack(now.values()), SMALL)
    for part in sections(got).values() if got else ():
        base = listing.merge(base, part)
    same = {n for n in now if n in old and judge(old[n], now[n]) is Verdict.SAME}
    want = [old[n] if n in same else now[n] for n in sorted(now)]
    assert bare(listing.entries(base)) == bare(want)


@given(worlds, worlds, st.data())
def test_merge_is_the_models(
    base: dict[bytes, Entry], change: dict[bytes, Entry], data: st.DataObject
) -> None:
    change = {
        n: e._replace(
            verdict=data.draw(st.sampled_from(list(Verdict))),
            status=data.draw(st.sampled_from([0, 0, 5])),
        )
        for n, e in change.items()
    }
    want = dict(base)
    for name, e in change.items():
        if e.status == 0:
            want.pop(name, None)
            if e.verdict is not Verdict.GONE:
                want[name] = e
    merged = listing.merge(pack(base.values()), pack(change.values()))
    tidy = [want[n]._replace(verdict=Verdict.SAME, status=0) for n in sorted(want)]
    assert list(listing.entries(merged)) == tidy


@given(st.permutations([b"a", b"ab", b"abcdefgh", b"abcdefgha", b"abcdefghb", b"b", b"\xff", b"-"]))
def test_sort(order: list[bytes]) -> None:
    records = b"".join(listing.encode(entry(n)) for n in order)
    assert listing.sort(records) == pack(entry(n) for n in order)


def test_sort_of_many_and_of_nothing() -> None:
    order = [b"%d" % (i * 7919 % 5000) for i in range(5000)]
    records = b"".join(listing.encode(entry(n)) for n in order)
    assert [e.name for e in listing.entries(listing.sort(records))] == sorted(order)
    assert listing.sort(b"") == b""


@pytest.mark.parametrize("between", [[], [b"a"], [b"q", b"b"]])
def test_sort_refuses_a_doubled_name(between: list[bytes]) -> None:
    order = [b"x", *between, b"x"]
    with pytest.raises(ProtocolError):
        listing.sort(b"".join(listing.encode(entry(n)) for n in order))


@given(worlds, names)
def test_find(world: dict[bytes, Entry], name: bytes) -> None:
    packed = pack(world.values())
    assert listing.find(packed, name) == world.get(name)
    for known, e in world.items():
        assert listing.find(packed, known) == e


@given(worlds, st.integers(0, 14), st.integers(0, 5 * SMALL))
def test_cut_is_the_longest_front_that_fits(
    world: dict[bytes, Entry], max_entries: int, max_bytes: int
) -> None:
    order = sorted(world.values(), key=lambda e: e.name)
    n = min(1, len(order))
    while (
        n and n < min(len(order), max_entries) and sum(e.size for e in order[: n + 1]) <= max_bytes
    ):
        n += 1
    want = (len(pack(order[:n])), n, sum(e.size for e in order[:n]))
    assert listing.cut(pack(order), max_entries, max_bytes) == want


@given(worlds, st.integers(1, 5))
def test_cuts_cover_the_listing(world: dict[bytes, Entry], step: int) -> None:
    rest = memoryview(pack(world.values()))
    found: list[Entry] = []
    while rest:
        end, n, _ = listing.cut(rest, step, 1 << 62)
        part = list(listing.entries(rest[:end]))
        assert len(part) == n
        found += part
        rest = rest[end:]
    assert found == sorted(world.values(), key=lambda e: e.name)


def test_with_fields_changes_what_it_says_and_nothing_else() -> None:
    record = listing.encode(entry())
    patched = listing.with_fields(record, verdict=Verdict.DATA, status=5, rdev=9, flags=RACY)
    (got,) = listing.entries(patched)
    assert got == entry(verdict=Verdict.DATA, status=5, rdev=9, flags=RACY)
    every = entry(
        kind=Kind.BLK,
        mode=0o1777,
        uid=3,
        gid=4,
        nlink=5,
        ino=6,
        size=7,
        mtime_s=-8,
        mtime_ns=9,
        ctime=-10,
        birth=11,
        blocks=12,
        attrs=13,
        content=b"c" * 16,
    )
    fields = {f: getattr(every, f) for f in listing._FIELDS}
    assert listing.with_fields(record, **fields) == listing.encode(every)
    with pytest.raises(KeyError):
        listing.with_fields(record, nmae=1)
    with pytest.raises(ValueError, match="status"):
        listing.with_fields(record, status=1 << 16)


def test_head_is_the_struct() -> None:
    assert listing.HEAD.size == ffi.sizeof("struct i2_entry")
    fields = dict(ffi.typeof("struct i2_entry").fields)
    for name, (at, form) in listing._FIELDS.items():
        assert (fields[name].offset, ffi.sizeof(fields[name].type)) == (at, struct.calcsize(form))
    for number in (*Kind, *Verdict):
        assert int(number) == getattr(lib, f"I2_{number.name}")


@pytest.mark.parametrize("bad", [b"", b"n" * 256])
def test_encode_refuses_names_that_do_not_fit(bad: bytes) -> None:
    with pytest.raises(ValueError, match="name"):
        listing.encode(entry(bad))


GOOD = listing.encode(entry(b"name")) + listing.encode(entry(b"other"))


def broken(at: int, form: str, value: int) -> bytes:
    bad = bytearray(GOOD)
    struct.pack_into(form, bad, at, value)
    return bytes(bad)


def named(*order: bytes) -> bytes:
    return b"".join(listing.encode(entry(n)) for n in order)


UNSOUND = {
    "cut short": GOOD[:-8],
    "cut in the head": GOOD[:64],
    "one byte": b"x",
    "length too long": broken(0, "<I", 1 << 20),
    "length not exact": broken(0, "<I", 128),
    "length zero": broken(0, "<I", 0),
    "length wraps": broken(0, "<I", 0xFFFFFFF8),
    "name empty": broken(4, "<H", 0),
    "name too long": broken(4, "<H", 256),
    "kind 0": broken(6, "<B", 0),
    "kind 8": broken(6, "<B", 8),
    "verdict 7": broken(7, "<B", 7),
    "mode": broken(8, "<I", 0o10000),
    "nanoseconds": broken(56, "<I", 1_000_000_000),
    "size": broken(32, "<Q", 1 << 63),
    "slash": named(b"a/b"),
    "nul": named(b"a\0b"),
    "dot": named(b"."),
    "dot dot": named(b".."),
    "unsorted": named(b"b", b"a"),
    "doubled": named(b"a", b"a"),
    "prefix after": named(b"aa", b"a"),
}


@pytest.mark.parametrize("bad", UNSOUND.values(), ids=UNSOUND.keys())
def test_an_unsound_listing_is_refused_everywhere(bad: bytes) -> None:
    with pytest.raises(ProtocolError):
        listing.check(bad)
    with pytest.raises(ProtocolError):
        listing.entries(bad)
    for old, now in ((bad, b""), (b"", bad), (bad, bad), (GOOD, bad)):
        with pytest.raises(ProtocolError):
            listing.diff(old, now, SMALL)
        with pytest.raises(ProtocolError):
            listing.merge(old, now)
    with pytest.raises(ProtocolError):
        listing.cut(bad, 100, 1 << 62)
    with pytest.raises(ProtocolError):
        listing.find(bad, b"zz")


@given(st.binary(max_size=300), st.integers(0, 300))
def test_noise_over_a_sound_listing_never_escapes(noise: bytes, at: int) -> None:
    bad = bytearray(GOOD)
    bad[at : at + len(noise)] = noise
    try:
        n = listing.check(bad)
    except ProtocolError:
        return
    assert len(list(listing.entries(bytes(bad)))) == n


def test_unaligned_input_is_copied() -> None:
    shifted = memoryview(b"x" + GOOD)[1:]
    assert listing.check(shifted) == 2
    assert listing.diff(shifted, GOOD, SMALL) is None


def test_a_mount_over_a_directory_hides_it() -> None:
    old = listing.encode(entry(b"d", Kind.DIR))
    mounted = listing.encode(entry(b"d", Kind.DIR, flags=MOUNT, ino=2, mode=0o700))
    assert listing.diff(old, mounted, SMALL) is None
    over_file = listing.diff(listing.encode(entry(b"d")), mounted, SMALL)
    assert over_file is not None
    (got,) = listing.entries(over_file.dirs)
    assert got.verdict is Verdict.RETYPED


def test_a_digest_says_nothing_of_holes() -> None:
    """Zeros where a hole was, or the other way round: the digest is the same."""
    for before, after, known in ((8, 16, False), (16, 8, False), (8, 8, True), (16, 24, True)):
        held = entry(size=8192, mtime_ns=5, blocks=before, content=D16[1])
        changes = listing.diff(
            listing.encode(held),
            listing.encode(held._replace(mtime_ns=6, blocks=after, content=bytes(16))),
            SMALL,
        )
        assert changes is not None
        (got,) = [*listing.entries(changes.bulk), *listing.entries(changes.large)]
        assert (got.content == D16[1]) is known


def test_a_known_content_is_not_taken_for_the_targets() -> None:
    """A digest that only the new entry knows must not tell the reader that the target holds it."""
    old = listing.encode(entry(size=10))
    changes = listing.diff(old, listing.encode(entry(size=20, content=D16[1])), SMALL)
    assert changes is not None
    (got,) = listing.entries(changes.bulk)
    assert got.content == bytes(16)
