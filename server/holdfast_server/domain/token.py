"""Hold tokens: what Reserve answers and Commit, Release and Extend bring back.

A token names the hold's tree and account, so that a settlement finds its partition without a
look-up,
and is signed (HMAC-SHA256, truncated to 128 bits) over the tenant and all it says. A forged token
and
another tenant's token fail the same check and get the same answer: HOLD_NOT_FOUND.

A token of kind BYPASSED stands for work that was let through without a hold (mode OFF, kill switch,
store away). It carries its lines, since no store knows them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from holdfast_server.domain.operation import Line

#: Bytes of the truncated signature: 128 bits cannot be guessed.
SIGNATURE_BYTES = 16
#: Bytes of a signing key: as many as SHA-256 gives.
KEY_BYTES_MIN = 32
#: Bytes of a hold id.
HOLD_ID_BYTES = 16
#: Characters of a token: two ids of 128 bytes, a feature and 8 lines, in base64, with room to
#: spare.
TOKEN_CHARACTERS_MAX = 1_200


class TokenKind(IntEnum):
    """What a token stands for."""

    #: A hold in the hot store.
    HELD = 1
    #: Work let through while the kill switch was on or the store away; its Commit is booked as
    #: unenforced.
    BYPASSED = 2
    #: Work let through in mode OFF; its Commit books nothing.
    OFF = 3


@dataclass(frozen=True, slots=True)
class HoldToken:
    """What a token says. `lines` and `feature` are empty for `TokenKind.HELD`."""

    kind: TokenKind
    root: str
    account: str
    hold: bytes
    feature: str = ""
    lines: tuple[Line, ...] = ()


class TokenSigner:
    """Signs and checks tokens with one active key and any number of older ones."""

    def __init__(self, keys: Mapping[int, bytes], active: int) -> None:
        """`keys` maps key ids (0 to 255) to secrets of at least 32 bytes; `active` signs."""
        if active not in keys or any(len(key) < KEY_BYTES_MIN for key in keys.values()):
            raise ValueError(
                "a token key must have at least 32 bytes, and the active one must exist"
            )
        self._keys = dict(keys)
        self._active = active

    def issue(self, tenant: str, token: HoldToken) -> str:
        """The text of a token, URL-safe, without padding."""
        body = bytes((token.kind, self._active)) + _pack(token)
        signed = body + self._signature(self._active, tenant, body)
        return base64.urlsafe_b64encode(signed).rstrip(b"=").decode()

    def read(self, tenant: str, text: str) -> HoldToken | None:
        """What a token says, or None when it is malformed, forged or another tenant's."""
        raw = _decoded(text)
        if raw is None or len(raw) < 2 + HOLD_ID_BYTES + SIGNATURE_BYTES:
            return None
        body, signature = raw[:-SIGNATURE_BYTES], raw[-SIGNATURE_BYTES:]
        if body[1] not in self._keys:
            return None
        if not hmac.compare_digest(signature, self._signature(body[1], tenant, body)):
            return None
        return _unpack(body)

    def _signature(self, key_id: int, tenant: str, body: bytes) -> bytes:
        message = struct.pack(">H", len(tenant)) + tenant.encode() + body
        return hmac.digest(self._keys[key_id], message, hashlib.sha256)[:SIGNATURE_BYTES]


def _decoded(text: str) -> bytes | None:
    if not text or len(text) > TOKEN_CHARACTERS_MAX or not text.isascii():
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        return None
    # One token has one spelling: unused bits of the last character must be zero.
    return raw if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == text else None


def _text(value: str) -> bytes:
    raw = value.encode()
    return bytes((len(raw),)) + raw


def _pack(token: HoldToken) -> bytes:
    account = "" if token.account == token.root else token.account
    lines = b"".join(
        _text(line.credit_type) + struct.pack(">Q", line.amount) for line in token.lines
    )
    return token.hold + _text(token.root) + _text(account) + _text(token.feature) + lines


def _unpack(body: bytes) -> HoldToken:
    """The signature has vouched for the layout, so nothing here can fail."""
    hold, rest = body[2 : 2 + HOLD_ID_BYTES], body[2 + HOLD_ID_BYTES :]
    root, rest = _take(rest)
    account, rest = _take(rest)
    feature, rest = _take(rest)
    lines = []
    while rest:
        credit_type, rest = _take(rest)
        lines.append(Line(credit_type, struct.unpack(">Q", rest[:8])[0]))
        rest = rest[8:]
    return HoldToken(TokenKind(body[0]), root, account or root, hold, feature, tuple(lines))


def _take(raw: bytes) -> tuple[str, bytes]:
    end = 1 + raw[0]
    return raw[1:end].decode(), raw[end:]
