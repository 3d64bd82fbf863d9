"""The network interfaces of this host, in the form in which the API tells of them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path

from i2node.net.interfaces import Interface, interfaces

NONE = "0.0.0.0"
_UP_TO_A_GATEWAY = 0x3  # RTF_UP | RTF_GATEWAY (route(8))

Nic = dict[str, str]


def gateways(routes: str) -> dict[str, str]:
    """The gateway of the default route, by interface, of a /proc/net/route; where an interface has
    several, that of the least metric. Addresses stand there as numbers in the host's byte order."""
    best: dict[str, tuple[int, str]] = {}
    for line in routes.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8 or fields[1] != "00000000" or fields[7] != "00000000":
            continue
        if int(fields[3], 16) & _UP_TO_A_GATEWAY != _UP_TO_A_GATEWAY:
            continue
        gateway = str(ipaddress.IPv4Address(bytes.fromhex(fields[2])[::-1]))
        way = (int(fields[6]), gateway)
        best[fields[0]] = min(best.get(fields[0], way), way)
    return {name: gateway for name, (_, gateway) in best.items()}


def resolver(resolv_conf: str) -> str:
    """The first name server of IPv4 in a resolv.conf(5), or NONE."""
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                return str(ipaddress.IPv4Address(words[1]))
            except ValueError:
                continue  # of IPv6
    return NONE


def told(held: Iterable[Interface], routes: str, resolv_conf: str) -> list[Nic]:
    """One for each interface but the loopback: name, type (always "0"), ip with a mask in dots, gw,
    dns. What is not there is NONE."""
    ways, dns = gateways(routes), resolver(resolv_conf)
    return [
        {
            "name": one.name,
            "type": "0",
            "ip": _masked(*one.addresses[0]) if one.addresses else f"{NONE}/{NONE}",
            "gw": ways.get(one.name, NONE),
            "dns": dns,
        }
        for one in held
        if not one.loopback
    ]


def nics() -> list[Nic]:
    """Those of this host. Problem: the kernel does not tell."""
    return told(interfaces(), _text(Path("/proc/net/route")), _text(Path("/etc/resolv.conf")))


def _masked(address: str, prefix: int) -> str:
    return ipaddress.IPv4Interface(f"{address}/{prefix}").with_netmask


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
