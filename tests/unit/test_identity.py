"""A node's identity, pairing code and trust store, on real files."""

from __future__ import annotations

import os
import re
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from i2node.errors import UsageError
from i2node.net.identity import Identity, check_certificate, node_id_of, verify_signature


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def certificate(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, ca: bool) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )


def test_first_use_creates_and_second_keeps(tmp_path: Path) -> None:
    os.umask(0o022)
    etc = tmp_path / "etc" / "sdata"
    first = Identity.load(etc)
    assert re.fullmatch("[0-9a-f]{64}", first.node_id)
    assert re.fullmatch("[A-Za-z0-9]{32}", first.code)
    assert (etc / "i2id.conf").read_text() == f"id={first.code}\n"
    assert [mode(etc / d) for d in (".", "identity", "peers")] == [0o700] * 3
    assert [mode(etc / f) for f in ("identity/node.pem", "i2id.conf")] == [0o600] * 2
    again = Identity.load(etc)
    assert (again.node_id, again.code, again.cert_der) == (
        first.node_id,
        first.code,
        first.cert_der,
    )
    assert node_id_of(first.cert_der) == first.node_id == check_certificate(first.cert_der)
    assert sorted(p.name for p in etc.iterdir()) == ["i2id.conf", "identity", "peers"]


def test_two_that_start_at_once_agree(tmp_path: Path) -> None:
    ids: list[tuple[str, str]] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        identity = Identity.load(tmp_path / "etc")
        ids.append((identity.node_id, identity.code))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(ids) == 8
    assert len(set(ids)) == 1


def test_code_is_kept_and_other_lines_stay(tmp_path: Path) -> None:
    conf = tmp_path / "i2id.conf"
    conf.write_text("# mine\nid = " + "Ab3" * 10 + "xy\n")
    assert Identity.load(tmp_path).code == "Ab3" * 10 + "xy"
    conf.write_text("# no code here")
    code = Identity.load(tmp_path).code
    assert conf.read_text() == f"# no code here\nid={code}\n"


@pytest.mark.parametrize("code", ["", "short", "a" * 31 + "!", "a" * 33])
def test_a_bad_code_is_said(tmp_path: Path, code: str) -> None:
    (tmp_path / "i2id.conf").write_text(f"id={code}\n")
    with pytest.raises(UsageError, match=r"i2id\.conf: id= is not 32 letters and digits"):
        Identity.load(tmp_path)


def test_a_readable_or_damaged_key_is_refused(tmp_path: Path) -> None:
    Identity.load(tmp_path)
    key = tmp_path / "identity" / "node.pem"
    key.chmod(0o640)
    with pytest.raises(UsageError, match="can be read by others"):
        Identity.load(tmp_path)
    key.chmod(0o600)
    key.write_bytes(b"nonsense")
    with pytest.raises(UsageError, match="does not hold a usable key"):
        Identity.load(tmp_path)


def test_key_and_certificate_must_belong_together(tmp_path: Path) -> None:
    a, b = Identity.load(tmp_path / "a"), Identity.load(tmp_path / "b")
    key = a.key_file.read_bytes().split(b"-----BEGIN CERT")[0]
    a.key_file.write_bytes(key + b.cert_pem.encode())
    with pytest.raises(UsageError, match="do not belong together"):
        Identity.load(tmp_path / "a")


def test_trust_is_kept_and_seen_by_another_process(tmp_path: Path) -> None:
    mine, other = Identity.load(tmp_path / "a"), Identity.load(tmp_path / "b")
    watching = Identity.load(tmp_path / "a")
    assert watching.peers() == ()
    before, _ = watching.trusted()
    peer = mine.trust(other.cert_pem, name="bé", address="h:1", role="controller")
    assert watching.peer(other.node_id) == peer
    assert watching.peers() == (peer,)
    assert (peer.node_id, peer.name, peer.address, peer.role) == (
        other.node_id,
        "bé",
        "h:1",
        "controller",
    )
    after, ders = watching.trusted()
    assert after != before
    assert set(ders) == {mine.cert_der, other.cert_der}
    assert mine.trust(other.cert_pem, name="again").name == "again"
    assert watching.forget(other.node_id)
    assert mine.peer(other.node_id) is None
    assert not mine.forget(other.node_id)
    assert not mine.forget("../" + other.node_id)


def test_a_node_trusts_itself(tmp_path: Path) -> None:
    mine = Identity.load(tmp_path)
    me = mine.peer(mine.node_id)
    assert me is not None
    assert me.cert_der == mine.cert_der
    assert mine.peers() == ()


def test_damaged_peers_are_passed_over(tmp_path: Path) -> None:
    mine, other = Identity.load(tmp_path / "a"), Identity.load(tmp_path / "b")
    good = mine.trust(other.cert_pem)
    peers = tmp_path / "a" / "peers"
    (peers / ("0" * 64 + ".pem")).write_text("junk")
    (peers / ("1" * 64 + ".pem")).write_text(other.cert_pem)  # another's certificate
    assert mine.peers() == (good,)
    assert mine.peers() == (good,)
    (peers / f"{other.node_id}.json").write_text('{"name": 1}')
    assert mine.peers() == ()


def test_only_a_nodes_certificate_is_trusted(tmp_path: Path) -> None:
    mine = Identity.load(tmp_path)
    with pytest.raises(UsageError, match="authority"):
        mine.trust(certificate(ec.generate_private_key(ec.SECP256R1()), ca=True))
    with pytest.raises(UsageError, match="P-256"):
        mine.trust(certificate(ec.generate_private_key(ec.SECP384R1()), ca=False))
    with pytest.raises(UsageError, match="P-256"):
        mine.trust(certificate(rsa.generate_private_key(65537, 2048), ca=False))
    with pytest.raises(UsageError, match="not a PEM"):
        mine.trust("hello")
    with pytest.raises(UsageError, match="role"):
        mine.trust(mine.cert_pem, role="king")
    assert mine.peers() == ()


def test_signature(tmp_path: Path) -> None:
    a, b = Identity.load(tmp_path / "a"), Identity.load(tmp_path / "b")
    signature = a.sign(b"said")
    assert verify_signature(a.cert_der, signature, b"said")
    assert not verify_signature(a.cert_der, signature, b"not said")
    assert not verify_signature(b.cert_der, signature, b"said")
    assert not verify_signature(a.cert_der, b"junk", b"said")
