"""Everything that can go wrong, drawn once.

    I2Error
    ├── Problem            this path; the session goes on
    ├── SessionError       this connection or this attempt; retried with backoff (exit 4)
    │   ├── PeerLost       connection cut, silent, or not to be had
    │   │   └── PeerLeft   its agent ended in order, and said so
    │   ├── TargetFault    the target's disk: full, read-only, failing
    │   ├── ProtocolError  the peer said what the protocol does not allow
    │   └── NoAnswer       a process of this host did not say what it was asked
    └── Halt               a person decides; never retried
        ├── UsageError     bad arguments or configuration             (exit 2)
        ├── SafetyStop     a safety rule holds: wrong root, foreign target   (exit 3)
        └── Refused        the peer does not know or does not allow us   (exit 4)

A foreign error (OSError, ssl.SSLError, ...) is translated where it enters, with the name of the
operation, and `from` the original. `cause` says what happened and to what; `remedy` what to do.
"""

import errno


class I2Error(Exception):
    """Root of the tree. `code` is stable and may be matched by scripts."""

    code = "error"
    exit_status = 1

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.cause} ({self.remedy})" if self.remedy else self.cause


class Problem(I2Error):
    """One path could not be handled; everything else goes on."""

    code = "problem"


class SessionError(I2Error):
    """The attempt failed; the next may not."""

    code = "session"
    exit_status = 4


class PeerLost(SessionError):
    """The peer cannot be reached, or went silent."""

    code = "peer-lost"


class PeerLeft(PeerLost):
    """The peer's agent was stopped, or is being restarted: it said so as it went."""


class TargetFault(SessionError):
    """The target's file system refuses to take more: full, over quota, read-only, failing."""

    code = "target-fault"


class ProtocolError(SessionError):
    """The peer sent what the protocol does not allow."""

    code = "protocol"


class NoAnswer(SessionError):
    """A process of this host, asked through its status socket, said nothing of use."""

    code = "no-answer"


class Halt(I2Error):
    """Stops until a person decides."""

    code = "halt"


class UsageError(Halt):
    """Arguments or configuration are wrong."""

    code = "usage"
    exit_status = 2


class SafetyStop(Halt):
    """Going on could destroy data."""

    code = "safety"
    exit_status = 3


class Refused(Halt):
    """The peer does not know us, or does not allow what we ask."""

    code = "refused"
    exit_status = 4


SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""The host is short of something: what was asked for may be sound, and is had a moment later."""


def still_away(before: I2Error | None, error: I2Error) -> I2Error:
    """What is to be told of a peer that cannot be had. before: what was told last. Of one that left
    in order both are: that it left, and what came of the last attempt to reach it."""
    left, again = isinstance(before, PeerLeft), isinstance(error, PeerLeft)
    if before is None or not left or again or not isinstance(error, PeerLost):
        return error
    return PeerLeft(f"{before.cause.partition('; ')[0]}; {error.cause}", before.remedy)


def of_code(code: str, cause: str, remedy: str = "") -> I2Error:
    """The error that another process told of; one of another version may be just an I2Error."""
    kinds = [I2Error]
    for kind in kinds:
        if kind.code == code:
            return kind(cause, remedy)
        kinds += kind.__subclasses__()
    return I2Error(cause, remedy)
