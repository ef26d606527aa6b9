"""One timer ends all operations whose time is over, and none before."""

from __future__ import annotations

import asyncio
import time

from holdfast import Unreachable
from holdfast._stream import Asked
from holdfast._watch import Watch
from holdfast.v1 import balance_service_pb2 as pb


def asked(id: int, after_s: float) -> tuple[Asked, asyncio.Future[pb.BatchResult]]:
    answer: asyncio.Future[pb.BatchResult] = asyncio.get_running_loop().create_future()
    return Asked(answer, id, b"", False, time.monotonic() + after_s), answer


class Waiting:
    """Operations that wait, and the watch over them."""

    def __init__(self) -> None:
        self.waiting: dict[int, Asked] = {}
        self.looks = 0
        self.watch = Watch(self.look)

    def look(self) -> list[Asked]:
        self.looks += 1
        return list(self.waiting.values())

    def add(self, after_s: float) -> asyncio.Future[pb.BatchResult]:
        one, answer = asked(len(self.waiting) + 1, after_s)
        one.place = self.waiting
        self.waiting[one.id] = one
        self.watch.add(one.deadline_s)
        return answer


async def test_each_ends_at_its_own_time() -> None:
    waiting = Waiting()
    late, soon = waiting.add(3_600), waiting.add(0.02)
    ended = await asyncio.gather(soon, return_exceptions=True)
    assert isinstance(ended[0], Unreachable)
    assert not ended[0].result_unknown
    assert list(waiting.waiting) == [1]
    assert not late.done()
    waiting.watch.cancel()


async def test_many_share_one_look() -> None:
    waiting = Waiting()
    answers = [waiting.add(0.02 + n / 1e6) for n in range(1_000)]
    await asyncio.wait(answers)
    assert {type(answer.exception()) for answer in answers} == {Unreachable}
    assert waiting.looks < 100
    assert not waiting.waiting
