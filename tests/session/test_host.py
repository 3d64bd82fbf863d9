"""What a host tells of itself, beside what its own tools tell: ip, findmnt, df."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOOLS = ("unshare", "ip", "findmnt", "df", "mkfs.ext4", "mount")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason="needs " + ", ".join(TOOLS)),
]

ASK = """
import json, sys
from i2node.config import Config
from i2node.node.inventory import verbs
print(json.dumps({name: verbs(Config())[name]({}) for name in sys.argv[1:]}))
"""


def apart(setting: str, *words: str) -> Any:
    """JSON that a program prints in namespaces of its own, after a shell script."""
    command = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-ec"]
    done = subprocess.run(
        [*command, f'exec 3>&1 >&2; {setting}\nexec >&3; "$@"', "sh", *words],
        check=True,
        capture_output=True,
        text=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]


def test_nics_are_those_that_ip_tells() -> None:
    setting = """
    ip link set lo up
    ip link add eth7 type veth peer name bare
    ip addr add 192.168.71.78/20 dev eth7
    ip addr add 192.168.71.79/20 dev eth7
    ip addr add fd00::7/64 dev eth7
    ip link add br0 type bridge
    ip addr add 10.1.2.3/32 dev br0
    ip link set eth7 up; ip link set bare up
    ip route add default via 192.168.64.1
    """
    both = [sys.executable, "-c", ASK, "nics"]
    told, seen = apart(setting, "sh", "-c", '"$@"; ip -j -4 addr; echo', "sh", *both)
    expected = {link["ifname"]: link["addr_info"][0] for link in seen if link.get("addr_info")} | {}
    found = {nic["name"]: nic for nic in told["nics"]}
    assert "lo" not in found and {"eth7", "br0", "bare"} <= found.keys()
    for name, nic in found.items():
        first = expected.get(name)
        ip = "0.0.0.0/0.0.0.0"
        if first is not None:
            ip = ipaddress.ip_interface(f"{first['local']}/{first['prefixlen']}").with_netmask
        assert nic["ip"] == ip
        assert nic["gw"] == ("192.168.64.1" if name == "eth7" else "0.0.0.0")
    assert found["eth7"]["ip"] == "192.168.71.78/255.255.240.0"


def test_mounts_are_those_that_findmnt_and_df_tell(tmp_path: Path) -> None:
    image, point = tmp_path / "image", "/boot"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    setting = f"""
    mkfs.ext4 -q {image}
    mount -o loop {image} {point}
    mount --bind /etc /opt
    mount -t tmpfs none /srv
    """
    ask = [sys.executable, "-c", ASK, "mounts", "lists", "host"]
    script = f'"$@"; findmnt -J -n {point} | tr -d "\\n"; echo'
    told, seen = apart(setting, "sh", "-c", script, "sh", *ask)
    found = {mount["point"]: mount for mount in told["mounts"]}
    assert "/boot" in found and not {"/opt", "/srv"} & found.keys()
    (entry,) = seen["filesystems"]
    mount = found["/boot"]
    assert (mount["device"], mount["kind"]) == (entry["source"], entry["fstype"])
    assert 32 << 20 < mount["total"] < 64 << 20
    assert mount["free"] + mount["used"] <= mount["total"]
    assert told["lists"]["trees"][:2] == ["/", "/boot/"]
    size, available = subprocess.run(
        ["df", "-B1", "--output=size,avail", "/var"], capture_output=True, text=True, check=True
    ).stdout.split()[-2:]
    assert told["host"]["hd_total"] == int(size) >> 20
    assert abs(told["host"]["hd_free"] - (int(available) >> 20)) < 4096  # others write meanwhile
    assert told["host"]["os_type"] == 0 and told["host"]["mem_total"] > told["host"]["mem_free"] > 0
