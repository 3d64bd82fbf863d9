"""The sessions of a charge, one for each of its parts, from when they begin until they end."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from i2node import log
from i2node.config import Config
from i2node.errors import I2Error, SessionError
from i2node.fs.tree import within
from i2node.model import MirrorOptions, State, Target, Whole
from i2node.net.identity import Identity
from i2node.orders import Charge, Part, Run
from i2node.repl.report import Outcome, RuleReport
from i2node.repl.rules import is_rule, place_of, rule_home, rule_id
from i2node.repl.session import Session

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Tools:
    """What every charge of a node works with. config: for what begins from now on. told: called
    when there is something new to tell. stamps: the newest of the runs below a base of a peer; to
    be used with `beginning`."""

    config: Config
    identity: Identity
    told: Callable[[], None]
    stamps: dict[tuple[str, str], str] = field(default_factory=dict)
    beginning: threading.Lock = field(default_factory=threading.Lock)


def options_of(tools: Tools, charge: Charge, stamp: str, once: bool) -> tuple[MirrorOptions, ...]:
    """What each part's session is to do. Sources that nest are left out of each other, so that each
    part is mirrored once; so is what the agent itself works with: it changes while it is mirrored,
    and holds keys."""
    own = [os.path.realpath(bytes(path)) for path in (tools.config.etc, tools.config.var)]
    base = f"{charge.base.rstrip('/')}/{stamp}" if charge.base else ""
    sources = [_real(part) for part in charge.parts]
    made = [
        _options(charge, source, part, base, once, _inner(source, sources + own))
        for part, source in zip(charge.parts, sources, strict=True)
    ]
    rows = tuple((rule_of(tools.identity.node_id, one), one.target.path) for one in made)
    whole = Whole(charge.rule, rows)
    return tuple(replace(one, whole=whole) for one in made)


def _options(
    charge: Charge, source: bytes, part: Part, base: str, once: bool, inner: tuple[bytes, ...]
) -> MirrorOptions:
    target = os.fsencode(base) + source.rstrip(b"/") if base else os.fsencode(part.target)
    return MirrorOptions(
        source=Path(os.fsdecode(source)),
        target=Target(charge.host, charge.port, target.rstrip(b"/") or b"/"),
        once=once,
        excludes=(*map(os.fsencode, charge.excludes), *inner),
        check=charge.check,
        owners=charge.owners,
        skip=charge.skip,
        compress=charge.compress,
        encrypt=charge.encrypt,
        secret_key=charge.secret_key.encode() or None,
        bwlimit=charge.bwlimit,
        peer=charge.peer,
        strict_source=charge.strict_source,
    )


def _real(part: Part) -> bytes:
    return os.path.realpath(os.fsencode(part.source))


def _inner(source: bytes, sources: list[bytes]) -> tuple[bytes, ...]:
    return tuple(other for other in sources if other != source and within(other, source))


def rule_of(node: str, options: MirrorOptions) -> str:
    """The name of the rule that a session with these options has."""
    return rule_id(node, os.fsencode(options.source), place_of(options))


def names_of(tools: Tools, charge: Charge, stamp: str) -> tuple[str, ...]:
    """The names of the rules that its sessions have."""
    node = tools.identity.node_id
    return tuple(rule_of(node, one) for one in options_of(tools, charge, stamp, once=False))


def forget(tools: Tools, rules: Iterable[str]) -> None:
    """Removes what sessions keep of themselves. Without it the target's content is compared when
    they begin once more; nothing else is lost."""
    for rule in rules:
        if is_rule(rule):
            shutil.rmtree(rule_home(tools.config.var, rule), ignore_errors=True)


class _Sitting:
    """One session in a thread of its own."""

    def __init__(self, tools: Tools, options: MirrorOptions, over: Callable[[], None]) -> None:
        """UsageError when the options make no session."""
        self.session = Session(tools.config, options, tools.identity)
        self.session.on_state = tools.told
        self.outcome: Outcome | None = None
        self.error: I2Error | None = None
        self.done = False
        self._over = over
        self.thread = threading.Thread(target=self._run, name="session", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.outcome = self.session.run()
        except I2Error as error:
            self.error = error
        except Exception as error:
            rule = self.session.rule
            log.event(_log, logging.ERROR, "session-failed", rule=rule, error=repr(error))
            self.error = SessionError(f"the session failed: {error!r}", "see the agent's log")
        finally:
            self.done = True
            self._over()


class Stint:
    """All sessions of a charge. The first that cannot go on ends the others."""

    def __init__(
        self,
        tools: Tools,
        charge: Charge,
        stamp: str,
        once: bool,
        over: Callable[[], None],
    ) -> None:
        """over: called when a session has ended. UsageError when one cannot be made; then none
        runs on."""
        self.charge = charge
        self.stamp = stamp
        self.once = once
        self.began = time.time()
        self._sittings: list[_Sitting] = []
        try:
            for options in options_of(tools, charge, stamp, once):
                self._sittings.append(_Sitting(tools, options, over))
        except BaseException:
            self.stop()
            self.join()
            raise

    def fits(self, charge: Charge, stamp: str, once: bool) -> bool:
        """Whether it does what this charge wants, save for the rate."""
        return (stamp, once) == (self.stamp, self.once) and _work(charge) == _work(self.charge)

    def limit(self, plan: str) -> None:
        """Another bandwidth plan holds from now on."""
        for sitting in self._sittings:
            sitting.session.limit(plan)

    def stop(self) -> None:
        """Asks all to bring what is under way to the target and to end."""
        for sitting in self._sittings:
            sitting.session.stop()

    def join(self) -> None:
        """Waits until all have ended."""
        for sitting in self._sittings:
            sitting.thread.join()

    @property
    def over(self) -> bool:
        """Whether all have ended."""
        return all(sitting.done for sitting in self._sittings)

    @property
    def error(self) -> I2Error | None:
        """Why one of them could not go on."""
        return next((s.error for s in self._sittings if s.error is not None), None)

    @property
    def sessions(self) -> tuple[Session, ...]:
        """One for each part."""
        return tuple(sitting.session for sitting in self._sittings)

    @property
    def live(self) -> bool:
        """Whether all of them replicate."""
        return all(report.state is State.REPLICATION for report in self.reports())

    @property
    def durable_as_of(self) -> float:
        """Moment up to which all of them have every change durable at the target, as far as the
        kernel told of it; seconds since 1970, 0: not known."""
        return min((report.durable_as_of or 0.0 for report in self.reports()), default=0.0)

    def reports(self) -> tuple[RuleReport, ...]:
        return tuple(sitting.session.report() for sitting in self._sittings)

    def explain(self, path: bytes) -> dict[str, object] | None:
        """As Session.explain, of the innermost part that has the path."""
        found = [life for s in self._sittings if (life := s.session.explain(path)) is not None]
        return max(found, key=lambda life: len(life["source"]), default=None)

    def pass_of(self, began: float) -> Run:
        """What came of it, once it is over."""
        outcomes = [s.outcome for s in self._sittings if s.outcome is not None]
        error = self.error
        return Run(
            stamp=self.stamp,
            began=began,
            ended=time.time(),
            files=sum(one.files for one in outcomes),
            changed=sum(one.changed for one in outcomes),
            bytes_read=sum(one.bytes_read for one in outcomes),
            bytes_sent=sum(one.bytes_sent for one in outcomes),
            problems=sum(one.problem_count for one in outcomes),
            error=error.code if error else "",
            cause=error.cause if error else "",
        )


def _work(charge: Charge) -> Charge:
    """What its sessions depend on."""
    rest = replace(charge, comparing=None, copying=None)
    return replace(rest, version="", name="", bwlimit="", plan=None, before="", after="", run=0)
