"""Prints what the packages bundle and what builds them, as pyproject.toml names it, a line each."""

import tomllib
from pathlib import Path

with (Path(__file__).parents[1] / "pyproject.toml").open("rb") as file:
    _whole = tomllib.load(file)
project = _whole["project"]

if __name__ == "__main__":
    named = _whole["build-system"]["requires"] + project["dependencies"]
    named += project["optional-dependencies"]["controller"]
    print("\n".join(sorted({*named, "wheel"})))
