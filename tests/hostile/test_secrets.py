"""Codes, keys and what is made of them: for their owner alone, and nowhere else to be seen."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ends import free_port, until

KEY = "a secret of the rule that nobody may see"


def words(home: Path, *more: object) -> list[str]:
    # A umask of nothing: whatever is for its owner alone has to be made so.
    command = [sys.executable, "-m", "i2node", "--home", home, *more]
    return ["sh", "-c", 'umask 0; exec "$@"', "sh", *map(str, command)]


def processes() -> Iterator[bytes]:
    """The command lines and environments of all processes."""
    for place in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                yield (place / name).read_bytes()
            except OSError:
                continue


def test_no_secret_is_seen_anywhere(tmp_path: Path) -> None:
    here, there = tmp_path / "deep" / "here", tmp_path / "deep" / "there"
    source, room = tmp_path / "source", tmp_path / "room"
    log, out = tmp_path / "log", tmp_path / "out"
    source.mkdir()
    room.mkdir()
    (source / "file").write_text("content")
    key_file = tmp_path / "key"
    key_file.touch(mode=0o600)
    key_file.write_text(KEY)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    code = subprocess.run(
        words(there, "code"), capture_output=True, text=True, check=True, env=environment
    ).stdout.strip()
    subprocess.run(words(here, "code"), capture_output=True, check=True, env=environment)
    for home in (here, there):
        (home / "etc" / "i2node.toml").write_text('log_level = "debug"\n')
    seen: list[bytes] = []
    port = free_port()
    running: list[subprocess.Popen[bytes]] = []
    with log.open("wb") as told, out.open("wb") as said:
        try:
            listen = ("--listen", f"127.0.0.1:{port}", "--allow-root", room)
            agent = words(there, "agent", *listen)
            running.append(subprocess.Popen(agent, stderr=told, stdout=said, env=environment))
            until("it did not listen", lambda: b"agent-listens" in log.read_bytes())
            pair = subprocess.Popen(
                words(here, "pair", f"127.0.0.1:{port}"),
                stdin=subprocess.PIPE,
                stderr=told,
                stdout=said,
                env=environment,
            )
            running.append(pair)
            assert pair.stdin is not None
            seen += processes()
            pair.stdin.write(code.encode() + b"\n")
            pair.stdin.close()
            assert pair.wait(60) == 0
            target = f"127.0.0.1:{port}:{room}/mirror"
            mirror = words(here, "mirror", source, target, "--json", "--secret-key-file", key_file)
            running.append(subprocess.Popen(mirror, stderr=told, stdout=said, env=environment))
            until("it is not there", (room / "mirror" / "file").exists)
            seen += processes()
            status = words(here, "status", "--json")
            said.write(subprocess.run(status, capture_output=True, env=environment).stdout)
        finally:
            for child in running:
                child.terminate()
                child.wait(60)
    pems = [(home / "etc" / "identity" / "node.pem").read_text() for home in (here, there)]
    keys = ["".join(pem.splitlines()[1:4]) for pem in pems]
    own = (there / "etc" / "i2id.conf").read_text().strip().removeprefix("id=")
    assert own == code
    secrets = [code.encode(), KEY.encode(), base64.b64encode(KEY.encode())]
    secrets += [KEY.encode().hex().encode(), *(key[:40].encode() for key in keys)]
    for text in (log.read_bytes(), out.read_bytes(), *seen):
        assert not any(secret in text for secret in secrets)
    assert b" debug " in log.read_bytes() or b" info " in log.read_bytes()

    for home in (here, there):
        for path in (home, *home.rglob("*")):
            mode = stat.S_IMODE(path.lstat().st_mode)
            if path.is_dir():
                assert mode == 0o700 or not mode & 0o022, f"{path}: {mode:o}"
            else:
                assert not mode & 0o022, f"{path}: {mode:o}"
        assert stat.S_IMODE((home / "etc").stat().st_mode) == 0o700
        assert stat.S_IMODE((home / "var").stat().st_mode) == 0o700
        secret_files = [home / "etc" / "i2id.conf", *(home / "etc" / "identity").iterdir()]
        for path in (*secret_files, *(home / "etc" / "peers").iterdir()):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((tmp_path / "deep").stat().st_mode) == 0o700


def test_a_code_on_the_command_line_is_not_taken(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    asked = words(tmp_path / "home", "pair", "127.0.0.1:1", "--code", "a" * 32)
    done = subprocess.run(asked, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
