"""The network interfaces of this host and their addresses, as the kernel tells them (netlink(7),
rtnetlink(7))."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from i2node.errors import Problem

_MESSAGE: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_LINK: Final = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ADDRESS: Final = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix, flags, scope, index
_ATTRIBUTE: Final = struct.Struct("=HH")  # rtattr: length, type
_ERROR, _DONE = 2, 3
_NEW_LINK, _GET_LINK, _NEW_ADDRESS, _GET_ADDRESS = 16, 18, 20, 22
_DUMP: Final = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_NAME, _LOCAL = 3, 2  # IFLA_IFNAME, IFA_LOCAL
_LOOPBACK: Final = 0x8  # IFF_LOOPBACK
_ROOM: Final = 1 << 18
_PATIENCE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Interface:
    """One of them. addresses: of IPv4, with the length of their prefix, the first one first."""

    name: str
    loopback: bool
    addresses: tuple[tuple[str, int], ...]


def interfaces() -> list[Interface]:
    """Those of this network namespace, in the kernel's order. Problem: it does not tell."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asked:
            asked.settimeout(_PATIENCE_S)
            links = list(_dump(asked, _GET_LINK, socket.AF_UNSPEC))
            addresses = list(_dump(asked, _GET_ADDRESS, socket.AF_INET))
    except OSError as error:
        raise Problem(f"ask for the network interfaces: {error}") from error
    return assembled(links, addresses)


def assembled(links: list[bytes], addresses: list[bytes]) -> list[Interface]:
    """The interfaces, of the payloads of the kernel's messages."""
    held: dict[int, list[tuple[str, int]]] = {}
    for payload in addresses:
        _, prefix, _, _, index = _ADDRESS.unpack_from(payload)
        local = _attributes(payload, _ADDRESS.size).get(_LOCAL, b"")
        if len(local) == 4:
            held.setdefault(index, []).append((socket.inet_ntoa(local), prefix))
    found: list[Interface] = []
    for payload in links:
        _, _, index, flags, _ = _LINK.unpack_from(payload)
        name = _attributes(payload, _LINK.size).get(_NAME, b"").rstrip(b"\0")
        loopback = bool(flags & _LOOPBACK)
        text = name.decode("utf-8", "backslashreplace")
        found.append(Interface(text, loopback, tuple(held.get(index, ()))))
    return found


def _dump(asked: socket.socket, kind: int, family: int) -> Iterator[bytes]:
    """The payloads of all answers to a question about everything."""
    about = struct.pack("=Bxxx", family) + bytes(_LINK.size - 4)
    asked.send(_MESSAGE.pack(_MESSAGE.size + len(about), kind, _DUMP, kind, 0) + about)
    while True:
        got = asked.recv(_ROOM)
        at = 0
        while at + _MESSAGE.size <= len(got):
            length, told, _, sequence, _ = _MESSAGE.unpack_from(got, at)
            payload = got[at + _MESSAGE.size : at + length]
            if length < _MESSAGE.size or told == _ERROR:
                raise OSError("the kernel refuses to tell")
            if sequence == kind and told == _DONE:
                return
            if sequence == kind and told in (_NEW_LINK, _NEW_ADDRESS):
                yield payload
            at += _aligned(length)


def _attributes(payload: bytes, at: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while at + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = payload[at + _ATTRIBUTE.size : at + length]
        at += _aligned(length)
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3
