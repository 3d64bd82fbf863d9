"""Finds out what each package bundles: bundled.py WHEELS

WHEELS is a directory with all of it. Writes WHEELS/agent and WHEELS/controller, a line
NAME==VERSION for each distribution that pip takes from there for this Python; the controller's has
what it needs beyond the agent.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from needed import project


def resolved(wheels: str, named: list[str]) -> set[str]:
    """What pip installs for these requirements; names as PEP 503 has them."""
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "install"]
    where = ["--no-index", "--find-links", wheels, "--ignore-installed"]
    words = [*pip, *where, "--dry-run", "--report", "-", *named]
    found = json.loads(subprocess.check_output(words))["install"]
    each = [one["metadata"] for one in found]
    return {f"{re.sub('[-_.]+', '-', one['name']).lower()}=={one['version']}" for one in each}


def main(wheels: str) -> None:
    """Both lists, sorted."""
    agent = project["dependencies"]
    mine = resolved(wheels, agent)
    both = resolved(wheels, agent + project["optional-dependencies"]["controller"])
    for name, which in (("agent", mine), ("controller", both - mine)):
        Path(wheels, name).write_text("".join(f"{one}\n" for one in sorted(which)))


if __name__ == "__main__":
    main(*sys.argv[1:])
