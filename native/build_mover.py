"""Builds i2node.mover._mover with cffi in API mode from mover.h and src/*.c."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent


def cdef() -> str:
    """The part of mover.h that cffi reads."""
    text = (HERE / "include" / "mover.h").read_text()
    return text.split("/* cdef begin */", 1)[1].split("/* cdef end */", 1)[0]


ffi = FFI()
ffi.cdef(cdef())
ffi.set_source(
    "i2node.mover._mover",
    '#include "mover.h"',
    include_dirs=["native/include", "native/src"],
    sources=sorted(f"native/src/{p.name}" for p in (HERE / "src").glob("*.c")),
    depends=sorted(f"native/{p.parent.name}/{p.name}" for p in HERE.glob("*/*.h")),
    extra_compile_args=["-O3", "-std=gnu11", "-Wall", "-Wextra", "-fvisibility=hidden", "-pthread"],
    extra_link_args=["-pthread"],
)
