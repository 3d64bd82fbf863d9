"""What a host tells of itself when its controller asks: facts, plain data, in no API's words."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import i2node
from i2node.config import Config
from i2node.errors import Problem, UsageError
from i2node.node import disks, folders, nics, release
from i2node.node.space import Counts

Arguments = Mapping[str, Any]
Verb = Callable[[Arguments], Any]
"""What answers: takes the arguments, gives plain data, or raises I2Error."""

ANSWER_S = 8.0
"""An answer that has not come by then is given up: a network file system may never give one."""
PATHS_MOST = 4096
_MIB = 1 << 20


def verbs(config: Config) -> Mapping[str, Verb]:
    """What may be asked of the host of this home. Each may be called from any thread, several at a
    time, and ends within ANSWER_S.

    host {path?}     hostname, os_type (0: Linux), os_version, kernel, version, root (the directory
                     of the program), is_root, phy_type (1 physical, 2 virtual), log_path,
                     cache_path, services; mem_total, mem_free, hd_total, hd_free in MiB, the last
                     two of the file system that holds `path`, else of cache_path
    nics             nics.told
    mounts           disks.mounts
    vg               disks.volume_groups
    lists            disks.lists
    dirs {path?, files?}             folders.listing; path: `/` unless given
    make_dir, check_dir, free {path}     folders.make, check, free
    space {paths, excludes?, deadline_s?}    bytes, estimated, missing: see space.Need
    """
    counts = Counts()
    asked: dict[str, Verb] = {
        "host": lambda given: _host(config, given),
        "nics": lambda given: nics.nics(),
        "mounts": lambda given: disks.mounts(),
        "vg": lambda given: disks.volume_groups(),
        "lists": lambda given: disks.lists(config),
        "dirs": _dirs,
        "make_dir": lambda given: folders.make(_path(given)),
        "check_dir": lambda given: folders.check(_path(given)),
        "free": lambda given: folders.free(_path(given)),
    }
    bounded = {name: _bounded(verb) for name, verb in asked.items()}
    return bounded | {"space": lambda given: _space(counts, given)}


def _host(config: Config, given: Arguments) -> dict[str, Any]:
    cache = f"{config.var.absolute()}/cache/"
    place = _path(given) if given.get("path") else os.fsencode(cache)
    mem_total, mem_free = release.memory(_text("/proc/meminfo"))
    room, name = folders.free(place), os.uname()
    return {
        "hostname": name.nodename,
        "os_type": 0,
        "os_version": release.version(),
        "kernel": name.release,
        "version": i2node.__version__,
        "root": disks.installed() + "/",
        "is_root": os.geteuid() == 0,
        "phy_type": release.physical_or_virtual(),
        "log_path": f"{config.var.absolute()}/log/",
        "cache_path": cache,
        "services": release.services(),
        "mem_total": mem_total // _MIB,
        "mem_free": mem_free // _MIB,
        "hd_total": room["total"] // _MIB,
        "hd_free": room["free"] // _MIB,
    }


def _dirs(given: Arguments) -> dict[str, Any]:
    path = _path(given) if given.get("path") else b"/"
    return folders.listing(path, bool(given.get("files", True)))


def _space(counts: Counts, given: Arguments) -> dict[str, Any]:
    paths = _paths(given, "paths")
    if not paths:
        raise UsageError("paths is empty", "name what is to be counted")
    deadline = given.get("deadline_s", 0.5)
    if isinstance(deadline, bool) or not isinstance(deadline, int | float):
        raise UsageError(f"deadline_s is {deadline!r}", "expected seconds")
    need = counts.need(paths, _excludes(given), float(deadline))
    return {
        "bytes": need.size,
        "estimated": need.estimated,
        "missing": [folders.named(path) for path in need.missing],
    }


def _path(given: Arguments, key: str = "path") -> bytes:
    return _absolute(key, given.get(key))


def _paths(given: Arguments, key: str) -> list[bytes]:
    return [_absolute(key, one) for one in _items(given, key)]


def _excludes(given: Arguments) -> list[bytes]:
    """They may be patterns, too: see PathSet."""
    return [_encoded("excludes", one) for one in _items(given, "excludes")]


def _items(given: Arguments, key: str) -> list[Any]:
    found = given.get(key, [])
    if not isinstance(found, list | tuple) or len(found) > PATHS_MOST:
        raise UsageError(f"{key} is not a list of at most {PATHS_MOST} paths", "send one")
    return list(found)


def _absolute(key: str, value: object) -> bytes:
    path = _encoded(key, value)
    if not path.startswith(b"/"):
        raise UsageError(f"{key} {value!r:.200} is not an absolute path", "begin it with /")
    return path


def _encoded(key: str, value: object) -> bytes:
    try:
        if not isinstance(value, str) or "\0" in value:
            raise ValueError
        return value.encode("utf-8", "surrogateescape")
    except ValueError:
        raise UsageError(f"{key} {value!r:.200} is not a path", "send text without NUL") from None


def _bounded(verb: Verb) -> Verb:
    """The same, given up after ANSWER_S; its thread stays as long as the kernel holds it."""

    def answer(given: Arguments) -> Any:
        result: list[Any] = []
        failure: list[Exception] = []

        def work() -> None:
            try:
                result.append(verb(given))
            except Exception as error:
                failure.append(error)

        thread = threading.Thread(target=work, name="inventory", daemon=True)
        thread.start()
        thread.join(ANSWER_S)
        if failure:
            raise failure[0]
        if not result:
            raise Problem(
                f"the host did not answer within {ANSWER_S:.0f} s",
                "see whether a network file system there is dead",
            )
        return result[0]

    return answer


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError as error:
        raise Problem(f"read {path}: {error.strerror}") from error
