"""Hold tokens: what was signed is read, nothing else is, and keys can be replaced."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.domain.operation import Line, Mode
from holdfast_server.domain.token import (
    TOKEN_CHARACTERS_MAX,
    HoldToken,
    TokenKind,
    TokenSigner,
    looks_held,
    pack_placed,
)

OLD, NEW = b"o" * 32, b"n" * 32
SIGNER = TokenSigner({1: OLD}, 1)

names = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=128)
figures = st.integers(0, 2**53 - 1)
held = st.lists(st.tuples(names.map(lambda name: name[:32]), figures), min_size=1, max_size=8)
placed = st.builds(
    pack_placed, st.sampled_from(Mode), st.integers(1, 2**31 - 1), figures, figures, held
)
lines = held.map(lambda pairs: tuple(Line(*pair) for pair in pairs))
ids = st.binary(min_size=16, max_size=16)
tokens = st.one_of(
    st.builds(HoldToken, st.just(TokenKind.HELD), names, names, ids, names, st.just(()), placed),
    st.builds(HoldToken, st.just(TokenKind.HELD), names, names, ids),
    st.builds(
        HoldToken,
        st.sampled_from([TokenKind.BYPASSED, TokenKind.OFF]),
        *(names, names, ids, names, lines),
    ),
)


@given(token=tokens, tenant=names)
def test_what_was_signed_is_read(token: HoldToken, tenant: str) -> None:
    text = SIGNER.issue(tenant, token)
    assert SIGNER.read(tenant, text) == token
    assert len(text) <= TOKEN_CHARACTERS_MAX
    assert looks_held(text) is (token.kind is TokenKind.HELD)
    assert SIGNER.read(tenant + "x", text) is None


@given(token=tokens, place=st.integers(0, 10_000), change=st.integers(1, 255))
def test_no_byte_can_be_changed(token: HoldToken, place: int, change: int) -> None:
    text = SIGNER.issue("t", token)
    raw = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    raw[place % len(raw)] ^= change
    forged = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    assert SIGNER.read("t", forged) is None


def test_a_token_says_how_its_hold_was_placed() -> None:
    packed = pack_placed(Mode.SHADOW, 3, 2**53 - 1, 1_800_000_000_000, [("ai", 7), ("video", 0)])
    text = SIGNER.issue("t", HoldToken(TokenKind.HELD, "a", "a", bytes(16), "chat", packed=packed))
    read = SIGNER.read("t", text)
    assert read is not None
    assert read.placed is not None
    assert (read.feature, read.placed.mode, read.placed.epoch) == ("chat", Mode.SHADOW, 3)
    assert (read.placed.seq, read.placed.expires_ms) == (2**53 - 1, 1_800_000_000_000)
    assert [(line.credit_type, line.amount) for line in read.placed.lines] == [
        ("ai", 7),
        ("video", 0),
    ]


@pytest.mark.parametrize("active", [1, 2])
def test_keys_are_replaced_while_tokens_of_both_are_on_their_way(active: int) -> None:
    """All processes know the new key before the first one signs with it."""
    token = HoldToken(TokenKind.HELD, "a", "a", bytes(16))
    ready, changed = TokenSigner({1: OLD, 2: NEW}, 1), TokenSigner({1: OLD, 2: NEW}, 2)
    text = TokenSigner({1: OLD, 2: NEW}, active).issue("t", token)
    assert ready.read("t", text) == changed.read("t", text) == token
    finished = TokenSigner({2: NEW}, 2)
    assert finished.read("t", text) == (token if active == 2 else None)
