"""What a host tells of itself, read from samples of what hosts have."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest

from i2node.config import Config
from i2node.errors import UsageError
from i2node.fs.mounts import on_disk, parsed
from i2node.net.interfaces import Interface, assembled
from i2node.node import disks, nics, release
from i2node.node.inventory import verbs

RHEL = """NAME="Red Hat Enterprise Linux"
VERSION="9.4 (Plow)"
ID="rhel"
ID_LIKE="fedora"
VERSION_ID="9.4"
PRETTY_NAME="Red Hat Enterprise Linux 9.4 (Plow)"
"""
ROCKY = 'NAME="Rocky Linux"\nVERSION="8.10 (Green Obsidian)"\nID="rocky"\nVERSION_ID="8.10"\n'
DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (RHEL, "Red Hat 9.4 x86_64"),
        (RHEL.replace("9.4", "8.10"), "Red Hat 8.10 x86_64"),
        (RHEL.replace('"9.4"', "'10.0'"), "Red Hat 10.0 x86_64"),
        (ROCKY, "Rocky Linux 8.10 x86_64"),
        (DEBIAN + "ID=debian\n", "Debian 12 x86_64"),
        ('ID=centos\nNAME="CentOS Stream"\nVERSION_ID=9', "CentOS 9 x86_64"),
        ('ID=arch\nNAME="Arch Linux"\nBUILD_ID=rolling\n', "Arch Linux x86_64"),
        ("# nothing\nNAME=\"no end\nID='\n", "Linux 5.14.0 x86_64"),
        ("", "Linux 5.14.0 x86_64"),
    ],
)
def test_the_system_has_a_name(text: str, told: str) -> None:
    assert release.version_of(text, "x86_64", "5.14.0") == told


def host(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_release_may_stand_in_two_places(tmp_path: Path) -> None:
    root = host(tmp_path, {"usr/lib/os-release": ROCKY})
    assert release.version(root).startswith("Rocky Linux 8.10 ")
    assert release.version(host(root, {"etc/os-release": RHEL})).startswith("Red Hat 9.4 ")


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"proc/cpuinfo": "flags\t\t: fpu hypervisor lahf_lm\n"}, release.VIRTUAL),
        ({"proc/cpuinfo": "flags\t\t: fpu vmx\n"}, release.PHYSICAL),
        ({"sys/hypervisor/type": "xen\n"}, release.VIRTUAL),
        ({"sys/class/dmi/id/product_name": "KVM Virtual Machine\n"}, release.VIRTUAL),
        ({"sys/class/dmi/id/product_name": "ThinkSystem SR630\n"}, release.PHYSICAL),
        ({}, release.PHYSICAL),
    ],
)
def test_a_guest_knows_that_it_is_one(tmp_path: Path, files: dict[str, str], kind: int) -> None:
    assert release.physical_or_virtual(host(tmp_path, files)) == kind


def test_memory_that_can_be_had() -> None:
    text = (
        "MemTotal:        3880000 kB\nMemFree:  10 kB\nMemAvailable:    2000000 kB\nHugePages: 0\n"
    )
    assert release.memory(text) == (3880000 << 10, 2000000 << 10)
    assert release.memory("MemTotal: 8 kB\nMemFree: 4 kB\n") == (8192, 4096)


def test_services_of_systemd_and_of_init(tmp_path: Path) -> None:
    for unit in ("sshd.service", "crond.service", "dev-hugepages.mount", "system-getty.slice"):
        (tmp_path / "sys/fs/cgroup/systemd/system.slice" / unit).mkdir(parents=True)
    assert release.services(tmp_path) == ["crond", "sshd"]
    old = host(tmp_path / "old", {"var/lock/subsys/sshd": "", "var/lock/subsys/i2node": ""})
    assert release.services(old) == ["i2node", "sshd"]
    assert release.services(tmp_path / "none") == []


ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth3\t00000000\t0140A8C0\t0003\t0\t0\t200\t00000000\t0\t0\t0
eth2\t00000000\t0240A8C0\t0003\t0\t0\t101\t00000000\t0\t0\t0
eth2\t00000000\t0140A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth2\t00000000\t0940A8C0\t0003\t0\t0\t1\t00000080\t0\t0\t0
ppp0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0
eth2\t0040A8C0\t00000000\t0001\t0\t0\t100\t00F0FFFF\t0\t0\t0
"""


def test_gateways_are_of_default_routes() -> None:
    assert nics.gateways(ROUTES) == {"eth2": "192.168.64.1", "eth3": "192.168.64.1"}
    assert nics.gateways(ROUTES.splitlines()[0]) == {}


def test_the_first_resolver_that_has_four_numbers() -> None:
    text = "# nameserver 1.1.1.1\nsearch x\nnameserver fd00::1\nnameserver 210.22.84.3\n"
    assert nics.resolver(text + "nameserver 2.2.2.2") == "210.22.84.3"
    assert nics.resolver("nameserver\nnameserver fd00::1\n") == "0.0.0.0"


def test_nics_in_the_form_of_the_api() -> None:
    held = [
        Interface("lo", True, (("127.0.0.1", 8),)),
        Interface("eth2", False, (("192.168.71.78", 20), ("10.0.0.1", 8))),
        Interface("virbr0-nic", False, ()),
    ]
    assert nics.told(held, ROUTES, "") == [
        {
            "name": "eth2",
            "type": "0",
            "ip": "192.168.71.78/255.255.240.0",
            "gw": "192.168.64.1",
            "dns": "0.0.0.0",
        },
        {
            "name": "virbr0-nic",
            "type": "0",
            "ip": "0.0.0.0/0.0.0.0",
            "gw": "0.0.0.0",
            "dns": "0.0.0.0",
        },
    ]


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def test_interfaces_are_put_together_from_the_kernels_messages() -> None:
    links = [
        struct.pack("=BxHiII", 0, 1, 7, 0, 0) + attribute(1, b"mac") + attribute(3, b"e\xff\0"),
        struct.pack("=BxHiII", 0, 772, 1, 8, 0) + attribute(3, b"lo\0"),
    ]
    there = struct.pack("=BBBBI", socket.AF_INET, 24, 0, 0, 7)
    addresses = [
        there + attribute(1, b"peer") + attribute(2, bytes([192, 0, 2, 9])),
        there + attribute(2, bytes([192, 0, 2, 10])) + b"\x01",  # cut off
        there + b"\0\0\0\0",  # no attribute has no length
    ]
    assert assembled(links, addresses) == [
        Interface("e\\xff", False, (("192.0.2.9", 24), ("192.0.2.10", 24))),
        Interface("lo", True, ()),
    ]


MOUNTINFO = b"""21 1 253:0 / / rw,relatime shared:1 - xfs /dev/mapper/rl-root rw,attr2
22 21 0:20 / /proc rw shared:12 - proc proc rw
23 21 8:1 / /boot rw shared:30 - ext4 /dev/sda1 rw
24 23 8:2 / /boot/efi rw shared:31 - vfat /dev/sda2 rw
25 21 0:40 / /run rw - tmpfs tmpfs rw
26 21 8:17 / /srv/my\\040data rw master:2 - xfs /dev/sdb1 rw
27 21 253:0 /var/named /var/named/chroot/var/named rw - xfs /dev/mapper/rl-root rw
28 21 8:17 / /srv/again rw - xfs /dev/sdb1 rw
29 21 0:50 / /home rw - nfs4 server:/home rw
30 21 8:33 / /mnt/disk rw - ext4 /dev/sdc1 rw
31 21 0:60 /@home /work rw - btrfs /dev/sdd rw
32 21 0:60 /@opt /opt/\xff rw - btrfs /dev/sdd rw
33 21 8:49 / /boot/efi rw - vfat /dev/sde1 rw
34 21 nonsense
"""


def test_mounts_of_disks() -> None:
    assert len(parsed(MOUNTINFO)) == 13
    assert [(m.point, m.source) for m in on_disk(MOUNTINFO)] == [
        (b"/", b"/dev/mapper/rl-root"),
        (b"/boot", b"/dev/sda1"),
        (b"/boot/efi", b"/dev/sde1"),
        (b"/mnt/disk", b"/dev/sdc1"),
        (b"/opt/\xff", b"/dev/sdd"),
        (b"/srv/my data", b"/dev/sdb1"),
        (b"/work", b"/dev/sdd"),
    ]


def test_what_a_whole_server_is(tmp_path: Path) -> None:
    trees = disks.trees(Config(), on_disk(MOUNTINFO))
    assert trees == ["/", "/boot/", "/boot/efi/", "/opt/\\xff/", "/srv/my data/", "/work/"]
    excluded = disks.excluded(Config())
    assert len(excluded) == 19 and excluded == sorted(excluded)
    assert {"/proc/", "/etc/X11/xorg.conf/", "/etc/init.d/i2node/", "/etc/sdata/"} < {*excluded}
    assert "/var/i2data/" in excluded and "/usr/" not in excluded
    own = disks.excluded(Config(etc=tmp_path / "e", var=tmp_path / "v"))
    assert {f"{tmp_path}/e/", f"{tmp_path}/v/"} < {*own} and "/etc/sdata/" not in own


def test_volume_groups_of_lvm() -> None:
    text = '{"report":[{"vg":[{"vg_name":"rl","vg_size":"53682896896","vg_free":"0"}]}],"log":[]}'
    assert disks.read_vgs(text) == [{"name": "rl", "size": 53682896896, "free": 0}]
    for wrong in ("", "{}", '{"report": [{"vg": [{}]}]}', '{"report": 1}'):
        with pytest.raises(ValueError):
            disks.read_vgs(wrong)


ASK = verbs(Config())


@pytest.mark.parametrize(
    ("verb", "given"),
    [
        ("free", {}),
        ("free", {"path": 7}),
        ("free", {"path": "relative"}),
        ("free", {"path": "/a\0b"}),
        ("free", {"path": "/\ud800"}),
        ("check_dir", {"path": "E:\\test2\\"}),
        ("make_dir", {"path": ""}),
        ("dirs", {"path": "/nowhere/at/all"}),
        ("dirs", {"path": "/etc/passwd"}),
        ("host", {"path": "x"}),
        ("space", {}),
        ("space", {"paths": []}),
        ("space", {"paths": "/"}),
        ("space", {"paths": ["a"]}),
        ("space", {"paths": ["/"] * 5000}),
        ("space", {"paths": ["/"], "excludes": [1]}),
        ("space", {"paths": ["/"], "deadline_s": "now"}),
    ],
)
def test_a_wrong_argument_is_named(verb: str, given: dict[str, object]) -> None:
    with pytest.raises(UsageError) as refused:
        ASK[verb](given)
    assert refused.value.cause and refused.value.remedy


def test_directories_are_listed_before_files(tmp_path: Path) -> None:
    for name in (b"b", b"\xff"):
        os.mkdir(os.path.join(os.fsencode(tmp_path), name))
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("b")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.utime(tmp_path / "a", (0, 0))
    told = ASK["dirs"]({"path": str(tmp_path)})
    assert told["more"] == 0
    assert [(row[0], row[2], row[3]) for row in told["rows"]] == [
        ("b", "", True),
        ("link", "", True),
        ("\\xff", "", True),
        ("a", "5", False),
        ("dangling", "7", False),
    ]
    assert told["rows"][3][1].startswith(("1970-01-01 ", "1969-12-31 "))
    assert [row[0] for row in ASK["dirs"]({"path": str(tmp_path), "files": False})["rows"]] == [
        "b",
        "link",
        "\\xff",
    ]


def test_a_listing_has_its_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        (tmp_path / f"f{number:02}").touch()
    monkeypatch.setattr("i2node.node.folders.ROWS_MOST", 15)
    told = ASK["dirs"]({"path": str(tmp_path)})
    assert (told["rows"][-1][0], told["more"]) == ("f14", 5)
    monkeypatch.setattr("i2node.node.folders.BYTES_MOST", 200)
    told = ASK["dirs"]({"path": str(tmp_path)})
    assert (len(told["rows"]), told["more"]) == (2, 18)


def test_directories_are_made_and_checked(tmp_path: Path) -> None:
    deep = str(tmp_path / "x" / "y") + "/"
    told = ASK["check_dir"]({"path": deep})
    assert (told["exists"], told["at"]) == (False, str(tmp_path))
    for _ in range(2):
        ASK["make_dir"]({"path": deep})
        assert ASK["check_dir"]({"path": deep})["exists"]
    (tmp_path / "file").touch()
    for verb in ("make_dir", "check_dir"):
        for path in ("file", "file/below"):
            with pytest.raises(UsageError, match=r"irectory|file exists|File exists"):
                ASK[verb]({"path": str(tmp_path / path)})
