"""Who this node is and whom it trusts.

    <etc>/i2id.conf              id=CODE, the pairing code: 32 letters and digits
    <etc>/identity/node.pem      private key (ECDSA P-256) and self-signed certificate, one file
    <etc>/peers/<node id>.pem    the certificate of a paired node
    <etc>/peers/<node id>.json   its name, address, role, and when it was paired

Directories made here are 0700, files 0600. A node id is the hex SHA-256 of the certificate's DER
SubjectPublicKeyInfo (the pin of RFC 7469 §2.4), so it says which key, whatever else the certificate
says. Key and certificate share one file because then one link(2) makes both appear, and two
processes that start at the same moment agree on one identity.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
import string
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from i2node import log
from i2node.errors import SHORT, I2Error, SessionError, UsageError

_log = logging.getLogger("i2node.net")

Role = Literal["node", "controller"]
ROLES: Final[tuple[Role, ...]] = ("node", "controller")

CODE_LENGTH: Final = 32
_CODE_LETTERS: Final = string.ascii_letters + string.digits
_CODE: Final = re.compile(r"[A-Za-z0-9]{32}")
_CODE_LINE: Final = re.compile(r"^[ \t]*id[ \t]*=[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_NODE_ID: Final = re.compile(r"[0-9a-f]{64}")

# A node whose clock was reset must still find its peers: trust here is the pin, not a date.
# The end is RFC 5280 §4.1.2.5's value for "no expiration".
_NOT_BEFORE: Final = datetime(2000, 1, 1, tzinfo=UTC)
_NOT_AFTER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Peer:
    """A paired node. `address` is host:port or empty; `paired` is seconds since 1970; `by` says who
    wanted it, where that was no person."""

    node_id: str
    name: str
    address: str
    role: Role
    paired: int
    cert_pem: str
    cert_der: bytes
    by: str = ""


def node_id_of(cert_der: bytes) -> str:
    """The node id of a DER certificate. UsageError when it is none, or not an EC key's."""
    return _id_of_key(_certificate(cert_der))


def check_certificate(cert_der: bytes) -> str:
    """Node id of a certificate fit to be pinned: a P-256 key, self-signed, no authority.

    An authority among the pinned certificates could issue others that TLS would then accept.
    """
    certificate = _certificate(cert_der)
    key = _key_of(certificate)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise UsageError("the certificate's key is not ECDSA P-256")
    try:
        certificate.verify_directly_issued_by(certificate)
        authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except Exception as e:  # cryptography raises TypeError, ValueError, InvalidSignature, ...
        raise UsageError("the certificate is not a sound self-signed one") from e
    if authority:
        raise UsageError("the certificate is an authority's, not a node's")
    return _id_of_key(certificate)


def pem_to_der(pem: str) -> bytes:
    """The first certificate of a PEM text, as DER."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except (ValueError, x509.InvalidVersion) as e:
        raise UsageError("not a PEM certificate") from e
    return certificate.public_bytes(serialization.Encoding.DER)


def der_to_pem(der: bytes) -> str:
    """PEM text of a DER certificate."""
    return _certificate(der).public_bytes(serialization.Encoding.PEM).decode()


def verify_signature(cert_der: bytes, signature: bytes, data: bytes) -> bool:
    """Whether the holder of the certificate's key signed `data` (ECDSA, SHA-256)."""
    key = _key_of(_certificate(cert_der))
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except Exception:  # whatever a hostile signature provokes, it is not a signature
        return False
    return True


class Identity:
    """A node's key, certificate, pairing code and trust store. Safe to use from several threads.

    The trust store is looked at again on every question, so that a pairing made by another process
    counts at once; unchanged files are not read again.
    """

    def __init__(self, etc: Path, pem: bytes, code: str) -> None:
        """For `load`; `pem` holds private key and certificate."""
        key = serialization.load_pem_private_key(pem, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("not an EC key")
        certificate = x509.load_pem_x509_certificate(pem)
        if certificate.public_key() != key.public_key():
            raise ValueError("key and certificate do not belong together")
        self._key = key
        self.etc = etc
        self.code = code
        self.key_file = etc / "identity" / "node.pem"
        self.cert_der = certificate.public_bytes(serialization.Encoding.DER)
        self.cert_pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        self.node_id = _id_of_key(certificate)
        self._peers_dir = etc / "peers"
        self._lock = threading.Lock()
        self._known: dict[str, tuple[object, Peer | None]] = {}

    @classmethod
    def load(cls, etc: Path) -> Identity:
        """The identity under `etc`, created where missing. UsageError: it cannot be used."""
        try:
            for directory in (etc, etc / "identity", etc / "peers"):
                with contextlib.suppress(FileExistsError):
                    directory.mkdir(mode=0o700, parents=True)
            key_file = etc / "identity" / "node.pem"
            if not key_file.exists():
                _create(key_file, _new_identity())
            if key_file.stat().st_mode & 0o077:
                raise UsageError(
                    f"{key_file} can be read by others",
                    f"run: chmod 600 {key_file}, then pair anew",
                )
            return cls(etc, key_file.read_bytes(), _load_code(etc / "i2id.conf"))
        except OSError as e:
            raise UsageError(f"identity under {etc}: {e.strerror}: {e.filename}") from e
        except ValueError as e:
            raise UsageError(
                f"{etc}/identity/node.pem does not hold a usable key and certificate: {e}",
                "restore it, or remove it and pair this node again",
            ) from e

    @staticmethod
    def missing(etc: Path) -> list[Path]:
        """What `load` would make: the files and directories that are not there, or not to be seen;
        i2id.conf also where it holds no code. UsageError: that cannot be read."""
        parts = [etc / "identity" / "node.pem", etc / "peers", etc / "i2id.conf"]
        found = [part for part in parts if not part.exists()]
        if parts[2] not in found and not _CODE_LINE.search(_text(parts[2])):
            found.append(parts[2])
        return found

    def sign(self, data: bytes) -> bytes:
        """ECDSA signature (SHA-256, DER) of `data` by this node's key."""
        return self._key.sign(data, ec.ECDSA(hashes.SHA256()))

    def trust(
        self,
        cert_pem: str,
        *,
        name: str = "",
        address: str = "",
        role: Role = "node",
        by: str = "",
    ) -> Peer:
        """Pairs with the holder of a certificate; again: replaces what was known of it."""
        der = pem_to_der(cert_pem)
        node_id = check_certificate(der)
        if role not in ROLES:
            raise UsageError(f"unknown role {role!r}", "one of: " + ", ".join(ROLES))
        about: dict[str, object]
        about = {"name": name, "address": address, "role": role, "paired": int(time.time())}
        if by:
            about["by"] = by
        try:
            # The certificate last: it is what makes the pairing count.
            _replace(self._peers_dir / f"{node_id}.json", (json.dumps(about) + "\n").encode())
            _replace(self._peers_dir / f"{node_id}.pem", der_to_pem(der).encode())
        except OSError as e:
            raise UsageError(f"storing a pairing: {e.strerror}: {e.filename}") from e
        log.event(_log, logging.INFO, "paired", peer=node_id, name=name, role=role)
        peer = self.peer(node_id)
        if peer is None:
            raise UsageError(f"the pairing with {node_id} was stored and is gone again")
        return peer

    def forget(self, node_id: str) -> bool:
        """Ends a pairing; whether there was one."""
        if not _NODE_ID.fullmatch(node_id):
            return False
        there = False
        for suffix in (".pem", ".json"):
            with contextlib.suppress(FileNotFoundError):
                (self._peers_dir / (node_id + suffix)).unlink()
                there = True
        return there

    def peers(self) -> tuple[Peer, ...]:
        """All paired nodes, by node id; not this node itself."""
        return tuple(self._read().values())

    def peer(self, node_id: str) -> Peer | None:
        """A trusted node, or None. A node trusts itself, in every role: its key is all it has."""
        if node_id == self.node_id:
            return Peer(node_id, "", "", "controller", 0, self.cert_pem, self.cert_der)
        return self._peer(node_id) if _NODE_ID.fullmatch(node_id) else None

    def peer_of(self, cert_der: bytes) -> Peer | None:
        """The trusted node whose certificate is exactly this one, or None."""
        try:
            peer = self.peer(node_id_of(cert_der))
        except UsageError:
            return None
        return peer if peer is not None and peer.cert_der == cert_der else None

    def trusted(self) -> tuple[tuple[object, ...], tuple[bytes, ...]]:
        """A token that changes when the trust store does, and all trusted certificates (DER)."""
        known = self._read()
        ders = (self.cert_der, *(p.cert_der for p in known.values()))
        return (hashlib.sha256(b"".join(ders)).digest(),), ders

    def _read(self) -> dict[str, Peer]:
        try:
            names = sorted(os.listdir(self._peers_dir))
        except OSError as e:
            raise self._unread(e) from e
        found = (self._peer(name[:-4]) for name in names if name.endswith(".pem"))
        return {p.node_id: p for p in found if p is not None}

    def _peer(self, stem: str) -> Peer | None:
        """What the files of this name hold, read again only where they changed: of one peer among
        thousands no more is looked at than of one alone."""
        path = self._peers_dir / f"{stem}.pem"
        try:
            seen = (_seen(path), _seen(path.with_suffix(".json")))
        except OSError as e:
            raise self._unread(e) from e
        with self._lock:
            known = self._known.get(stem)
            if known is None or known[0] != seen:
                known = self._known[stem] = (seen, _read_peer(path) if seen[0] else None)
            return known[1]

    def _unread(self, error: OSError) -> I2Error:
        kind = SessionError if error.errno in SHORT else UsageError
        return kind(f"reading the trust store {self._peers_dir}: {error.strerror}")


def _seen(path: Path) -> tuple[int, int, int] | None:
    try:
        s = path.stat()
    except FileNotFoundError:
        return None
    return s.st_ino, s.st_size, s.st_mtime_ns


def _read_peer(path: Path) -> Peer | None:
    """One peer. A damaged file costs that pairing and a warning, not the daemon."""
    try:
        der = pem_to_der(path.read_text("ascii"))
        node_id = check_certificate(der)
        if node_id != path.stem:
            raise UsageError(f"holds the certificate of {node_id}")
        about = json.loads(path.with_suffix(".json").read_text("utf-8"))
        role = about["role"]
        if role not in ROLES:
            raise UsageError(f"unknown role {role!r}")
        return Peer(
            node_id,
            str(about["name"]),
            str(about["address"]),
            role,
            int(about["paired"]),
            der_to_pem(der),
            der,
            str(about.get("by", "")),
        )
    except (OSError, ValueError, KeyError, TypeError, UsageError) as e:
        log.event(_log, logging.WARNING, "peer-not-used", file=bytes(path), cause=e)
        return None


def _certificate(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except (ValueError, x509.InvalidVersion) as e:
        raise UsageError("not a DER certificate") from e


def _key_of(certificate: x509.Certificate) -> CertificatePublicKeyTypes:
    """The key is parsed only when it is asked for, and may be none."""
    try:
        return certificate.public_key()
    except Exception as e:  # ValueError, UnsupportedAlgorithm, ...
        raise UsageError("the certificate's key is not ECDSA P-256") from e


def _id_of_key(certificate: x509.Certificate) -> str:
    spki = _key_of(certificate).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).hexdigest()


def _new_identity() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    # 64 characters, just what a common name may have (RFC 5280, ub-common-name).
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hashlib.sha256(spki).hexdigest())])
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def _text(path: Path) -> str:
    """What i2id.conf holds."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as e:
        raise UsageError(f"{path} is not text", "remove it to have a new code made") from e


def _load_code(path: Path) -> str:
    """The pairing code of i2id.conf; a file without one gets one, its other lines stay."""
    for _ in range(2):
        text = _text(path) if path.exists() else None
        lines: list[str] = _CODE_LINE.findall(text or "")
        if lines:
            code = lines[0]
            if not _CODE.fullmatch(code):
                raise UsageError(
                    f"{path}: id= is not {CODE_LENGTH} letters and digits",
                    "correct it, or remove the line to have a new one made",
                )
            return code
        line = "id=" + "".join(secrets.choice(_CODE_LETTERS) for _ in range(CODE_LENGTH)) + "\n"
        if text is None:
            _create(path, line.encode())
        else:
            gap = "" if not text or text.endswith("\n") else "\n"
            _replace(path, (text + gap + line).encode())
    raise UsageError(f"{path}: another process keeps taking the pairing code away")


def _create(path: Path, content: bytes) -> None:
    """Makes `path` appear whole with `content`, unless it is there: then that one stays."""
    passing = _write_beside(path, content)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(passing, path)
    finally:
        passing.unlink()
    _sync_directory(path.parent)


def _replace(path: Path, content: bytes) -> None:
    passing = _write_beside(path, content)
    try:
        passing.rename(path)
    except OSError:
        passing.unlink()
        raise
    _sync_directory(path.parent)


def _write_beside(path: Path, content: bytes) -> Path:
    passing = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(passing, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as f:
        f.write(content)
        f.flush()
        os.fsync(fd)
    return passing


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
