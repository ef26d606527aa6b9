"""What is made by hand for speed is what the slow way would make."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from enum import IntEnum
from itertools import chain
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.connection import Connection

from holdfast.v1 import account_service_pb2 as accounts
from holdfast.v1 import balance_service_pb2 as balance
from holdfast.v1 import grant_service_pb2 as grants
from holdfast_server.domain import operation as op
from holdfast_server.domain.token import HoldToken, TokenKind, TokenSigner, looks_held
from holdfast_server.engine.fingerprint import fingerprint, first_difference, key_time_ms
from holdfast_server.engine.scripts import plain
from holdfast_server.engine.wire import pack_call

LINES = (op.Line("ai", 5),)
RESERVE = op.Reserve("t", "a", LINES, 60_000, "k")
COMMIT = op.Commit("t", "h", "k")
LABELS = {"x": "1"}
WINDOW, HARD = op.LimitWindow.SLIDING, op.LimitEnforcement.HARD
LIMIT = op.Limit("l", op.LimitUnit.AMOUNT, WINDOW, 9, HARD, 1_000, "ai", "f", (50, 90))
TERMS = op.AccountTerms("p", "n", op.AccountStatus.ACTIVE, {"ai": 1}, (LIMIT,), "UTC", LABELS)
GIVEN = op.GrantTerms("ai", 5, op.GrantSource.PLAN, 1, 2, 3, 4, "EUR", "r", True, LABELS)
GRANT = op.Grant("t", "a", GIVEN, "k")
#: One of each mutation with whatever it can say, and the message that asks for it.
ASKED: list[tuple[op.Operation, type[Message]]] = [
    (op.Reserve("t", "a", LINES, 60_000, "k", "f", LABELS), balance.ReserveRequest),
    (op.Commit("t", "h", "k", (op.CommitLine("ai", 5),), labels=LABELS), balance.CommitRequest),
    (op.Release("t", "h", "k", "r"), balance.ReleaseRequest),
    (op.Extend("t", "h", 60_000, "k"), balance.ExtendRequest),
    (op.Burn("t", "a", LINES, "k", "f", LABELS), balance.BurnRequest),
    (op.Refund("t", "1-1-1", "k", (op.RefundLine("ai", 5),), "r"), balance.RefundRequest),
    (op.CreateAccount("t", "a", TERMS, "k"), accounts.CreateAccountRequest),
    (op.UpdateAccount("t", "a", TERMS, frozenset({"zone"}), "k"), accounts.UpdateAccountRequest),
    (GRANT, grants.GrantRequest),
    (op.Revoke("t", "a", "0" * 32, "k", "r"), grants.RevokeRequest),
]
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
    ("asked", "request_"), ASKED, ids=lambda each: getattr(each, "__name__", "")
)
def test_whatever_changes_of_a_request_is_named_as_the_proto_names_it(
    asked: op.Operation, request_: type[Message]
) -> None:
    stored, named = fingerprint(asked), set[str]()
    for name in (field.name for field in dataclasses.fields(asked)):
        if name not in {"tenant", "key", "durability"}:
            changed = [replace(asked, **{name: to}) for to in others(getattr(asked, name))]
            differ = {first_difference(each, stored) for each in changed}
            assert len(differ) == 1, name
            named |= differ
    content = {field.name for field in request_.DESCRIPTOR.fields}
    assert named == content - {"tenant", "idempotency_key", "durability"}


def others(value: Any) -> Iterator[Any]:
    """Values that are not the same as `value`: for what has parts, one for each of them."""
    match value:
        case IntEnum():
            yield from (each for each in type(value) if each is not value)
        case bool():
            yield not value
        case int():
            yield value + 1
        case str():
            yield f"{value}1"
        case frozenset():
            yield from (frozenset(), value | {"parent"})
        case dict():
            yield {}
            yield from ({**value, key: to} for key in value for to in others(value[key]))
        case tuple():
            yield ()
            parts = [(i, to) for i, each in enumerate(value) for to in others(each)]
            yield from ((*value[:i], to, *value[i + 1 :]) for i, to in parts)
        case _:
            for name in (field.name for field in dataclasses.fields(value)):
                yield from (replace(value, **{name: to}) for to in others(getattr(value, name)))


@pytest.mark.parametrize(
    ("first", "changes", "named"),
    [
        (RESERVE, {"lines": (op.Line("ai", 5, 2),), "fit": op.Fit.UP_TO}, "lines"),
        (RESERVE, {"feature": "f", "fit": op.Fit.UP_TO}, "feature"),
        (COMMIT, {"hold": "i", "final": False}, "hold_id"),
        (COMMIT, {"lines": (op.CommitLine("ai", 0),)}, "lines"),
    ],
)
def test_the_first_field_that_differs_is_named(first: Any, changes: Any, named: str) -> None:
    assert first_difference(replace(first, **changes), fingerprint(first)) == named


def test_other_content_is_other_content_though_no_field_shows_it() -> None:
    seen: dict[bytes, op.Reserve] = {}
    # Marks are short: among some hundred features two have the same.
    for asked in (replace(RESERVE, feature=str(number)) for number in range(3_000)):
        stored = fingerprint(asked)
        other = seen.setdefault(stored[16:], asked)
        if other is not asked:
            assert fingerprint(other) != stored
            assert first_difference(other, stored) == "content"
            return
    raise AssertionError("no two features have the same mark")


@pytest.mark.parametrize(
    ("asked", "named"), [(RESERVE, "account"), (COMMIT, "hold_id"), (GRANT, "account")]
)
def test_a_key_that_was_used_in_another_partition_was_for_something_else(
    asked: op.Operation, named: str
) -> None:
    assert first_difference(asked, b"") == named


@pytest.mark.parametrize(
    ("key", "time_ms"),
    [
        ("018f0a1b-2c3d-7000-8000-000000000000", 0x018F0A1B2C3D),
        ("018F0A1B-2C3D-7FFF-BFFF-FFFFFFFFFFFF", 0x018F0A1B2C3D),
        ("018f0a1b2c3d70008000000000000000", 0x018F0A1B2C3D),
        ("018f0a1b-2c3d-4700-8000-000000000000", 0),
        ("018f0a1b-2c3d-7000-7800-000000000000", 0),
        ("018f0a1b-2c3d-7000-c800-000000000000", 0),
        ("018f0a1b-2c3d-7000-8000-00000000000", 0),
        ("018f0a1b-2c3d-7000-8000-0000000000000", 0),
        ("018f0a1b-2c3d-7000-8000-00000000000g", 0),
        ("", 0),
    ],
)
def test_only_a_key_that_is_a_uuid_of_version_7_says_when_it_was_made(
    key: str, time_ms: int
) -> None:
    assert key_time_ms(key) == time_ms


def test_what_is_no_content_makes_no_difference() -> None:
    ordered = replace(RESERVE, labels={"x": "1", "y": "2"})
    other = replace(
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
        said = replace(said, lines=(), packed=placed)
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
