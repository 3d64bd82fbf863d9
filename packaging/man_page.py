"""Prints i2node.toml(5), made from the sample configuration: man_page.py FILE

In the sample each `#key = default` follows the comment that tells of it; a comment `--- word ---`
begins a section.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

HEAD = r""".TH I2NODE.TOML 5 "" "i2node" "File formats"
.SH NAME
i2node.toml \- configuration of an i2node agent
.SH SYNOPSIS
.I /etc/sdata/i2node.toml
.SH DESCRIPTION
"""
FOOT = r""".SH FILES
.TP
.I /etc/sdata/i2port.conf
The port alone, as
.BR "port = 26821" ;
listen_port in i2node.toml wins over it.
.TP
.I /etc/sdata/i2id.conf
The node's pairing code, as
.BR id= .
.SH SEE ALSO
.BR i2node (1)
"""
_SECTION = re.compile(r"# --- (.*?) -*")
_KEY = re.compile(r"#([a-z_]+) = (.*)")


def escaped(text: str) -> str:
    """A line of text as roff shows it; one that begins with a control character is no request."""
    safe = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")
    return r"\&" + safe if safe.startswith(".") else safe


def page(sample: str) -> Iterator[str]:
    """Lines of roff for those of the sample."""
    told: list[str] = []
    for line in sample.splitlines()[1:]:
        if section := _SECTION.fullmatch(line):
            yield f".SH {section[1].upper()}"
        elif key := _KEY.fullmatch(line):
            if told:
                yield from told
                told = []
            yield ".RS"
            yield rf"\fB{key[1]} = {escaped(key[2])}\fR"
            yield ".RE"
        elif line.startswith("#"):
            told.append(escaped(line[1:].strip()) or ".PP")
        elif told:
            yield from (*told, ".PP")
            told = []
        else:
            yield ".PP"


if __name__ == "__main__":
    print(HEAD + "\n".join(page(Path(sys.argv[1]).read_text("utf-8"))) + "\n" + FOOT, end="")
