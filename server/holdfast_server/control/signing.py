"""The keys that sign checkpoints: Ed25519, in files, named by what they are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from holdfast_server.domain.checkpoint import Checkpoint

#: Hexadecimal digits of a key's id, which is the beginning of the SHA-256 of the public key.
KEY_ID_DIGITS: Final = 16
#: Bytes of a file with a key that are read.
FILE_BYTES_MAX: Final = 65_536

_PEM: Final = serialization.Encoding.PEM
_END: Final = b"-----END PUBLIC KEY-----"


class KeyFileError(ValueError):
    """A file does not hold what it should. The message is for people."""


class SigningKey:
    """A private key."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.key_id = key_id(private.public_key())

    @classmethod
    def read(cls, path: Path) -> SigningKey:
        """The key in a file. Raises `KeyFileError`."""
        try:
            private = serialization.load_pem_private_key(_read(path), None)
        except (ValueError, TypeError) as error:
            raise KeyFileError(f"{path} holds no private key in PEM") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise KeyFileError(f"{path} holds a key that is not Ed25519")
        return cls(private)

    @classmethod
    def create(cls, path: Path) -> SigningKey:
        """Makes a key and keeps it in a new file that only its owner can read. Raises OSError."""
        private = Ed25519PrivateKey.generate()
        form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(private.private_bytes(_PEM, *form))
        return cls(private)

    @property
    def public_pem(self) -> str:
        """The public key, for those who verify."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self._private.public_key().public_bytes(_PEM, form).decode()

    def sign(self, signed: bytes) -> bytes:
        """The signature over some bytes."""
        return self._private.sign(signed)


class PublicKeys:
    """Public keys by id: that of today, and those before it."""

    def __init__(self, keys: Mapping[str, Ed25519PublicKey]) -> None:
        self._keys = keys

    @classmethod
    def read(cls, paths: Iterable[Path]) -> PublicKeys:
        """The keys in some files of PEM, each with one or more. Raises `KeyFileError`."""
        return cls({key_id(key): key for path in paths for key in _public_keys(path)})

    def flaw(self, checkpoint: Checkpoint) -> str:
        """What is wrong with the signature of a checkpoint; empty where it is good."""
        key = self._keys.get(checkpoint.key_id)
        if key is None:
            return f"it is signed by the key {checkpoint.key_id}, which is not one of those given"
        try:
            key.verify(checkpoint.signature, checkpoint.signed_bytes)
        except InvalidSignature:
            return "its signature is wrong: it was changed, or made by somebody else"
        return ""


def key_id(key: Ed25519PublicKey) -> str:
    """What a key is called in the checkpoints that it has signed."""
    raw = key.public_bytes_raw()
    return hashlib.sha256(raw).hexdigest()[:KEY_ID_DIGITS]


def _public_keys(path: Path) -> list[Ed25519PublicKey]:
    blocks = [block + _END for block in _read(path).split(_END)[:-1]]
    try:
        keys = [serialization.load_pem_public_key(block.lstrip()) for block in blocks]
    except ValueError as error:
        raise KeyFileError(f"{path} holds something else than public keys in PEM") from error
    found = [key for key in keys if isinstance(key, Ed25519PublicKey)]
    if not found or len(found) != len(keys):
        raise KeyFileError(f"{path} does not hold Ed25519 public keys in PEM")
    return found


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from error
