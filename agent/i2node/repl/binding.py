"""What ties a rule to its two roots: which directory its source is, where the target stands, and so
how much of the journal is to be relied upon."""

from __future__ import annotations

import logging
import os
import secrets
import time
from typing import Literal

from i2node import log
from i2node.errors import SafetyStop
from i2node.fs.pathset import PathSet
from i2node.fs.root import Root
from i2node.fs.tree import within
from i2node.fs.trials import cannot
from i2node.model import MirrorOptions, show
from i2node.repl.assumed import Skip
from i2node.repl.fidelity import Attribute, announce, demand, fidelity_of, heard
from i2node.repl.journal import Journal
from i2node.repl.remote import Remote
from i2node.repl.report import Fidelity

_log = logging.getLogger(__name__)


class Binding:
    """Of one rule. Making one raises SafetyStop when the source is not the directory that the rule
    mirrored before, unless the options adopt it: a rule belongs to one directory, not to whatever
    stands under its path today.

    compare: how both sides are to be compared in the next walk; "": as far as the journal says.
    assumed: what of the source was there before the rule began, and not mirrored (skip in
    MirrorOptions). last_compare: when their content was last compared in full, seconds since 1970.
    fidelity: what the target does not keep as it is; of none that is known until it was asked.
    """

    def __init__(
        self, rule: str, options: MirrorOptions, paths: PathSet, root: Root, journal: Journal
    ) -> None:
        self.rule = rule
        self.options = options
        self.paths = paths
        self.root = root
        self.journal = journal
        self.compare: Literal["", "quick", "strict"] = ""
        self.fidelity = Fidelity()
        self._attributes: tuple[Attribute, ...] = ()
        self._met = False
        bound, now = journal.get("identity"), str(root.identity).encode()
        if bound is not None and bound != now:
            if not options.adopt:
                raise SafetyStop(
                    f"{show(root.path)} is not the directory this rule mirrored before: "
                    "its file system is not mounted, or it was replaced",
                    "mount it; if it was replaced on purpose, run once with --adopt. "
                    "Nothing was deleted",
                )
            journal.wipe()
        elif not options.skip and journal.get("assumed"):
            journal.wipe()  # it is to be mirrored after all, or found to be there
        self._bind()
        self.last_compare = float(journal.get("compared") or 0) or None

    def _bind(self) -> None:
        journal, skip = self.journal, self.options.skip
        journal.set("identity", str(self.root.identity).encode())
        if skip and not self.mirrored:
            journal.set("assumed", skip.encode())
        self.assumed: Skip = skip if journal.get("assumed") else ""
        journal.commit()

    def open(self, remote: Remote, walked: bool) -> tuple[bool, dict[int, int]]:
        """Agrees with the target on where the rule stands, and decides what to compare. walked: the
        tree was compared by this process. Gives whether that still counts, and what an earlier
        session staged: id → bytes. Raises SafetyStop when the target would lose what the options
        require."""
        journal, options = self.journal, self.options
        if journal.rebuild():
            self._bind()
            walked = False
        self._examine(remote)
        tokens = [t.decode() for key in ("token", "next") if (t := journal.get(key))]
        # One that was offered and not confirmed may have been taken: it is offered until it is.
        following = tokens[-1] if len(set(tokens)) == 2 else secrets.token_hex(16)
        journal.set("next", following.encode())
        journal.commit()
        opened = remote.open(
            self.rule,
            options.target.path,
            tokens,
            following,
            adopt=options.adopt,
            owners=options.owners,
            source=f"{os.uname().nodename}:{show(self.root.path)}",
            origin=str(self.root.identity),
            path=self.root.path,
            left_out=self._left_out(options.target.path),
            whole=options.whole,
        )
        if opened.status == "fresh" and not self.assumed:
            journal.wipe()
            walked = False
        journal.set("token", following.encode())
        rebooted = opened.boot.encode() != journal.get("target_boot")
        if rebooted:
            journal.suspect_doubted()
            journal.set("target_boot", opened.boot.encode())
        self.compare = self._due(opened.status, walked, rebooted)
        self._met = True
        if self.compare:
            journal.doubt_all(self.compare)
        else:
            journal.trust()
        journal.commit()
        log.event(
            _log,
            logging.INFO,
            "session-open",
            rule=self.rule,
            target=str(options.target),
            status=opened.status,
            compare=self.compare or None,
        )
        return walked and not self.compare, opened.parts

    def _examine(self, remote: Remote) -> None:
        root, options = self.root, self.options
        missing = cannot(root.fd, root.identity.birth != 0, options.owners)
        told = remote.examine(self.rule, options.target.path, options.whole)
        found = heard(told, missing)
        demand(found, options.require, str(options.target))
        if found.untried or found.attributes == self._attributes:
            return  # of a full disk nothing is told, and it may be this rule that frees it
        announce(self.rule, found.attributes)
        self._attributes = found.attributes
        self.fidelity = fidelity_of(found.attributes)

    @property
    def mirrored(self) -> bool:
        """Whether a first pass was completed."""
        return bool(self.journal.get("mirrored"))

    def walked(self, problems: int) -> None:
        """The walk is through, and all that follows from it is durable."""
        if self.assumed and not self.mirrored:
            left = "but for its directories " if self.assumed == "files" else ""
            log.event(
                _log,
                logging.WARNING,
                "first-mirror-skipped",
                rule=self.rule,
                cause=f"what was there before {left}was not mirrored: the rule skips it",
                remedy="what of it the target lacks arrives when it changes",
            )
        if self.compare == "strict" and not (problems or self.assumed):
            self.last_compare = time.time()
            self.journal.set("compared", b"%.3f" % self.last_compare)
        self.journal.set("mirrored", b"1")
        self.journal.trust()
        self.journal.commit()

    def _due(self, status: str, walked: bool, rebooted: bool) -> Literal["", "quick", "strict"]:
        if status == "fresh":
            # Nothing of what is assumed need be there; what was sent since is asked for.
            return "quick" if self.assumed and self.mirrored else ""
        # A comparison that was interrupted is still owed.
        owed = self.journal.all_doubt
        asked = self.options.check == "strict" and not walked
        lost = status == "unknown" and (self.journal.rebuilt or not self.options.adopt)
        if asked or lost or owed == "strict":
            return "strict"
        crashed = self.journal.unclean_boot and not self._met
        if crashed and rebooted:
            # What was not durable there is no longer known here.
            return "strict"
        return "quick" if status == "unknown" or owed or crashed else ""

    def _left_out(self, target: bytes) -> bool:
        """Whether a path of this host lies in the source, and is excluded there."""
        real = os.path.realpath(target)
        return within(real, self.root.path) and self.paths.excluded(
            os.path.relpath(real, self.root.path)
        )
