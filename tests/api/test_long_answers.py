"""Answers that are too long together for one message, such as the balances of many grants."""

from __future__ import annotations

from google.protobuf.message import Message

from holdfast.v1 import balance_service_pb2 as balance
from holdfast.v1 import reason_pb2 as reasons
from holdfast_server.api.balance import BATCH_ANSWER_BYTES_MAX
from holdfast_server.api.session import RESULTS_BYTES_MAX
from holdfast_server.domain import reply
from holdfast_server.domain.operation import Operation
from holdfast_server.domain.submit import Answer
from tests.api.recording import Recording, running
from tests.support.stubs import stubs

#: Bytes of one answer, and operations that are asked at once.
ANSWER_BYTES, OPERATIONS = 300_000, 20
#: What a caller reads that sets nothing.
READS_BYTES = 4 * 1_048_576


async def long_balance(operation: Operation) -> Answer:
    return reply.BalanceReply(
        account="a" * ANSWER_BYTES, credits=(), limits=(), open_holds=0, as_of_ms=1
    )


def items() -> list[balance.BatchItem]:
    asked = balance.BalanceRequest(account="a")
    return [balance.BatchItem(id=id, balance=asked) for id in range(1, OPERATIONS + 1)]


def size(message: Message) -> int:
    return message.ByteSize()


async def test_a_stream_gets_them_in_several_messages() -> None:
    async with running(Recording(long_balance)) as served, stubs(served.port) as client:
        stream = client.session()
        await stream.write(balance.SessionRequest(items=items()))
        ids: list[int] = []
        while len(ids) < OPERATIONS:
            answer = await stream.read()
            assert size(answer) <= RESULTS_BYTES_MAX
            ids += [result.id for result in answer.results]
        assert ids == list(range(1, OPERATIONS + 1))
        await stream.done_writing()


async def test_a_batch_is_told_to_ask_again_for_what_has_no_room() -> None:
    async with running(Recording(long_balance)) as served, stubs(served.port) as client:
        request = balance.BatchRequest(items=items())
        for item in request.items:
            item.ClearField("id")
        answer = await client.balance.Batch(request)
    room = BATCH_ANSWER_BYTES_MAX // ANSWER_BYTES
    assert size(answer) < READS_BYTES
    kinds = [result.WhichOneof("result") for result in answer.results]
    assert kinds == ["balance"] * room + ["error"] * (OPERATIONS - room)
    assert answer.results[-1].error.reason == reasons.REASON_RESULT_UNKNOWN
