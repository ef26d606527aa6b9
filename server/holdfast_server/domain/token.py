"""Hold tokens: what Reserve answers and Commit, Release and Extend bring back.

A token names the hold's tree and account, so that a settlement finds its partition without a
look-up, and is signed (keyed BLAKE2b, 128 bits) over the tenant and all it says. A forged token and
another tenant's token fail the same check and get the same answer: HOLD_NOT_FOUND.

The token of a hold also says how it was placed: a Commit can then be booked even where the hot
store was lost with the hold, and the ledger never heard of it.

A token of kind BYPASSED stands for work that was let through without a hold (mode OFF, kill switch,
store away). It carries its lines, since no store knows them.
"""

from __future__ import annotations

import hmac
import struct
from binascii import Error, a2b_base64, b2a_base64
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from holdfast_server.domain.operation import Line, Mode
from holdfast_server.domain.value import value

#: Bytes of the signature: 128 bits cannot be guessed.
SIGNATURE_BYTES = 16
#: Bytes of a signing key: as hard to guess as any key can be.
KEY_BYTES_MIN = 32
#: Bytes of a hold id.
HOLD_ID_BYTES = 16
#: Characters of a token: two ids of 128 bytes, a feature and 8 lines, in base64, with room to
#: spare.
TOKEN_CHARACTERS_MAX = 1_200

#: Names that are remembered as they stand in tokens.
NAMES_REMEMBERED = 10_000

#: Between the alphabet of base64 and the one that needs no escaping in a URL. What only the other
#: one has becomes what neither has.
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_+/=", b"+/...")
#: The second character of tokens that begin with the byte of `TokenKind.HELD`.
_SECOND_OF_HELD: Final = "QRSTUVWXYZabcdef"


class TokenKind(IntEnum):
    """What a token stands for."""

    #: A hold in the hot store.
    HELD = 1
    #: Work let through while the kill switch was on or the store away; its Commit is booked as
    #: unenforced.
    BYPASSED = 2
    #: Work let through in mode OFF; its Commit books nothing.
    OFF = 3


#: Of a line: its amount. Of a hold: mode, epoch, sequence number, and when it expires.
_AMOUNT: Final = struct.Struct(">Q")
_PLACED: Final = struct.Struct(">BIQQ")

_KINDS: Final = {kind.value: kind for kind in TokenKind}
#: To find a member in its class takes as long as to compare it ten times.
_HELD: Final = TokenKind.HELD


@value(frozen=True, slots=True)
class Placed:
    """How a hold was placed: what its Commit needs if the hot store has lost it."""

    mode: Mode
    #: Where its last entry is in the partition of its tree.
    epoch: int
    seq: int
    expires_ms: int
    #: What was held.
    lines: Sequence[Line]


def pack_placed(
    mode: int, epoch: int, seq: int, expires_ms: int, held: Iterable[tuple[str, int]]
) -> bytes:
    """How a hold was placed, as its token carries it; `held` by credit type."""
    return _PLACED.pack(mode, epoch, seq, expires_ms) + _pack_lines(held)


@value(frozen=True, slots=True)
class HoldToken:
    """What a token says.

    `feature` and `packed` of `TokenKind.HELD` are those of the Reserve; a token that was made for a
    list of holds has no `packed`. The other kinds have `lines` instead.
    """

    kind: TokenKind
    root: str
    account: str
    hold: bytes
    feature: str = ""
    lines: tuple[Line, ...] = ()
    #: See `pack_placed`. Hardly any settlement looks at it.
    packed: bytes = b""

    @property
    def placed(self) -> Placed | None:
        """How a hold was placed, where the token says it."""
        if not self.packed:
            return None
        mode, epoch, seq, expires_ms = _PLACED.unpack_from(self.packed)
        lines = _unpack_lines(self.packed, _PLACED.size)
        return Placed(Mode(mode), epoch, seq, expires_ms, lines)


def looks_held(text: str) -> bool:
    """Whether a token says of itself that the store knows its hold; cheap, and checks nothing."""
    # The first byte is the first six bits of the text and two bits of the second character.
    return text[:1] == "A" and text[1:2] in _SECOND_OF_HELD


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
        #: Where signing goes on with a key and for a tenant: faster than from the key.
        self._begun = lru_cache(maxsize=NAMES_REMEMBERED)(self._begin)

    def issue(self, tenant: str, token: HoldToken) -> str:
        """The text of a token, URL-safe, without padding."""
        body = bytes((token.kind, self._active)) + _pack(token)
        return _encoded(body + self._signature(self._active, tenant, body))

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
        made = self._begun(key_id, tenant).copy()
        made.update(body)
        return made.digest()

    def _begin(self, key_id: int, tenant: str) -> blake2b:
        key = self._keys[key_id]
        fitting = key if len(key) <= blake2b.MAX_KEY_SIZE else blake2b(key).digest()
        return blake2b(_text(tenant), key=fitting, digest_size=SIGNATURE_BYTES)


def _decoded(text: str) -> bytes | None:
    if not text or len(text) > TOKEN_CHARACTERS_MAX or not text.isascii():
        return None
    spelled = text.encode().translate(_FROM_URL) + b"=" * (-len(text) % 4)
    try:
        raw = a2b_base64(spelled)
    except Error:
        return None
    # One token has one spelling: what cannot be in it was left out, and its unused bits are zero.
    return raw if b2a_base64(raw, newline=False) == spelled else None


def _encoded(raw: bytes) -> str:
    return b2a_base64(raw, newline=False).rstrip(b"=").translate(_TO_URL).decode()


@lru_cache(maxsize=NAMES_REMEMBERED)
def _text(text: str) -> bytes:
    raw = text.encode()
    return bytes((len(raw),)) + raw


def _pack(token: HoldToken) -> bytes:
    account = "" if token.account == token.root else token.account
    names = _text(token.root) + _text(account) + _text(token.feature)
    if token.kind is _HELD:
        return token.hold + names + token.packed
    return token.hold + names + _pack_lines((each.credit_type, each.amount) for each in token.lines)


def _unpack(body: bytes) -> HoldToken:
    """The signature has vouched for the layout, so nothing here can fail."""
    names = 2 + HOLD_ID_BYTES
    root, place = _take(body, names)
    account, place = _take(body, place)
    feature, place = _take(body, place)
    kind, hold = _KINDS[body[0]], body[2:names]
    if kind is _HELD:
        return HoldToken(kind, root, account or root, hold, feature, packed=body[place:])
    lines = tuple(_unpack_lines(body, place))
    return HoldToken(kind, root, account or root, hold, feature, lines)


def _pack_lines(lines: Iterable[tuple[str, int]]) -> bytes:
    packed = b""
    for credit_type, amount in lines:
        packed += _text(credit_type) + _AMOUNT.pack(amount)
    return packed


def _unpack_lines(raw: bytes, place: int) -> list[Line]:
    lines = []
    while place < len(raw):
        credit_type, place = _take(raw, place)
        lines.append(Line(credit_type, _AMOUNT.unpack_from(raw, place)[0]))
        place += _AMOUNT.size
    return lines


def _take(raw: bytes, place: int) -> tuple[str, int]:
    """The text that begins at a place, and the place behind it."""
    end = place + 1 + raw[place]
    return raw[place + 1 : end].decode(), end
