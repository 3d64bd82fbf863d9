"""The house as DESIGN has it, read from the imports: they run downward only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "agent" / "i2node"

# The first part of a module's name below i2node, and the floor it stands on. Modules of floor 0 are
# one group, as the modules of one package are; other groups of a floor do not know each other.
FLOORS = {
    "errors": 0,
    "log": 0,
    "config": 0,
    "model": 0,
    "orders": 0,
    "schedule": 0,
    "mover": 1,
    "fs": 2,
    "net": 2,
    "repl": 3,
    "node": 4,
    "controller": 4,
    "cli": 5,
    "__main__": 6,
}

# Who may import what is dangerous or foreign; a name stands for the module and all below it. The
# status socket (node.rpc) is AF_UNIX: see test_the_status_socket_stays_on_this_host.
ONLY_IN = {
    "socket": ("net", "node.rpc"),
    "ssl": ("net",),
    "socketserver": ("net.exposition",),
    "http": ("controller", "net.exposition"),
    "sqlite3": ("repl.backlog", "repl.database", "repl.journal"),
    "cffi": (),
    "ctypes": (),
    "i2node.mover._mover": ("mover",),
    "pyinotify": ("fs.inotify",),
    "cryptography": ("net", "controller.seal"),
    "sqlalchemy": ("controller.store",),
    "alembic": ("controller.store",),
    "argon2": ("controller.accounts",),
    "fastapi": ("controller",),
    "starlette": ("controller",),
    "uvicorn": ("controller.server",),
    "msgpack": ("net", "repl", "controller"),
    "zstandard": ("net",),
    "prometheus_client": ("node.families",),
    "rich": ("cli",),
    "argparse": ("cli",),
}
ENVIRONMENT = ("environ", "environb", "getenv", "getenvb", "putenv", "expanduser", "expandvars")


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield name.removesuffix(".__init__"), ast.parse(path.read_text(), str(path))


MODULES = dict(modules())
NAMES = [name for name in MODULES if name != "__init__"]


def is_module(dotted: str) -> bool:
    path = PACKAGE.joinpath(*dotted.split(".")[1:])
    return path.is_dir() or path.with_suffix(".py").is_file()


def imported(tree: ast.Module) -> Iterator[str]:
    """Absolute names of all imports anywhere in a module, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                below = node.module == "i2node" or (
                    node.module.startswith("i2node.") and is_module(full)
                )
                yield full if below or alias.name == "_mover" else node.module


def within(name: str, owners: tuple[str, ...]) -> bool:
    return any(name == owner or name.startswith(owner + ".") for owner in owners)


def test_there_is_something_to_look_at():
    assert {"errors", "config", "cli", "node.rpc"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_imports_run_downward_only(name):
    group = name.split(".")[0]
    for target in imported(MODULES[name]):
        if not target.startswith("i2node."):
            continue
        other = target.split(".")[1]
        if other == "__version__" or other == group:
            continue
        assert other in FLOORS, f"{name} imports {target}, which stands on no floor"
        both_ground = FLOORS[group] == FLOORS[other] == 0
        assert both_ground or FLOORS[other] < FLOORS[group], f"{name} imports {target}"


@pytest.mark.parametrize("name", NAMES)
def test_foreign_libraries_stay_where_they_belong(name):
    for target in imported(MODULES[name]):
        for library, owners in ONLY_IN.items():
            if within(target, (library,)):
                assert within(name, owners), f"{name} imports {target}"


@pytest.mark.parametrize("name", NAMES)
def test_environment_variables_are_read_by_the_command_line_only(name):
    if within(name, ("cli",)):
        return
    for node in ast.walk(MODULES[name]):
        attribute = node.attr if isinstance(node, ast.Attribute) else None
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            assert not {alias.name for alias in node.names} & set(ENVIRONMENT), name
        assert attribute not in ENVIRONMENT, f"{name}: {ast.unparse(node)}"


def test_the_status_socket_stays_on_this_host():
    used = {
        node.attr
        for node in ast.walk(MODULES["node.rpc"])
        if isinstance(node, ast.Attribute) and node.attr.startswith("AF_")
    }
    assert used == {"AF_UNIX"}


def test_the_c_extension_knows_no_sockets():
    """The mover takes descriptors; opening connections is not its business."""
    sources = sorted((PACKAGE.parents[1] / "native").rglob("*.[ch]"))
    assert sources
    for source in sources:
        assert "sys/socket.h" not in source.read_text(), source


@pytest.mark.parametrize("name", NAMES)
def test_no_module_is_named_after_nothing(name):
    vague = {"util", "utils", "helper", "helpers", "common", "manager", "base", "misc"}
    assert not vague & set(name.split(".")), name
