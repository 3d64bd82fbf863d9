"""An older kernel: runs a function in a child that is refused chosen system calls (seccomp)."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import traceback
from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _EQUAL, _AND, _RETURN = 0x20, 0x15, 0x54, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000

SYSCALLS = {  # x86_64
    "ioctl": 16,
    "fcntl": 72,
    "linkat": 265,
    "openat": 257,
    "fallocate": 285,
    "open_by_handle_at": 304,
    "renameat2": 316,
    "copy_file_range": 326,
    "statx": 332,
    "openat2": 437,
}

Refusal = tuple[str, int, int | None, int]
"""Name, errno, the argument looked at (None: any) and the bits that must all be set in it."""


def _program(refusals: list[Refusal]) -> bytes:
    code = []
    for name, error, argument, bits in refusals:
        body = []
        if argument is not None:
            body += [(_LOAD, 0, 0, 16 + 8 * argument), (_AND, 0, 0, bits), (_EQUAL, 0, 1, bits)]
        body += [(_RETURN, 0, 0, _ERRNO | error)]
        code += [(_LOAD, 0, 0, 0), (_EQUAL, 0, len(body), SYSCALLS[name])]
        code += body
    code += [(_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("<HBBI", *line) for line in code)


def without(refusals: list[Refusal], work: Callable[[], None]) -> None:
    """Runs `work` in a child; fails when it raises or dies."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            program = _program(refusals)
            kept = ctypes.create_string_buffer(program)
            head = struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(kept))
            assert LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            assert LIBC.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.c_char_p(head), 0, 0) == 0
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
