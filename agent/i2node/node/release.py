"""What system this host runs, and on what: /etc/os-release, uname(2), DMI, /proc/cpuinfo."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

# The names that people give them; all others go by their own NAME.
_NAMES = {
    "almalinux": "AlmaLinux",
    "centos": "CentOS",
    "debian": "Debian",
    "fedora": "Fedora",
    "ol": "Oracle Linux",
    "opensuse-leap": "openSUSE Leap",
    "rhel": "Red Hat",
    "rocky": "Rocky Linux",
    "sles": "SUSE",
    "ubuntu": "Ubuntu",
}
_HYPERVISORS = re.compile(
    r"kvm|qemu|vmware|virtual|xen|bochs|parallels|bhyve|openstack|amazon ec2|google|"
    r"rhev|ovirt|nutanix|firecracker",
    re.IGNORECASE,
)
_DMI = ("sys_vendor", "product_name", "bios_vendor", "board_vendor")

PHYSICAL, VIRTUAL = 1, 2


def version_of(os_release: str, machine: str, kernel: str) -> str:
    """The system in the form `Red Hat 6.5 x86_64`: its name, its version, the architecture. Where
    os-release says nothing of use: `Linux`, and the kernel's version."""
    told = _table(os_release)
    name = _NAMES.get(told.get("ID", ""), told.get("NAME", ""))
    if not name:
        return f"Linux {kernel} {machine}"
    return " ".join(filter(None, (name, told.get("VERSION_ID", ""), machine)))


def _table(os_release: str) -> dict[str, str]:
    """The assignments of an os-release(5), which are those of a shell."""
    found: dict[str, str] = {}
    for line in os_release.splitlines():
        key, equals, value = line.strip().partition("=")
        if not equals or key.startswith("#"):
            continue
        try:
            found[key] = " ".join(shlex.split(value))
        except ValueError:
            continue  # a quotation that does not end
    return found


def version(root: Path = Path("/")) -> str:
    """That of this host. root: where its files are."""
    name = os.uname()
    for place in ("etc/os-release", "usr/lib/os-release"):
        text = _text(root / place)
        if text:
            return version_of(text, name.machine, name.release)
    return version_of("", name.machine, name.release)


def physical_or_virtual(root: Path = Path("/")) -> int:
    """PHYSICAL or VIRTUAL, as far as the host can tell."""
    if re.search(r"^flags\s*:.*\bhypervisor\b", _text(root / "proc/cpuinfo"), re.MULTILINE):
        return VIRTUAL
    if _text(root / "sys/hypervisor/type").strip() not in ("", "none"):
        return VIRTUAL
    dmi = " ".join(_text(root / "sys/class/dmi/id" / name) for name in _DMI)
    return VIRTUAL if _HYPERVISORS.search(dmi) else PHYSICAL


def memory(meminfo: str) -> tuple[int, int]:
    """Bytes in all and bytes to be had, of a /proc/meminfo (proc(5))."""
    told: dict[str, str] = dict(re.findall(r"^(\w+):\s+(\d+) kB$", meminfo, re.MULTILINE))
    free = told.get("MemAvailable") or told.get("MemFree", "0")
    return int(told.get("MemTotal", "0")) << 10, int(free) << 10


def services(root: Path = Path("/")) -> list[str]:
    """Names of the services that run, sorted: the control groups that systemd keeps for them, or
    the lock files of the init scripts. Empty where neither is used."""
    found: set[str] = set()
    for base in ("sys/fs/cgroup", "sys/fs/cgroup/systemd", "sys/fs/cgroup/unified"):
        for unit in _names(root / base / "system.slice"):
            if unit.endswith(".service"):
                found.add(unit.removesuffix(".service"))
    if not found:
        found.update(_names(root / "var/lock/subsys"))
    return sorted(found)


def _names(directory: Path) -> list[str]:
    try:
        return [name for name in os.listdir(directory) if name.isprintable()]
    except OSError:
        return []


def _text(path: Path) -> str:
    """A file of the system's; empty where it is not there or may not be read."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
