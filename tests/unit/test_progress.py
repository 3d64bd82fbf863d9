"""What a report says of the amounts: while a pass is under way, and when it is done."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from i2node.repl.census import Census
from i2node.repl.line import Flow
from i2node.repl.planner import Planner
from i2node.repl.progress import Progress


def planner(files: int, changed: int = 0) -> Planner:
    """One that has looked at so many files of ten bytes, and found so many of them changed."""
    draft = SimpleNamespace(changed_files=changed, changed_bytes=10 * changed)
    found: Any = SimpleNamespace(examined_files=files, examined_bytes=10 * files, draft=draft)
    return cast(Planner, found)


def census(files: int, complete: bool = True) -> Census:
    return cast(Census, SimpleNamespace(files=files, bytes=10 * files, complete=complete))


def flow(files: int) -> Flow:
    return Flow(
        bytes_sent=7, files_applied=files, bytes_applied=10 * files, in_flight=0, oldest=None
    )


def test_a_pass_is_done_as_far_as_it_is_applied():
    progress = Progress()
    progress.begin(census(100))
    counts = progress.counts(planner(40, changed=40), flow(30))
    assert (counts.files_done, counts.files_total, counts.progress) == (30, 100, 30.0)


def test_what_the_last_pass_found_outlasts_the_attempt():
    """Another planner has looked at nothing yet, and the census counted what is gone by now."""
    progress = Progress()
    progress.begin(census(100))
    progress.walked(planner(90, changed=90))
    progress.end(flow(90))
    for attempt in (planner(0), planner(5, changed=5)):
        counts = progress.counts(attempt, None)
        assert (counts.files_done, counts.files_total, counts.progress) == (90, 90, 100.0)
        assert (counts.bytes_done, counts.bytes_total, counts.bytes_sent) == (900, 900, 7)


def test_another_pass_is_counted_anew():
    progress = Progress()
    progress.begin(None)
    progress.walked(planner(90))
    progress.begin(None)
    counts = progress.counts(planner(40), flow(0))
    assert (counts.files_done, counts.files_total, counts.progress) == (40, 40, 99.0)


def test_what_was_sent_is_not_counted_twice_between_two_attempts():
    progress = Progress()
    progress.begin(None)
    progress.end(flow(3))
    assert progress.counts(planner(3), None).bytes_sent == 7


def test_what_is_not_counted_yet_is_told():
    progress = Progress()
    progress.begin(census(100, complete=False))
    assert progress.counts(planner(40, changed=40), flow(30)).counting
    progress.begin(census(100))
    assert not progress.counts(planner(40, changed=40), flow(30)).counting
    progress.begin(None)
    assert progress.counts(planner(40, changed=40), flow(30)).counting
    progress.walked(planner(40, changed=40))
    assert not progress.counts(planner(40, changed=40), flow(40)).counting
