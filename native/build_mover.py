"""Builds i2node.mover._mover with cffi in API mode from the headers in include and src/*.c."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
HEADERS = ("mover.h", "shelf.h", "writers.h")


def cdef() -> str:
    """The parts of the headers that cffi reads."""
    texts = ((HERE / "include" / name).read_text() for name in HEADERS)
    return "".join(t.split("/* cdef begin */", 1)[1].split("/* cdef end */", 1)[0] for t in texts)


ffi = FFI()
ffi.cdef(cdef())
ffi.set_source(
    "i2node.mover._mover",
    "".join(f'#include "{name}"\n' for name in HEADERS),
    include_dirs=["native/include", "native/src"],
    sources=sorted(f"native/src/{p.name}" for p in (HERE / "src").glob("*.c")),
    depends=sorted(f"native/{p.parent.name}/{p.name}" for p in HERE.glob("*/*.h")),
    extra_compile_args=["-O3", "-std=gnu11", "-Wall", "-Wextra", "-fvisibility=hidden", "-pthread"],
    extra_link_args=["-pthread"],
)
