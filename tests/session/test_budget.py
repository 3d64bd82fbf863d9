"""What a rule may lose, kept in a record: in-process, with a real tree and a real record."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from i2node.config import Limits
from i2node.errors import SafetyStop, SessionError, UsageError
from i2node.fs.tree import TargetTree
from i2node.mover import batch
from i2node.mover.batch import Op, step
from i2node.repl import budget as budgets
from i2node.repl.budget import Budget, Budgets, count
from i2node.repl.ledger import Ledger

RULE = "0123456789abcdef"
LIMITS = Limits(floor=10, share=25.0, window_s=3600.0)
FILES = 100


@contextmanager
def planted(place: Path) -> Iterator[TargetTree]:
    """A tree of so many files, half of them in a directory, and that."""
    root = place / "root"
    (root / "d").mkdir(parents=True)
    for n in range(FILES):
        (root / ("d" if n % 2 else "") / f"f{n}").touch()
    tree = TargetTree(os.fsencode(root), RULE, place / "state", [place])
    try:
        yield tree
    finally:
        tree.close()


def serving(place: Path, tree: TargetTree, limits: Limits = LIMITS) -> tuple[Budgets, Budget]:
    ledger = Ledger(place / "targets")
    ledger.directory.mkdir(exist_ok=True)
    served = Budgets(ledger, lambda rule, root: limits)
    budget = served.open(RULE, "wk:/source", tree, fresh=False)
    if not budget.known:
        budget.counted(count(tree, lambda: False))
    return served, budget


def remove(*names: str) -> list[bytes]:
    return [step(Op.REMOVE, os.fsencode(name)) for name in names]


def apply(tree: TargetTree, budget: Budget, steps: list[bytes]) -> bool:
    """As the receiver does; False: held back."""
    while steps:
        done = batch.apply(tree.root.fd, tree.stage(), b"".join(steps), spare=budget.spare())
        budget.used(done)
        steps = steps[done.done :]
        if steps and not budget.grant(done.wanted):
            budget.hold_back(done.wanted, "a step")
            return False
    return True


def held(tree: TargetTree) -> int:
    return count(tree, lambda: False)


names = [f"d/f{n}" if n % 2 else f"f{n}" for n in range(FILES)]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(1, 12), st.sampled_from(["", "checkpoint", "kill"]))))
def test_whenever_it_is_killed_no_more_goes_than_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: list[tuple[int, str]]
) -> None:
    monkeypatch.setattr(budgets, "LEASE", 2)  # less than all that may go
    place = Path(tempfile.mkdtemp(dir=tmp_path))
    with planted(place) as tree:
        _, budget = serving(place, tree)
        left = list(names)
        for many, then in turns:
            mine, left = left[:many], left[many:]
            apply(tree, budget, remove(*mine))
            if then == "checkpoint":
                budget.checkpoint()
            if then == "kill":
                _, budget = serving(place, tree)
        assert held(tree) >= (FILES + 1) - (FILES + 1) // 4
    shutil.rmtree(place)


def test_what_goes_little_by_little_is_written_down_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "LEASE", 4)
    left = list(names)
    with planted(tmp_path) as tree:
        for _ in range(4):
            _, budget = serving(tmp_path, tree)
            for _ in range(6):
                apply(tree, budget, remove(*(left.pop() for _ in range(3))))
        assert held(tree) >= (FILES + 1) - (FILES + 1) // 4


def test_a_release_lifts_the_brake_and_outlasts_a_kill(tmp_path: Path) -> None:
    with planted(tmp_path) as tree:
        served, budget = serving(tmp_path, tree)
        woken: list[bool] = []
        budget.wake = lambda: woken.append(True)
        assert not apply(tree, budget, remove(*names)) and not budget.decided
        assert held(tree) == 101 - 25 and budget.report().phase == "held"
        assert "a step would take at least 1 of 76 entries away, 25 went" in budget.report().cause
        budget.release()
        assert woken and budget.decided
        served, budget = serving(tmp_path, tree)
        assert apply(tree, budget, remove(*names[:60])) and held(tree) == 41
        assert budget.report().phase == "released"
        budget.quiet()  # too soon: more of it may follow
        assert apply(tree, budget, remove(*names[60:80])) and held(tree) == 21
        served.close(RULE, ended=True)
        # Over: of what is left may go what may always go.
        served, budget = serving(tmp_path, tree)
        assert not apply(tree, budget, remove(*names)) and held(tree) == 11


def test_a_refusal_stops_and_the_next_session_asks_again(tmp_path: Path) -> None:
    with planted(tmp_path) as tree:
        served, budget = serving(tmp_path, tree)
        for decide in (budget.release, budget.refuse):
            with pytest.raises(UsageError, match="holds nothing back"):
                decide()
        assert not apply(tree, budget, remove(*names))
        budget.refuse()
        with pytest.raises(SafetyStop, match="refused on"):
            budget.hold_back(1, "a step")
        served.close(RULE, ended=False)
        _, budget = serving(tmp_path, tree)
        assert not apply(tree, budget, remove(*names)) and not budget.decided
        assert held(tree) == 101 - 25


@pytest.mark.parametrize("released", [True, False])
def test_what_a_kill_left_unwritten_is_counted(tmp_path: Path, released: bool) -> None:
    """What is allowed is a share of what the tree holds, not of what it held before the burst."""
    with planted(tmp_path) as tree:
        served, budget = serving(tmp_path, tree)
        if released:
            assert not apply(tree, budget, remove(*names))
            budget.release()
        assert apply(tree, budget, remove(*names[:90] if released else names[:20]))
        ledger = Ledger(tmp_path / "targets")
        killed = Budgets(ledger, lambda rule, root: LIMITS).open(RULE, "wk:/source", tree, False)
        assert not killed.known and killed.report().phase == "count"
        killed.close(ended=False)
        _, killed = serving(tmp_path, tree)
        assert killed.report().files_total == held(tree)
        assert killed.decided == released, "a count decides nothing"
        served.close(RULE, ended=True)
        again = Budgets(ledger, lambda rule, root: LIMITS).open(RULE, "wk:/source", tree, False)
        assert again.known, "what was closed in order is not counted again"


@pytest.mark.parametrize("first", ["release", "refuse"])
def test_who_decides_first_has_decided(tmp_path: Path, first: str) -> None:
    with planted(tmp_path) as tree:
        _, budget = serving(tmp_path, tree)
        assert not apply(tree, budget, remove(*names))
        getattr(budget, first)()
        for again in (budget.release, budget.refuse):
            with pytest.raises(UsageError, match=f"was {first}d a moment ago"):
                again()
        assert budget.grant(1) == (first == "release")


def test_a_release_that_cannot_be_written_down_is_none(tmp_path: Path) -> None:
    with planted(tmp_path) as tree:
        _, budget = serving(tmp_path, tree)
        assert not apply(tree, budget, remove(*names))
        (tmp_path / "targets").rename(tmp_path / "away")
        with pytest.raises(SessionError, match="cannot write"):
            budget.release()
        (tmp_path / "away").rename(tmp_path / "targets")
        assert not budget.decided and not budget.grant(1)


def test_what_is_damaged_or_of_another_tree_is_counted(tmp_path: Path) -> None:
    with planted(tmp_path) as tree:
        serving(tmp_path, tree)
        (record,) = (tmp_path / "targets").glob("*.brake")
        for text in ("", "{}", "[]", '{"brake": {"entries": 3}}', "null"):
            record.write_text(text)
            _, budget = serving(tmp_path, tree)
            assert budget.report().files_total == 101


def test_a_root_that_goes_to_another_place_and_back_finds_its_brake_again(tmp_path: Path) -> None:
    """As a source could have it: with --adopt, under another name, and back."""
    with planted(tmp_path) as tree:
        served, budget = serving(tmp_path, tree)
        assert not apply(tree, budget, remove(*names))
        served.close(RULE, ended=True)
        os.rename(tree.root.path, tree.root.path + b" elsewhere")
        (tmp_path / "root").mkdir()
        with_other = TargetTree(
            os.fsencode(tmp_path / "root"), RULE, tmp_path / "state", [tmp_path]
        )
        served, budget = serving(tmp_path, with_other)
        assert budget.report().files_total == 0
        served.close(RULE, ended=True)
        with_other.close()
        (tmp_path / "root").rmdir()
        os.rename(tree.root.path + b" elsewhere", tree.root.path)
        _, budget = serving(tmp_path, tree)
        assert not apply(tree, budget, remove(*names))
        assert held(tree) == 101 - 25


def test_a_record_of_another_boot_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with planted(tmp_path) as tree:
        served, budget = serving(tmp_path, tree)
        assert apply(tree, budget, remove(*names[:20]))
        served.close(RULE, ended=True)
        monkeypatch.setattr(budgets, "boot_id", lambda: "another")
        now = budgets._now() - 1_000_000
        monkeypatch.setattr(budgets, "_now", lambda: now)
        _, budget = serving(tmp_path, tree)
        assert not apply(tree, budget, remove(*names)) and held(tree) == 101 - 25
        now += LIMITS.window_s + 60
        monkeypatch.setattr(budgets, "_now", lambda: now)
        assert not budget.grant(1), "time releases nothing"


def test_a_window_that_is_over_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with planted(tmp_path) as tree:
        served, budget = serving(tmp_path, tree)
        assert apply(tree, budget, remove(*names[:25]))
        served.close(RULE, ended=True)
        now = budgets._now() + LIMITS.window_s + 60
        monkeypatch.setattr(budgets, "_now", lambda: now)
        _, budget = serving(tmp_path, tree)
        assert apply(tree, budget, remove(*names[25:44]))
        assert not apply(tree, budget, remove(*names[44:45]))


def test_a_record_that_cannot_be_written_is_an_error_of_the_session(tmp_path: Path) -> None:
    with planted(tmp_path) as tree:
        _, budget = serving(tmp_path, tree)
        shutil.rmtree(tmp_path / "targets")
        with pytest.raises(SessionError, match="cannot write"):
            apply(tree, budget, remove(*names))
        assert held(tree) == 101, "what may be lost is written down first"


def test_the_record_is_private_and_plain(tmp_path: Path) -> None:
    with planted(tmp_path) as tree:
        served, budget = serving(tmp_path, tree)
        apply(tree, budget, remove(*names[:3]))
        served.close(RULE, ended=True)
        (record,) = (tmp_path / "targets").iterdir()
        assert record.stat().st_mode & 0o777 == 0o600
        assert json.loads(record.read_text())["brake"]["entries"] == 98
