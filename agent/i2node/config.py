"""The configuration of a node, `i2node.toml`, and that of the management server, `controller.toml`:
typed, their defaults in one place.

Precedence: command line, i2node.toml, `i2port.conf` (the port alone), the defaults below. An
unknown key or a wrong value is an error that names file, key and what was expected. Paths and
owners of single rules are not here: they belong to the rule. Their brakes are: they protect this
node from the rule's source.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from i2node.errors import UsageError
from i2node.log import FORMS, LEVELS
from i2node.model import ENROLL_PORT, PORT

ENGINES = ("auto", "fanotify", "inotify")
ETC = Path("/etc/sdata")
VAR = Path("/var/i2data")

KIB = 1024
MIB = 1024 * KIB


def _number(default: float, low: float, high: float) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True, slots=True)
class Limits:
    """What a rule may lose at its target within `window_s` seconds: `floor` entries, or `share`
    percent of what it holds where that is more. window_s 0: anything."""

    floor: int
    share: float
    window_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the node is told. Every field but `etc` and `var` is a key of i2node.toml.

    Sizes are bytes, times seconds; the ranges are the limits that are accepted.
    """

    etc: Path = ETC
    """Configuration, identity, trusted peers."""
    var: Path = VAR
    """Journals, staging of state, the status sockets in `run/`."""

    listen_host: str = ""
    """Address to listen on; empty: all, IPv6 too where the host has it."""
    listen_port: int = _number(PORT, 0, 65535)
    """0 lets the kernel choose."""
    allow_roots: tuple[Path, ...] = ()
    """A peer may keep a mirror below these directories and nowhere else."""

    small_file_max: int = _number(256 * KIB, 4 * KIB, 4 * MIB)
    """Files up to this size travel whole, many to a frame; larger ones by difference."""
    frame_bytes: int = _number(4 * MIB, 256 * KIB, 4 * MIB)
    """Content gathered into one frame."""
    window_bytes: int = _number(16 * MIB, 1 * MIB, 256 * MIB)
    """Content under way that the target has not applied yet."""
    checkpoint_s: float = _number(3.0, 0.05, 60.0)
    """How long a target under load may hold what it applied before it makes it durable and
    acknowledges it; when nothing more comes it does so at once."""
    brake_floor: int = _number(1000, 0, 10**12)
    """A target holds back what would take more entries than these away from a rule, ..."""
    brake_share: float = _number(25.0, 0.0, 100.0)
    """... and more than so many percent of those that the rule holds, ..."""
    brake_window_s: float = _number(3600.0, 0.0, 604800.0)
    """... within this time. 0: it holds back nothing."""
    brakes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Other values for single rules: by rule, or by the root of its target, any of floor, share and
    window_s."""
    heartbeat_s: float = _number(5.0, 0.5, 300.0)
    """A silent connection is tested this often, and given up after three times as long."""
    watch: str = field(default="auto", metadata={"choices": ENGINES})
    """auto, fanotify or inotify: what tells of changes; auto takes the best one that works."""
    sweep_s: float = _number(30.0, 0.05, 3600.0)
    """What raises no event is looked for this often: files that are mapped, open for writing, or
    written to under a name outside the rule, and directories beyond the limit of watches."""
    slow_sweep_s: float = _number(3600.0, 1.0, 604800.0)
    """Within this time every directory is compared again, whatever was seen of it."""
    log_level: str = field(default="info", metadata={"choices": tuple(LEVELS)})
    """debug, info, warning or error."""
    log_format: str = field(default="text", metadata={"choices": FORMS})
    """text, or json: an object a line."""
    metrics_port: int = _number(0, 0, 65535)
    """Where the agent serves /metrics for Prometheus, to this host alone. 0: it does not."""

    @property
    def run(self) -> Path:
        """Directory of the status sockets, one for each process of this home."""
        return self.var / "run"

    @property
    def file(self) -> Path:
        """Where the configuration is read from unless another file is named."""
        return self.etc / "i2node.toml"

    def limits(self, rule: str, root: str) -> Limits:
        """What a rule may lose that has this root here."""
        general = {part: getattr(self, f"brake_{part}") for part in _LIMITS}
        return Limits(**general | dict(self.brakes.get(root, {})) | dict(self.brakes.get(rule, {})))

    def differs(self, other: Config) -> frozenset[str]:
        """The keys that have another value there."""
        names = (item.name for item in fields(self))
        return frozenset(name for name in names if getattr(self, name) != getattr(other, name))

    @classmethod
    def of(cls, home: Path | None) -> Config:
        """The defaults for a home (None: the system's own directories)."""
        return cls() if home is None else cls(etc=home / "etc", var=home / "var")

    @classmethod
    def load(cls, home: Path | None, file: Path | None = None) -> Config:
        """Reads the configuration of a home (None: the system's own directories).

        A missing i2node.toml means the defaults; a file given by name must exist. UsageError for
        everything that is wrong with it.
        """
        config = cls.of(home)
        port = _port_file(config.etc / "i2port.conf")
        if port is not None:
            config = replace(config, listen_port=port)
        path = file or config.file
        text = _text(path, must=file is not None)
        return config if text is None else replace(config, **_parse(path, text, cls))


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerConfig:
    """What the controller is told. Every field but `etc` and `var` is a key of controller.toml."""

    etc: Path = ETC / "controller"
    """Configuration, keys, certificate."""
    var: Path = VAR / "controller"
    """The database."""

    listen_host: str = ""
    """Address of all ports; empty: all, IPv6 too where the host has it."""
    http_port: int = _number(58080, 0, 65535)
    https_port: int = _number(58086, 0, 65535)
    enroll_port: int = _number(ENROLL_PORT, 0, 65535)
    """Where nodes enrol themselves. 0, for each of the three, lets the kernel choose."""
    database: str = ""
    """URL, such as postgresql+psycopg://user:password@host/name; empty: SQLite in `var`."""
    certificate: str = ""
    """File with key and certificate for HTTPS, PEM; empty: its own, made at the first start."""
    strict_signatures: bool = False
    """Whether every call must be rightly signed, which some clients cannot."""
    log_level: str = field(default="info", metadata={"choices": tuple(LEVELS)})
    """debug, info, warning or error."""
    log_format: str = field(default="text", metadata={"choices": FORMS})
    """text, or json: an object a line."""

    @property
    def file(self) -> Path:
        """Where the configuration is read from."""
        return self.etc / "controller.toml"

    @property
    def database_url(self) -> str:
        """The database that is used."""
        return self.database or f"sqlite:///{self.var / 'controller.db'}"

    @classmethod
    def load(cls, home: Path | None) -> ControllerConfig:
        """Reads the configuration below a home, as `Config.load` does."""
        config = cls()
        if home is not None:
            config = cls(etc=home / "etc" / "controller", var=home / "var" / "controller")
        text = _text(config.file, must=False)
        return config if text is None else replace(config, **_parse(config.file, text, cls))


OF_SESSIONS = frozenset(
    {"small_file_max", "frame_bytes", "window_bytes", "checkpoint_s", "heartbeat_s"}
    | {"watch", "sweep_s", "slow_sweep_s"}
)
"""Keys of i2node.toml that a session goes by from its beginning to its end, whatever is reloaded
meanwhile."""

_LIMITS = tuple(item.name for item in fields(Limits))


def _text(path: Path, must: bool) -> str | None:
    """The text of a file; None where it is not there and need not be."""
    try:
        return path.read_text("utf-8")
    except FileNotFoundError as error:
        if must:
            raise UsageError(f"{path}: no such file", "name an existing file") from error
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}", "see its owner and mode") from error


def _port_file(path: Path) -> int | None:
    """The port in i2port.conf: a bare number, or a line `port = N` or `rpc = N`; '#' comments."""
    text = _text(path, must=False)
    if text is None:
        return None
    for raw in text.splitlines():
        bare = raw.split("#", 1)[0].strip()
        key, equals, value = (part.strip() for part in bare.rpartition("="))
        if not bare or (equals and key not in ("port", "rpc")):
            continue
        if value.isascii() and value.isdigit() and 1 <= int(value) <= 65535:
            return int(value)
        raise UsageError(f"{path}: {bare!r} is not a port", "write port=N with N from 1 to 65535")
    return None


def _parse(path: Path, text: str, of: type[Config] | type[ControllerConfig]) -> dict[str, Any]:
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not TOML: {error}", f"see the sample {path.name}") from error
    known = {item.name: item for item in fields(of) if item.name not in ("etc", "var")}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"{path}: unknown key {key!r}", _suggestion(key, list(known)))
        if key == "brakes":
            values[key] = _brakes(f"{path}: {key}", value)
            continue
        values[key] = _checked(f"{path}: {key}", str(known[key].type), known[key].metadata, value)
    return values


def _brakes(where: str, value: object) -> dict[str, dict[str, Any]]:
    known = {item.name: item for item in fields(Config)}
    rules = value if isinstance(value, dict) else {"": value}
    found: dict[str, dict[str, Any]] = {}
    for rule, table in rules.items():
        of = f"{where}.{rule}" if rule else where
        if not rule or not isinstance(table, dict):
            raise _wrong(of, table, 'a table such as {"/backup/mail" = {floor = 5000}}')
        found[rule.rstrip("/") or "/"] = limits = {}
        for part, number in table.items():
            if part not in _LIMITS:
                raise UsageError(f"{of}: unknown key {part!r}", _suggestion(part, list(_LIMITS)))
            of_all = known[f"brake_{part}"]
            limits[part] = _checked(f"{of}.{part}", str(of_all.type), of_all.metadata, number)
    return found


def _suggestion(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key.lower().replace("-", "_"), known, n=1)
    return f"did you mean {close[0]!r}?" if close else "known keys: " + ", ".join(sorted(known))


def _checked(where: str, kind: str, limits: Mapping[str, Any], value: object) -> object:
    """The value as the field's type, or a UsageError that says what was expected."""
    if kind == "tuple[Path, ...]":
        return _roots(where, value)
    if kind == "str":
        choices = limits.get("choices")
        if not isinstance(value, str) or (choices and value not in choices):
            raise _wrong(where, value, "one of " + ", ".join(choices) if choices else "a string")
        return value
    if kind == "bool":
        if not isinstance(value, bool):
            raise _wrong(where, value, "true or false")
        return value
    noun, types = ("a whole number", (int,)) if kind == "int" else ("a number", (int, float))
    low, high = limits["low"], limits["high"]
    if not isinstance(value, types) or isinstance(value, bool) or not low <= value <= high:
        raise _wrong(where, value, f"{noun} from {low} to {high}")
    return value if kind == "int" else float(value)


def _roots(where: str, value: object) -> tuple[Path, ...]:
    wanted = "a list of absolute directories"
    if not isinstance(value, list):
        raise _wrong(where, value, wanted)
    for item in value:
        if not isinstance(item, str) or not item.startswith("/") or ".." in Path(item).parts:
            raise _wrong(where, item, wanted)
    return tuple(Path(item) for item in value)


def _wrong(where: str, value: object, expected: str) -> UsageError:
    return UsageError(f"{where} is {value!r}", f"expected {expected}")
