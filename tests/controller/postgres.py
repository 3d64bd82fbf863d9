"""A PostgreSQL of the tests' own, from the programs of its package."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SERVER = "postgres"


@contextmanager
def cluster() -> Iterator[str]:
    """Runs one, reached through a socket in its directory; gives the URL of an empty database.
    Skips where its programs are not installed."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = str(programs[-1]) if programs else shutil.which("initdb")
    if found is None:
        pytest.skip("needs PostgreSQL's server")
    # It does not run as root, and its user may not look into root's directories.
    place = Path(tempfile.mkdtemp(prefix="i2node-pg-", dir="/var/tmp"))
    through = []
    if os.geteuid() == 0:
        shutil.chown(place, SERVER, SERVER)
        through = ["runuser", "-u", SERVER, "--"]
    data, bin_ = place / "data", Path(found).parent

    def run(*words: object) -> None:
        line = [*through, *map(str, words)]
        done = subprocess.run(line, check=False, capture_output=True, text=True, cwd=place)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"

    try:
        run(bin_ / "initdb", "-D", data, "-U", SERVER, "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-k {place} -c listen_addresses='' -c fsync=off"
        run(bin_ / "pg_ctl", "-D", data, "-o", options, "-l", place / "log", "-w", "start")
        try:
            yield f"postgresql+psycopg://{SERVER}@/postgres?host={place}"
        finally:
            run(bin_ / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(place)


@contextmanager
def emptied(url: str, name: str) -> Iterator[str]:
    """A database of this name in the cluster of another's URL, new."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.engine import make_url

    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    engine.dispose()
    yield make_url(url).set(database=name).render_as_string(hide_password=False)
