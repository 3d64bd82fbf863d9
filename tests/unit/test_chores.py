"""When what is done beside the replication is due, and how it is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

from i2node.errors import SessionError
from i2node.model import State
from i2node.node import chores
from i2node.node.diary import NOTES, Diary
from i2node.node.govern import recent
from i2node.orders import Comparing, Copying, Note, Standing
from i2node.repl.compare import Comparison, Difference, Tally
from i2node.schedule import Every, Plan, Slot

HOUR = 3600
NOON = datetime(2026, 3, 2, 12, 0).timestamp()


def test_trees_are_compared_at_the_times_of_the_plan() -> None:
    wanted = Comparing(plan=Plan(slots=(Slot(every=Every.DAY, times=(3 * 60, 15 * 60)),)))
    assert chores.comparison_due(wanted, NOON) == NOON + 3 * HOUR
    assert chores.comparison_due(wanted, NOON + 3 * HOUR) == NOON + 15 * HOUR
    assert chores.comparison_due(Comparing(plan=Plan()), NOON) is None


def test_copies_are_due_every_so_often_and_missed_ones_are_made_up_for_once() -> None:
    at_once, later = Copying(every_s=HOUR), Copying(every_s=HOUR, start=int(NOON))
    assert chores.copy_due(at_once, None) == 0.0, "as soon as there is something to copy"
    assert chores.copied(at_once, 0.0, NOON + 7) == NOON + 7
    assert chores.copy_due(at_once, NOON + 7) == NOON + 7 + HOUR
    assert chores.copy_due(later, None) == NOON
    assert chores.copy_due(later, NOON - 9 * HOUR) == NOON, "it was put off"
    assert chores.copied(later, NOON, NOON + 30) == NOON, "they keep to their times"
    missed = NOON + 5 * HOUR + 30
    assert chores.copied(later, NOON + HOUR, missed) == NOON + 5 * HOUR
    assert chores.copy_due(later, NOON + 5 * HOUR) == NOON + 6 * HOUR


def test_what_came_of_a_comparison_is_told_with_numbers_and_names() -> None:
    same = Comparison(Tally(directories=3, files=4, equal=6), [])
    told = chores.compared([(b"/srv", same), (b"/etc", same)], strict=False, took_s=2.4)
    assert told.sound and told.what == "compare"
    assert told.text == "source and target are equal, by size and times, in 2 s: 12 equal"
    differences = [Difference(b"%d" % n, "size", "") for n in range(12)]
    differences += [Difference(b"0", "mtime", "")]
    other = Comparison(Tally(equal=1, different=12), differences)
    told = chores.compared([(b"/srv", same), (b"/", other)], strict=True, took_s=0)
    numbers = "7 equal, 12 different, 0 missing, 0 extra"
    start = (
        f"source and target differ, by content, in 0 s: {numbers}: /0 (size, mtime), /1 (size), "
    )
    assert not told.sound and told.text.startswith(start)
    assert told.text.endswith("/9 (size), ...")
    error = chores.failed("compare", SessionError("it is away", "wait"))
    assert (error.sound, error.error) == (False, "session")
    assert error.text == "not compared: it is away (wait)"


def test_the_diary_outlives_the_agent_and_each_note_has_a_moment_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "charges" / "rule.diary.json"
    diary = Diary(file)
    assert diary.done("copy") is None
    for n in range(NOTES + 1):
        diary.add(Note(at=5.0, what="copy", text=str(n)), done=float(n))
    diary.mark("compare", 7.0)
    again = Diary(file)
    assert again.notes == diary.notes and [n.text for n in again.notes][-1] == str(NOTES)
    assert len({note.at for note in again.notes}) == NOTES
    assert (again.done("copy"), again.done("compare")) == (float(NOTES), 7.0)
    again.mark("compare", None)
    assert Diary(file).done("compare") is None
    file.write_text("[")
    assert Diary(file).notes == ()


def test_notes_of_long_ago_are_not_told_for_ever() -> None:
    notes = tuple(Note(at=at, what="copy", text="") for at in (1.0, 5.0, 9.0))
    stands = Standing(rule="r", version="", run=1, state=State.REPLICATION, since=0.0, notes=notes)
    assert recent(stands, 0.0) == stands
    assert recent(stands, 5.0).notes == notes[1:]
    assert recent(stands, 10.0).notes == notes[2:], "it tells that there is none newer"
    bare = replace(stands, notes=())
    assert recent(bare, 0.0) == bare
