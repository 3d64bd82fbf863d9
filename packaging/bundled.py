"""Prints what each package bundles, as macros of the spec: bundled.py WHEELS

WHEELS is a directory with all of it. i2_agent and i2_controller name each distribution that pip
takes from there for this Python, as NAME==VERSION; the controller's has what it needs beyond the
agent. i2_agent_license and i2_controller_license are the licenses of all that, and i2node's own, as
SPDX has them.
"""

import json
import re
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from needed import project


def resolved(wheels: str, named: list[str]) -> dict[str, str]:
    """What pip installs for these requirements, names as PEP 503 has them: its license."""
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "install"]
    where = ["--no-index", "--find-links", wheels, "--ignore-installed"]
    words = [*pip, *where, "--dry-run", "--report", "-", *named]
    found = {}
    for one in json.loads(subprocess.check_output(words))["install"]:
        told = metadata(Path(unquote(urlsplit(one["download_info"]["url"]).path)))
        name = re.sub("[-_.]+", "-", told["Name"]).lower()
        found[f"{name}=={told['Version']}"] = license_of(told)
    return found


def metadata(wheel: Path) -> Message:
    """What it says of itself."""
    with zipfile.ZipFile(wheel) as content:
        name = next(n for n in content.namelist() if n.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(content.read(name).decode())


def license_of(told: Message) -> str:
    """As SPDX has it; LicenseRef-NAME where only a text says what it is."""
    if expression := told["License-Expression"]:
        return f"({expression})" if " OR " in expression else expression
    if "License :: OSI Approved :: MIT License" in told.get_all("Classifier", []):
        return "MIT"
    return f"LicenseRef-{told['Name']}"


def main(wheels: str) -> None:
    """The macros."""
    agent = resolved(wheels, project["dependencies"])
    both = project["dependencies"] + project["optional-dependencies"]["controller"]
    controller = {one: of for one, of in resolved(wheels, both).items() if one not in agent}
    for name, which in (("agent", agent), ("controller", controller)):
        print(f"%global i2_{name}", *sorted(which))
        print(
            f"%global i2_{name}_license",
            " AND ".join(sorted({project["license"], *which.values()})),
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
