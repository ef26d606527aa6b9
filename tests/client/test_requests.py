"""What operations put on the wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from holdfast import (
    AsyncClient,
    Client,
    Durability,
    InvalidRequest,
    Limit,
    LimitUnit,
    LimitWindow,
    Overage,
    operations,
)
from holdfast._calls import Defaults
from holdfast.v1 import balance_service_pb2 as pb
from holdfast.v1 import types_pb2

#: Its window is longer than any number of the wire.
WIDE = Limit("wide", LimitUnit.REQUESTS, LimitWindow.SLIDING, 1, window_ms=2**70)
DEFAULTS = Defaults(tenant="acme", credit_type="credits")


def built(operation: operations.Operation[Any]) -> Any:
    return getattr(operation.build(DEFAULTS), operation.kind.item)


def test_a_bare_amount_is_of_the_client_s_credit_type() -> None:
    request = built(
        operations.reserve("acct", 1200, feature="chat", ttl_ms=5_000, labels={"a": "b"})
    )
    assert [(line.credit_type, line.amount) for line in request.lines] == [("credits", 1200)]
    assert (request.tenant, request.account, request.feature) == ("acme", "acct", "chat")
    assert (request.ttl_ms, dict(request.labels)) == (5_000, {"a": "b"})
    assert request.fit == types_pb2.FIT_UNSPECIFIED
    assert not request.lines[0].HasField("minimum_amount")


def test_a_credit_type_or_a_mapping_replaces_it() -> None:
    assert built(operations.reserve("a", 5, credit_type="video")).lines[0].credit_type == "video"
    lines = built(operations.reserve("a", {"ai": 1, "video": 2})).lines
    assert {line.credit_type: line.amount for line in lines} == {"ai": 1, "video": 2}
    with pytest.raises(InvalidRequest):
        built(operations.reserve("a", {"ai": 1}, credit_type="video"))


def test_a_minimum_asks_for_what_there_is() -> None:
    request = built(operations.reserve("a", {"ai": 10, "video": 2}, minimum={"ai": 3}))
    assert request.fit == types_pb2.FIT_UP_TO
    assert request.lines[0].minimum_amount == 3
    assert not request.lines[1].HasField("minimum_amount")


def test_a_commit_without_an_amount_names_no_line() -> None:
    assert not built(operations.commit("hold")).lines
    assert built(operations.commit("hold")).final
    partial = built(operations.commit("hold", 0, final=False, ttl_ms=9, overage=Overage.CAP))
    assert partial.lines[0].HasField("amount")
    assert (partial.final, partial.ttl_ms, partial.overage) == (False, 9, types_pb2.OVERAGE_CAP)


@pytest.mark.parametrize(
    "operation",
    [
        operations.reserve("a", 1),
        operations.commit("h", 1),
        operations.release("h"),
        operations.extend("h", 1_000),
        operations.burn("a", 1),
        operations.refund("0-1-1"),
    ],
    ids=lambda operation: operation.kind.item,
)
def test_an_operation_keeps_its_key(operation: operations.Operation[Any]) -> None:
    first, second = built(operation), built(operation)
    assert len(first.idempotency_key) == 36
    assert first == second


@pytest.mark.parametrize(
    "operation",
    [
        operations.reserve("", {}, ttl_ms=0),
        operations.commit(""),
        operations.release(""),
        operations.extend("", 0),
        operations.burn("", {}),
        operations.refund(""),
        operations.balance(""),
    ],
    ids=lambda operation: operation.kind.item,
)
def test_an_operation_that_says_nothing_is_still_one(operation: operations.Operation[Any]) -> None:
    item = operation.build(Defaults("", "credits"))
    written = pb.BatchItem.FromString(item.SerializeToString())
    assert written.WhichOneof("operation") == operation.kind.item
    alone = type(built(operation)).FromString(operation.write(item))
    assert alone == getattr(written, operation.kind.item)


def test_the_caller_s_key_is_taken() -> None:
    assert built(operations.burn("a", 1, key="order-17")).idempotency_key == "order-17"


def test_an_operation_is_what_it_was_when_it_was_made() -> None:
    """Sent again it has the same content, whatever became of what it was made of."""
    labels, amounts, least = {"step": "1"}, {"ai": 10}, {"ai": 3}
    made = [
        operations.reserve("a", amounts, minimum=least, labels=labels),
        operations.burn("a", amounts, minimum=least, labels=labels),
        operations.commit("h", amounts, labels=labels),
        operations.refund("t", amounts),
    ]
    before = [built(operation) for operation in made]
    labels["step"], amounts["ai"], least["ai"] = "2", 20, 6
    assert [built(operation) for operation in made] == before


def test_durability_and_refund_travel() -> None:
    request = built(operations.burn("a", 1, durability=Durability.LEDGER))
    assert request.durability == types_pb2.DURABILITY_LEDGER
    refund = built(operations.refund("0-1-1", 5, reason_code="quality", goodwill_ttl_ms=60_000))
    assert [(line.credit_type, line.amount) for line in refund.lines] == [("credits", 5)]
    assert (refund.reason_code, refund.goodwill_ttl_ms) == ("quality", 60_000)


@pytest.mark.parametrize("amount", [1.0, 0.5, "7", True])
def test_an_amount_is_an_integer(amount: Any) -> None:
    with pytest.raises(InvalidRequest, match="whole number"):
        operations.reserve("a", amount)
    with pytest.raises(InvalidRequest, match="whole number"):
        operations.reserve("a", {"ai": amount})


async def test_a_number_beyond_the_wire_is_an_invalid_request() -> None:
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(InvalidRequest):
            await client.burn("a", 2**70)


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.create_credit_type("ai", scale=2**40),
        lambda client: client.create_account("a", limits=[WIDE]),
        lambda client: client.update_account("a", limits=[WIDE]),
        lambda client: client.create_account("a", overdraft_limits={"ai": 2**70}),
    ],
)
def test_a_number_that_no_message_can_carry_is_an_invalid_request(
    ask: Callable[[Client], object],
) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidRequest):
        ask(client)
