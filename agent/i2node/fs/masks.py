"""What the masks of events say happened, as touches."""

from __future__ import annotations

from i2node.fs.touch import Touch

# Plain numbers: the operators of an enum cost more than the rest of an event.
ATTR, NAME, TREE = (t.value for t in (Touch.ATTR, Touch.NAME, Touch.TREE))
MOVED, DELETED, WRITING = (t.value for t in (Touch.MOVED, Touch.DELETED, Touch.WRITING))
_DATA, _CLOSED, _UNTOLD = (t.value for t in (Touch.DATA, Touch.CLOSED, Touch.UNTOLD))

# The bits of a mask that inotify(7) and fanotify(7) have in common.
MODIFY, ATTRIB, CLOSE_WRITE = 0x2, 0x4, 0x8
FROM, TO, CREATE, DELETE = 0x40, 0x80, 0x100, 0x200
DELETE_SELF, MOVE_SELF, OVERFLOW, ISDIR = 0x400, 0x800, 0x4000, 0x40000000
NAMED = FROM | TO | CREATE | DELETE
_PLAIN = 0x400  # the masks of one name are below it, but for ISDIR


def _touch_of(mask: int) -> int:
    """What the mask of a file's name says happened to it."""
    touch = wait = 0
    if mask & CLOSE_WRITE:
        wait = _CLOSED if mask & MODIFY else _CLOSED | _UNTOLD
    elif mask & (CREATE | MODIFY):
        wait = WRITING
    if mask & NAMED:
        touch = NAME | wait
    if mask & DELETE:
        touch |= DELETED
    if mask & (MODIFY | CLOSE_WRITE):
        touch |= _DATA | wait
    if mask & ATTRIB:
        touch |= ATTR
    return touch


_TOUCHES = tuple(map(_touch_of, range(_PLAIN)))


def touch_of(mask: int) -> int:
    """What the mask of an event says happened to the name that it tells. A directory is not open
    for writing, whoever makes it; what is below it is for the engine to say."""
    touch = _TOUCHES[mask & (_PLAIN - 1)]
    return touch & ~WRITING if mask & ISDIR else touch
