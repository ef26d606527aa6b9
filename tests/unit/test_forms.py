"""What is made by hand for speed is what the slow way would make."""

from __future__ import annotations

import dataclasses
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.connection import Connection

from holdfast_server.domain import operation as op
from holdfast_server.domain.token import HoldToken, TokenKind, TokenSigner, looks_held
from holdfast_server.engine.fingerprint import fingerprint, first_difference
from holdfast_server.engine.scripts import plain
from holdfast_server.engine.wire import pack_call

LINES = (op.Line("ai", 5),)
RESERVE = op.Reserve("t", "a", LINES, 60_000, "k")
COMMIT = op.Commit("t", "h", "k")
CREATE = op.CreateAccount("t", "a", op.AccountTerms(), "k")
UPDATE = op.UpdateAccount("t", "a", op.AccountTerms(), frozenset({"zone"}), "k")
SIGNER = TokenSigner({1: b"k" * 32, 2: b"l" * 100}, 2)
GROUPS = st.lists(st.text("abc{}:/", min_size=1), max_size=5)


@given(
    keys=st.lists(GROUPS | GROUPS.map(tuple), max_size=3),
    arguments=st.lists(st.binary() | st.text() | st.integers(0), max_size=5),
)
def test_a_script_call_goes_over_the_wire_as_the_driver_would_send_it(
    keys: list[list[str] | tuple[str, ...]], arguments: list[str | bytes | int]
) -> None:
    script = plain("test", "return 1")
    names = [*chain(*keys)]
    expected = Connection().pack_command("EVALSHA", script.called, len(names), *names, *arguments)
    assert pack_call(script, keys, arguments) == b"".join(expected)


@pytest.mark.parametrize(
    ("first", "changes", "named"),
    [
        (RESERVE, {"account": "b"}, "account"),
        (RESERVE, {"lines": (op.Line("ai", 6),)}, "lines"),
        (RESERVE, {"lines": (op.Line("ai", 5, 2),), "fit": op.Fit.UP_TO}, "lines"),
        (RESERVE, {"ttl_ms": 60_001}, "ttl_ms"),
        (RESERVE, {"feature": "f", "fit": op.Fit.UP_TO}, "feature"),
        (RESERVE, {"labels": {"x": "1"}}, "labels"),
        (RESERVE, {"fit": op.Fit.UP_TO}, "fit"),
        (COMMIT, {"hold": "i", "final": False}, "hold_id"),
        (COMMIT, {"lines": (op.CommitLine("ai", 0),)}, "lines"),
        (COMMIT, {"final": False}, "final"),
        (COMMIT, {"overage": op.Overage.CAP}, "overage"),
        (CREATE, {"terms": op.AccountTerms(zone="Asia/Tokyo")}, "account"),
        (UPDATE, {"terms": op.AccountTerms(zone="Asia/Tokyo")}, "account"),
        (UPDATE, {"fields": frozenset({"zone", "labels"})}, "update_mask"),
    ],
)
def test_the_first_field_that_differs_is_named(first: Any, changes: Any, named: str) -> None:
    assert first_difference(dataclasses.replace(first, **changes), fingerprint(first)) == named


def test_what_is_no_content_makes_no_difference() -> None:
    ordered = dataclasses.replace(RESERVE, labels={"x": "1", "y": "2"})
    other = dataclasses.replace(
        ordered, labels={"y": "2", "x": "1"}, durability=op.Durability.LEDGER, key="l", tenant="u"
    )
    assert fingerprint(ordered) == fingerprint(other)


@given(
    kind=st.sampled_from(TokenKind),
    names=st.tuples(*[st.text("ab-", min_size=1, max_size=128)] * 3),
    hold=st.binary(min_size=16, max_size=16),
    amounts=st.lists(st.integers(1, 2**53 - 1), max_size=8),
    placed=st.binary(max_size=64),
)
def test_a_token_says_what_it_was_given_to_its_own_tenant_alone(
    kind: TokenKind, names: tuple[str, str, str], hold: bytes, amounts: list[int], placed: bytes
) -> None:
    lines = tuple(op.Line(f"c{index}", amount) for index, amount in enumerate(amounts))
    said = HoldToken(kind, names[0], names[1], hold, names[2], lines)
    if kind is TokenKind.HELD:
        said = dataclasses.replace(said, lines=(), packed=placed)
    text = SIGNER.issue("t", said)
    assert SIGNER.read("t", text) == said
    assert SIGNER.read("u", text) is None
    assert TokenSigner({2: b"m" * 100}, 2).read("t", text) is None
    assert looks_held(text) is (kind is TokenKind.HELD)


@given(place=st.integers(0, 60), character=st.sampled_from("Ab3-_= .\n"))
def test_a_token_has_one_spelling(place: int, character: str) -> None:
    text = SIGNER.issue("t", HoldToken(TokenKind.HELD, "root", "account", bytes(16)))
    changed = text[:place] + character + text[place + 1 :]
    assert (SIGNER.read("t", changed) is None) is (changed != text)
    assert SIGNER.read("t", text[:place] + character + text[place:]) is None
    assert SIGNER.read("t", text + "=") is None
