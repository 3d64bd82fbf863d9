"""Prints what the packages bundle and what builds them, as pyproject.toml names it, a line each."""

import tomllib
from pathlib import Path

with (Path(__file__).parents[1] / "pyproject.toml").open("rb") as file:
    project = tomllib.load(file)
named = project["build-system"]["requires"] + project["project"]["dependencies"]
named += project["project"]["optional-dependencies"]["controller"]
print("\n".join(sorted({*named, "wheel"})))
