"""A rule that protects `/`: the agent's root is a small file system of its own, with what a server
has mounted below it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from console import Console
from field import FSP, Agent, Sdk, agents, until

import i2node
from disks import disk

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]

PLAIN = ("etc", "home/user", "var/log", "tmp", "proc", "dev", "run", "boot", "srv/other", "opt")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Path]:
    """The root of a server: ext4, with /boot on another, /proc, and a mount that no rule names."""
    (tmp_path / "disk-of-boot").mkdir()
    with ExitStack() as held:
        root = held.enter_context(disk("ext4", tmp_path, mib=64))
        boot = held.enter_context(disk("ext4", tmp_path / "disk-of-boot", mib=32))
        for name in PLAIN:
            (root / name).mkdir(parents=True, exist_ok=True)
        (boot / "vmlinuz").write_bytes(b"kernel" * 1000)
        _mount(held, root / "boot", "--bind", str(boot))
        _mount(held, root / "proc", "-t", "proc", "proc")
        _mount(held, root / "dev", "--bind", "/dev")
        _mount(held, root / "srv/other", "-t", "tmpfs", "tmpfs")
        (root / "srv/other/file").write_text("of another file system\n")
        (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
        (root / "etc/motd").symlink_to("passwd")
        (root / "home/user/letter").write_text("dear\n")
        (root / "var/log/messages").write_text("one\n")
        (root / "tmp/junk").write_text("no one misses it\n")
        os.chmod(root / "home/user", 0o700)
        os.chown(root / "home/user/letter", 1000, 1000)
        for place in _programs():
            _mount(held, root / str(place).lstrip("/"), "--bind", str(place))
        for link in ("bin", "sbin", "lib", "lib64"):
            (root / link).symlink_to(f"usr/{link}")
        yield root


def _programs() -> list[Path]:
    """What Python and the package need of this host."""
    package = Path(i2node.__file__).parents[1]
    places = {Path("/usr"), Path(sys.prefix), Path(sys.base_prefix).resolve(), package}
    return sorted(p for p in places if not any(q in p.parents for q in places))


def _mount(held: ExitStack, at: Path, *words: str) -> None:
    at.mkdir(parents=True, exist_ok=True)
    source = words[-1:] if words[0] == "--bind" else words[2:]
    subprocess.run(["mount", *words[: len(words) - len(source)], *source, str(at)], check=True)
    held.callback(subprocess.run, ["umount", "--lazy", str(at)], check=True)


def test_the_whole_of_a_server_is_mirrored(
    server: Path, console: Console, sdk: Path, tmp_path: Path
) -> None:
    voice = Sdk(sdk, console)
    work = Agent("work", Path("/sdata"), tmp_path / "work.log", server)
    base = tmp_path / "fsp_bk"
    with agents(tmp_path, "backup") as (backup,):
        work.start()
        try:
            work.register(voice)
            backup.register(voice)
            lists = voice.done(FSP, "listFspBackupDir", wk_uuid=work.uuid, fsp_uuid="")["dir_list"]
            kinds: dict[str, list[str]] = {"1": [], "2": []}
            for one in lists:
                kinds[one["type"]].append(one["wk_path"])
            assert {"/", "/boot/"} <= set(kinds["1"]) and len(kinds["2"]) == 19
            body = {
                "fsp_name": "whole",
                "wk_uuid": work.uuid,
                "bk_uuid": backup.uuid,
                "wk_path": ["/", "/boot/"],
                "bk_path": [f"{base}/"],
                "excl_path": kinds["2"],
                "sync_item": "/",
                "bkup_policy": 2,
                "fsp_type": 3,
                "mirr_sync_flag": "1",
            }
            voice.done(FSP, "createFspBackup", fsp_backup=body)
            rule = voice.done(FSP, "listFspBackup")["info_list"][0]["fsp_uuid"]

            def status() -> str:
                told = voice.done(FSP, "listFspBackupStatus", fsp_uuids=[rule])["status"][0]
                assert told["status"] != "STOP", told
                return str(told["status"])

            until("replication", lambda: status() == "REPLICATION")
            (run,) = base.glob(f"127.0.0.1_{work.port}/*")
            assert (run / "etc/passwd").read_text() == "root:x:0:0::/root:/bin/sh\n"
            assert os.readlink(run / "etc/motd") == "passwd"
            assert (run / "boot/vmlinuz").read_bytes() == b"kernel" * 1000
            letter = (run / "home/user/letter").stat()
            assert (letter.st_uid, letter.st_gid) == (1000, 1000)
            assert (run / "home/user").stat().st_mode & 0o7777 == 0o700
            for name in ("proc", "dev", "tmp", "run", "sdata/etc", "sdata/var", "lost+found"):
                assert not (run / name).exists(), name
            for name in ("srv/other/file", "usr/bin"):
                assert not (run / name).exists(), name
            (server / "etc/passwd").write_text("root:x:0:0::/root:/bin/bash\n")
            (server / "boot/vmlinuz-new").write_text("newer\n")
            until("a change in /boot", lambda: (run / "boot/vmlinuz-new").exists())
            until("a change in /", lambda: "bash" in (run / "etc/passwd").read_text())
            told = voice.done(FSP, "describeFspBackup", fsp_backup={"fsp_uuid": rule})
            fields = told["fsp_backup"] | {"snapshot_switch": "1"}
            voice.done(FSP, "modifyFspBackup", fsp_backup=fields)

            console.log_in()

            def logged() -> list[str]:
                log = console.data("GET", f"/api/logs?uuid={rule}")["logs"]
                return [one["detail"] for one in log if one["operation"] == "copy"]

            until("a copy in the rule's log", logged)
            (detail,) = logged()
            (copy,) = set(base.glob(f"127.0.0.1_{work.port}/*")) - {run}
            assert detail.startswith(f"copy {copy.name} is kept, with all changes until ")
            assert "bash" in (copy / "etc/passwd").read_text()
            assert (copy / "boot/vmlinuz-new").read_text() == "newer\n"
            letter = (copy / "home/user/letter").stat()
            assert (letter.st_uid, letter.st_gid) == (1000, 1000)
            voice.done(FSP, "finishFspBackup", operate="finish", fsp_uuids=[rule])
            until("the end", lambda: status() == "FINISH")
            assert (run / "boot/vmlinuz-new").read_text() == "newer\n"
        finally:
            work.stop()
            voice.close()
