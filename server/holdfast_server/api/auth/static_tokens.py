"""Credentials from a file: hashed tokens, or the names in client certificates."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from holdfast_server.api.auth.principal import Principal, make_principal

#: Bytes of the file; more is a mistake.
FILE_BYTES_MAX = 1_048_576
#: The file is looked at this often, at most.
CHECK_INTERVAL_SECONDS = 1.0

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_BLIND_BYTES = 32

_log = logging.getLogger(__name__)


class StaticTokens:
    """Reads a file of credentials and follows its changes.

    The file is a JSON array, or one JSON object per line, of `subject`, `tenant`, `roles` and
    either `sha256` (the hexadecimal SHA-256 of the token) or `certificate` (a name in the
    certificate of the client). A change that cannot be read is logged, and the credentials
    before it stay.
    """

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        """`clock` counts seconds. Raises ValueError or OSError when the file cannot be read."""
        self._path = path
        self._clock = clock
        self._stamp = _stamp(path)
        self._checked_at = clock()
        # Tokens are found by a digest under a secret of this process, so that how long the search
        # takes tells nothing about any token.
        self._blind = secrets.token_bytes(_BLIND_BYTES)
        self._load()

    def find(self, token: str) -> Principal | None:
        """Who the token belongs to."""
        self._follow()
        return self._by_token.get(self._blinded(hashlib.sha256(token.encode()).digest()))

    def find_certificate(self, names: Iterable[str]) -> Principal | None:
        """Who a verified client certificate with these names belongs to."""
        self._follow()
        return next((self._by_name[name] for name in names if name in self._by_name), None)

    def _blinded(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._blind).digest()

    def _follow(self) -> None:
        now = self._clock()
        if now - self._checked_at < CHECK_INTERVAL_SECONDS:
            return
        self._checked_at = now
        try:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._load()
                self._stamp = stamp
                _log.info("read the changed credentials of %s", self._path)
        except (OSError, ValueError) as error:
            _log.error("kept the old credentials, cannot read %s: %s", self._path, error)

    def _load(self) -> None:
        by_token: dict[bytes, Principal] = {}
        by_name: dict[str, Principal] = {}
        for number, record in enumerate(_records(self._path), start=1):
            principal, digest, name = _credential(record, number)
            if digest:
                by_token[self._blinded(bytes.fromhex(digest))] = principal
            if name:
                by_name[name] = principal
        self._by_token, self._by_name = by_token, by_name


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _records(path: Path) -> list[object]:
    if path.stat().st_size > FILE_BYTES_MAX:
        raise ValueError(f"the file is larger than {FILE_BYTES_MAX} bytes")
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        return list(json.loads(text))
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _credential(record: object, number: int) -> tuple[Principal, str, str]:
    """Principal, token digest and certificate name. The text of a fault never shows the record."""
    fields = record if isinstance(record, Mapping) else {}
    principal = make_principal(fields.get("subject"), fields.get("tenant"), fields.get("roles"))
    digest, name = fields.get("sha256", ""), fields.get("certificate", "")
    if principal is None or not isinstance(digest, str) or not isinstance(name, str):
        raise ValueError(f"record {number} lacks a valid subject, tenant or roles")
    if len(principal.roles) < len(set(fields["roles"])):
        raise ValueError(f"record {number} names an unknown role")
    if (digest and not _SHA256.match(digest)) or not (digest or name):
        raise ValueError(f"record {number} needs sha256 (64 hexadecimal digits) or certificate")
    return principal, digest, name
