"""The keys of this server: one that clients seal passwords for, and one that its database is of no
use without."""

from __future__ import annotations

import base64
import binascii
import os
from contextlib import suppress
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from i2node.errors import UsageError

BITS = 2048
_PADDING = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # as clients make it


class Seal:
    """An RSA key of its own, in a file that is this server's alone."""

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self._key = key
        self.public_pem = (
            key.public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            .decode()
        )

    @classmethod
    def load(cls, file: Path) -> Seal:
        """The key in a file, made where there is none. UsageError: it cannot be read or written."""
        try:
            if not file.exists():
                _keep(file, _made())
            key = serialization.load_pem_private_key(file.read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"key {file}: {error}", "remove it, and it is made anew") from error
        if not isinstance(key, rsa.RSAPrivateKey):
            raise UsageError(f"key {file} is not RSA", "remove it, and it is made anew")
        return cls(key)

    def opened(self, text: str) -> str:
        """What was sealed: base64 of RSA-OAEP (SHA-1). Text that is no such thing is as it came,
        since older clients send it bare."""
        try:
            sealed = base64.b64decode(text, validate=True)
            if len(sealed) != BITS // 8:
                return text
            return self._key.decrypt(sealed, _PADDING).decode()
        except (binascii.Error, ValueError):
            return text


class Vault:
    """What the database keeps and nobody is to read there: secrets of rules and of access keys."""

    def __init__(self, file: Path) -> None:
        """file: holds the key, made where there is none. UsageError: it cannot be used."""
        try:
            if not file.exists():
                _keep(file, Fernet.generate_key())
            self._key = Fernet(file.read_bytes().strip())
        except (OSError, ValueError) as error:
            raise UsageError(f"key {file}: {error}", "restore it from a backup") from error

    def sealed(self, secret: str) -> bytes:
        """What the database keeps of it."""
        return self._key.encrypt(secret.encode())

    def opened(self, kept: bytes) -> str:
        """The secret. UsageError: it was sealed with another key."""
        try:
            return self._key.decrypt(kept).decode()
        except InvalidToken as error:
            raise UsageError(
                "a secret in the database was sealed with another key",
                "restore the key file that belongs to this database",
            ) from error


def _made() -> bytes:
    return rsa.generate_private_key(public_exponent=65537, key_size=BITS).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _keep(file: Path, key: bytes) -> None:
    """Writes a key whole, for its owner alone, unless another process was first."""
    new = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        new.touch(mode=0o600)
        new.write_bytes(key)
        with suppress(FileExistsError):
            os.link(new, file)
    finally:
        new.unlink(missing_ok=True)
