"""What `i2node explain` tells of paths, each in another state, asked of real nodes."""

from __future__ import annotations

import os
import random
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ends import PATIENCE_S, Hosts, until
from nursery import Nursery
from scene import EACH_ENGINE, Scene

from i2node.cli import lives
from i2node.config import Config
from i2node.errors import UsageError

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]
ODD = os.fsdecode(b"new\nline \xff\xfe \xe2\x82")


def life(hosts: Hosts, path: Path, home: str = "here") -> dict[str, Any]:
    (found,) = lives.find(Config.load(hosts.homes[home]), str(path))
    return found


def says(hosts: Hosts, path: Path, words: str) -> dict[str, Any]:
    """Waits until the judgement on a path has these words."""
    last: dict[str, Any] = {}

    def told() -> bool:
        last.update(life(hosts, path))
        return words in last["judgement"]

    try:
        until(words, told)
    except AssertionError:
        raise AssertionError(f"{words!r} is not what is said: {lives.text(last)}") from None
    assert last["judgement"] in lives.text(last)
    return last


@EACH_ENGINE
def test_the_life_of_files_that_come_change_and_go(scene: Scene) -> None:
    hosts, source = scene.hosts, scene.source
    for name in ("stays", "goes", ODD, "d/below"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(b"1234")
    hosts.quiesce()
    for name in ("stays", "goes", ODD, "d/below"):
        found = says(hosts, source / name, "in sync as of")
        assert found["sent"]["walk"] and found["sent"]["durable"] >= found["sent"]["read"]
        assert found["now"]["size"] == found["held"]["size"] == 4
        assert found["now"]["mtime_ns"] == (source / name).stat().st_mtime_ns
        assert len(found["held"]["content"]) == 32 and found["held"]["attributes"]
        assert found["same"] and found["problem"] is found["queued"] is None
    for name in ("", "d"):
        assert says(hosts, source / name, "in sync as of")["held"]["kind"] == "dir"
    told = lives.text(life(hosts, source / ODD))
    assert r"new\nline \xff\xfe \xe2\x82" in told and "in frame" in told

    before = life(hosts, source / "stays")
    (source / "stays").write_bytes(b"12345678")
    (source / "goes").unlink()
    (source / ODD).rename(source / (ODD + "2"))
    (source / "d").rename(source / "e")
    hosts.quiesce()
    found = says(hosts, source / "stays", "in sync as of")
    assert found["held"]["size"] == 8 and found["held"]["content"] != before["held"]["content"]
    assert "written" in found["looked"]["by"] and not found["sent"]["walk"]
    assert before["asked"] < found["looked"]["changed"] <= found["looked"]["at"]
    assert found["looked"]["at"] <= found["sent"]["read"] <= found["sent"]["durable"]
    found = says(hosts, source / "goes", "neither here nor there")
    assert found["sent"]["gone"] and "deleted" in found["looked"]["by"]
    assert "its removal in frame" in lives.text(found)
    found = says(hosts, source / ODD, "neither here nor there")
    assert found["sent"]["gone"]
    found = says(hosts, source / (ODD + "2"), "in sync as of")
    assert not found["sent"]["gone"] and found["held"]["size"] == 4
    found = says(hosts, source / "e" / "below", "in sync as of")
    assert found["sent"]["walk"], "it was sent with the directory, which only moved since"
    says(hosts, source / "d" / "below", "neither here nor there")
    assert life(hosts, source / "never" / "there")["sent"] is None


def test_what_is_not_mirrored_says_why(scene: Scene) -> None:
    hosts, source = scene.hosts, scene.source
    (source / "left").mkdir()
    (source / "left" / "out").write_text("x")
    (source / "some.tmp").write_text("x")
    (source / "m" / "deep").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", source / "m"], check=True)
    try:
        (source / "m" / "inside").write_text("x")
        hosts.start_target()
        hosts.start_source("--exclude", "left", "--exclude", "*.tmp")
        hosts.quiesce()
        for name, by in (("left/out", "left"), ("left", "left"), ("some.tmp", "*.tmp")):
            found = says(hosts, source / name, f"left out: by the exclude {by}")
            assert found["excluded"] == by and found["held"] is None
        for name in ("m", "m/inside"):
            found = says(hosts, source / name, "left out: another file system is mounted on")
            assert found["mount"] == str(source / "m")
    finally:
        subprocess.run(["umount", source / "m"], check=True)
    with pytest.raises(UsageError, match="no rule that runs here covers it"):
        life(hosts, scene.source.parent / "elsewhere")


def test_a_link_to_the_source_is_the_source_and_a_link_in_it_is_itself(scene: Scene) -> None:
    hosts, source = scene.hosts, scene.source
    (source / "f").write_text("x")
    (source / "link").symlink_to("f")
    (hosts.place / "way").symlink_to(source)
    hosts.quiesce()
    assert says(hosts, hosts.place / "way" / "link", "in sync")["now"]["kind"] == "symlink"
    assert says(hosts, hosts.place / "way", "in sync")["path"] == str(source)


def test_a_file_written_while_the_target_is_away_waits_for_it(scene: Scene) -> None:
    hosts, source = scene.hosts, scene.source
    (source / "f").write_text("before")
    (source / "calm").write_text("calm")
    hosts.quiesce()
    hosts.relay.pause()
    (source / "f").write_text("after this")
    found = says(hosts, source / "f", "on its way: in frame")
    assert found["sent"]["durable"] is None and found["doubt"] is not None
    hosts.kill_target()
    hosts.relay.cut()
    assert not says(hosts, source / "f", "waits: for the target")["connected"]
    until("it is not lost", lambda: life(hosts, source / "f")["sent"]["lost"])
    (source / "new").write_text("more")
    found = says(hosts, source / "new", "waits: for the target")
    until("it is not heard of", lambda: life(hosts, source / "new")["queued"] is not None)
    found = life(hosts, source / "new")
    assert found["queued"]["queue"] == "memory" and found["held"] is None
    assert "waits in memory since" in lives.text(found)
    assert life(hosts, source / "calm")["judgement"].startswith("in sync as of")
    hosts.quiesce()
    assert says(hosts, source / "f", "in sync as of")["held"]["size"] == 10
    assert says(hosts, source / "new", "in sync as of")["sent"]["durable"] is not None


def test_a_file_that_the_target_cannot_take_says_what_to_do(scene: Scene) -> None:
    hosts, source = scene.hosts, scene.source
    (source / "d").mkdir()
    (source / "d" / "f").write_text("before")
    hosts.quiesce()
    over = hosts.place / "over"
    over.write_text("")
    subprocess.run(["mount", "--bind", over, scene.target / "d" / "f"], check=True)
    try:
        (source / "d" / "f").write_text("after")
        found = says(hosts, source / "d" / "f", "cannot: d/f")
        assert found["problem"]["cause"] and found["problem"]["retry"] is not None
        assert "tried again at" in lives.text(found)
    finally:
        subprocess.run(["umount", scene.target / "d" / "f"], check=True)
    hosts.quiesce()
    says(hosts, source / "d" / "f", "in sync as of")


def test_a_large_file_that_is_written_to_all_the_time(scene: Scene) -> None:
    """Each look at it is paid for with a pause; that it is left for then is said, and till when."""
    hosts, source = scene.hosts, scene.source
    large = source / "large"
    large.write_bytes(os.urandom(1 << 20) * 80)
    hosts.quiesce()
    seen: dict[str, dict[str, Any]] = {}

    def met() -> bool:
        with large.open("r+b") as file:
            file.seek(40 << 20)
            file.write(os.urandom(1 << 16))
        found = life(hosts, large)
        if found["queued"] is not None:
            due = found["queued"]["due"]
            held = due is not None and due > found["asked"]
            seen["held" if held else found["queued"]["queue"]] = found
        return "held" in seen and len(seen) > 1

    until("it is never held back", met, 2 * PATIENCE_S)
    assert "looked at next at" in seen["held"]["judgement"]
    assert seen["held"]["judgement"].startswith("waits: ")
    other = next(found for name, found in seen.items() if name != "held")
    assert other["judgement"].startswith(("on its way", "waits"))
    hosts.quiesce()
    says(hosts, large, "in sync as of")


def mess(source: Path, rng: random.Random, names: list[str]) -> None:
    """One change of many kinds; what it is about need not be there."""
    one, other = source / rng.choice(names), source / rng.choice(names)
    deed = rng.randrange(8)
    with suppress(OSError):
        if deed < 3:
            one.write_bytes(rng.randbytes(rng.choice([3, 500, 9000, 40_000])))
        elif deed == 3:
            one.unlink()
        elif deed == 4:
            one.rename(other)
        elif deed == 5:
            os.link(one, other)
        elif deed == 6:
            with one.open("r+b") as file:
                file.write(rng.randbytes(2))
        elif not other.parent.exists():
            one.parent.rename(other.parent)


@pytest.mark.parametrize("seed", range(int(os.environ.get("I2NODE_EXPLAIN_SEEDS", "1"))))
def test_in_sync_is_not_said_while_it_is_not(scene: Scene, seed: int) -> None:
    """Whatever changes, and however often the connection ends meanwhile."""
    hosts, source, rng = scene.hosts, scene.source, random.Random(seed)
    for directory in ("a", "b", "a/c"):
        (source / directory).mkdir()
    names = [f"{d}/f{i}" for d in ("a", "b", "a/c", "a2", "b2") for i in range(4)]
    hosts.quiesce()
    claims = 0
    end = time.monotonic() + float(os.environ.get("I2NODE_EXPLAIN_S", "2.5"))
    while time.monotonic() < end or not claims:
        for _ in range(rng.randrange(1, 8)):
            mess(source, rng, names)
        if rng.random() < 0.05:
            hosts.relay.cut()
        if rng.random() < 0.01:
            hosts.kill_target()
        if rng.random() < 0.1:
            hosts.start_target()
        changed = time.time()
        for name in rng.sample(names, 6):
            found = life(hosts, source / name)
            if found["verdict"] != "in sync" or found["as_of"] <= changed:
                continue
            claims += 1
            here, there = source / name, scene.target / name
            assert here.exists() == there.exists(), lives.text(found)
            same = not here.exists() or here.read_bytes() == there.read_bytes()
            assert same, lives.text(found)
    hosts.quiesce()
    for name in names:
        says(hosts, source / name, "in sync")


def test_the_target_tells_whose_a_path_is(nursery: Nursery, scene: Scene) -> None:
    hosts = scene.hosts
    (scene.source / ODD).write_text("x")
    hosts.quiesce()
    found = life(hosts, scene.target / ODD, home="there")
    assert found["kept_for"].startswith(f"{scene.source}/new")
    assert "i2node explain" in lives.text(found) and str(scene.source) in found["judgement"]
    with pytest.raises(UsageError, match="no rule is running"):
        life(hosts, hosts.outside, home="there")
