"""Writes what each package has of the bundled Python: file_lists.py BUILDROOT SITE AGENT OUT

AGENT is a directory with what the agent needs; what is in BUILDROOT/SITE beyond that is the
controller's, and so is i2node.controller. Writes OUT/agent.files and OUT/controller.files, as
%files takes them: a directory alone (%dir), a file by its name.
"""

import sys
from pathlib import Path


def source_of(path: Path) -> Path:
    """What a path is there for: the source of a compiled file, the package of their directory."""
    if path.name == "__pycache__":
        return path.parent
    if path.parent.name == "__pycache__":
        return path.parent.parent / f"{path.name.split('.')[0]}.py"
    return path


def is_agents(path: Path, agent: Path) -> bool:
    """Whether the agent needs it; path is below the site directory."""
    source = source_of(path)
    return not source.is_relative_to("i2node/controller") and (agent / source).exists()


def main(root: str, site: str, agent: str, out: str) -> None:
    """The lists, sorted."""
    place = Path(root + site)
    lines: dict[bool, list[str]] = {True: [], False: []}
    for path in sorted(place.rglob("*")):
        below = path.relative_to(place)
        word = "%dir " if path.is_dir() else ""
        lines[is_agents(below, Path(agent))].append(f'{word}"{site}/{below}"\n')
    for whose, name in ((True, "agent"), (False, "controller")):
        Path(out, f"{name}.files").write_text("".join(lines[whose]))


if __name__ == "__main__":
    main(*sys.argv[1:])
