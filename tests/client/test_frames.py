"""Messages that are put together of bytes are those that the protocol describes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.message import DecodeError

from holdfast._frames import read_batch, read_message, write_message
from holdfast.v1 import balance_service_pb2 as pb
from holdfast.v1 import types_pb2


def test_a_message_has_its_items_in_order() -> None:
    items = [pb.BatchItem(id=id, balance=pb.BalanceRequest()) for id in (3, 2**63, 1)]
    written = write_message([item.SerializeToString() for item in items])
    assert list(pb.SessionRequest.FromString(written).items) == items


def test_answers_are_read_one_by_one() -> None:
    granted = types_pb2.Decision(outcome=types_pb2.OUTCOME_GRANTED)
    results = [
        pb.BatchResult(id=4, reserve=pb.ReserveResponse(decision=granted, hold_id="hold")),
        pb.BatchResult(id=2**63, error=pb.ItemError(code=5, message="no such hold")),
    ]
    response = pb.SessionResponse(results=results, closing=True)
    assert read_message(response.SerializeToString()) == (results, True)
    assert read_message(b"") == ([], False)


def test_answers_of_a_batch_are_read_one_by_one() -> None:
    results = [pb.BatchResult(id=n, balance=pb.BalanceResponse(account="a")) for n in range(3)]
    assert read_batch(pb.BatchResponse(results=results).SerializeToString()) == results


def test_fields_of_a_newer_server_are_passed_over() -> None:
    unknown = b"\xfa\x01\x03new"
    response = pb.SessionResponse(results=[pb.BatchResult(id=1)]).SerializeToString()
    results, is_closing = read_message(unknown + response + unknown)
    assert ([result.id for result in results], is_closing) == ([1], False)


@pytest.mark.parametrize("data", [b"\x0a", b"\x0a\x05abc", b"\x0a\x02\x08"])
@pytest.mark.parametrize("read", [read_message, read_batch])
def test_what_is_no_message_is_an_error(data: bytes, read: Callable[[bytes], object]) -> None:
    with pytest.raises(DecodeError):
        read(data)
