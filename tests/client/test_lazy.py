"""Results that are made of messages are like those that are made of their fields."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

import holdfast
from holdfast import InternalError, _answers
from holdfast._calls import Kind
from holdfast._wire import read_decision
from holdfast.v1 import balance_service_pb2 as pb
from holdfast.v1 import types_pb2

GRANTED = types_pb2.Decision(outcome=types_pb2.OUTCOME_GRANTED, mode=types_pb2.MODE_ENFORCE)
HELD = types_pb2.HeldLine(credit_type="ai", requested=5, held=5, available_after=95)
APPLIED = types_pb2.Applied(transaction_id="0-1-7", epoch=1, seq=7)
KINDS = [value for value in vars(_answers).values() if isinstance(value, Kind)]


def answered() -> holdfast.ReserveResult:
    answer = pb.ReserveResponse(decision=GRANTED, hold_id="hold", lines=[HELD], applied=APPLIED)
    answer.expires_at.FromMilliseconds(1_700_000_000_123)
    return _answers.RESERVE.read(answer)


def expected() -> holdfast.ReserveResult:
    return holdfast.ReserveResult(
        holdfast.Decision(holdfast.Outcome.GRANTED, mode=holdfast.Mode.ENFORCE),
        "hold",
        (holdfast.HeldLine("ai", 5, 5, 0, 0, 95),),
        1_700_000_000_123,
        applied=holdfast.Applied("0-1-7", epoch=1, seq=7),
    )


def test_they_are_equal_and_look_alike() -> None:
    assert answered() == expected()
    assert hash(answered()) == hash(expected())
    assert repr(answered()) == repr(expected())
    assert answered() != replace(expected(), hold_id="other")


@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, lambda result: pickle.loads(pickle.dumps(result)), replace],
    ids=["copy", "deepcopy", "pickle", "replace"],
)
def test_they_are_copied_whole(again: Any) -> None:
    assert again(answered()) == expected()


def test_a_field_is_read_once() -> None:
    result = answered()
    assert result.lines is result.lines


@pytest.mark.parametrize("result", [answered(), expected()], ids=["message", "fields"])
def test_what_there_is_not_cannot_be_read_and_nothing_written(result: Any) -> None:
    with pytest.raises(AttributeError, match="hold_idd"):
        _ = result.hold_idd
    with pytest.raises(FrozenInstanceError):
        result.hold_id = "other"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.item)
def test_every_field_of_every_answer_can_be_read(kind: Kind[Any]) -> None:
    answer = getattr(pb, f"{kind.item.capitalize()}Response")()
    if "decision" in answer.DESCRIPTOR.fields_by_name:
        answer.decision.CopyFrom(GRANTED)
    result = kind.read(answer)
    assert len([getattr(result, field.name) for field in fields(result)]) >= 2


def test_every_operation_has_its_answer() -> None:
    assert {kind.item for kind in KINDS} == {
        field.name for field in pb.BatchItem.DESCRIPTOR.oneofs[0].fields
    }


def test_a_denial_says_all_that_it_says() -> None:
    message = types_pb2.Decision(
        outcome=types_pb2.OUTCOME_DENIED,
        message="not enough",
        shortfalls=[types_pb2.Shortfall(credit_type="ai", available=3, shortfall=2)],
        limit=types_pb2.LimitUse(limit_id="daily", maximum=10),
        retry_after_ms=50,
    )
    decision = read_decision(message)
    assert not decision.allowed
    assert decision.shortfalls == (holdfast.Shortfall("ai", 3, 2),)
    assert decision.limit is not None
    assert (decision.limit.limit_id, decision.limit.maximum) == ("daily", 10)
    assert (decision.message, decision.retry_after_ms) == ("not enough", 50)


def test_an_answer_without_a_decision_is_an_error_whoever_looks() -> None:
    with pytest.raises(InternalError):
        _answers.COMMIT.read(pb.CommitResponse())
