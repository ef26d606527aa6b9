"""Many calls share a timer, and each is given up in time all the same."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from holdfast_server.api.deadlines import TICK_SECONDS, Deadlines
from tests.support.waiting import WAIT_SECONDS, until

Answer = asyncio.Future[Any]


def give_up(answer: Answer) -> None:
    if not answer.done():
        answer.set_result(asyncio.get_running_loop().time())


async def test_an_answer_is_given_up_at_its_deadline_and_not_before() -> None:
    loop, deadlines = asyncio.get_running_loop(), Deadlines(give_up)
    answers: list[tuple[float, Answer]] = []
    for seconds in (0.05, 0.01, 0.0, -1.0, 0.03):
        answer: Answer = loop.create_future()
        answers.append((loop.time() + seconds, answer))
        deadlines.add(answer, seconds)

    async with asyncio.timeout(WAIT_SECONDS):
        ended = [(due, await answer) for due, answer in answers]

    # An event loop calls what is due up to the resolution of its clock early.
    assert all(at >= due - time.get_clock_info("monotonic").resolution for due, at in ended)


async def test_those_of_one_tick_share_a_timer() -> None:
    loop, deadlines = asyncio.get_running_loop(), Deadlines(give_up)
    timers = len(loop._scheduled)  # type: ignore[attr-defined]
    for _ in range(100):
        deadlines.add(loop.create_future(), 60)

    assert len(loop._scheduled) - timers < 10  # type: ignore[attr-defined]


async def test_what_was_taken_out_is_left_alone() -> None:
    loop, deadlines = asyncio.get_running_loop(), Deadlines(give_up)
    answered, late = loop.create_future(), loop.create_future()
    ticking = deadlines.add(answered, TICK_SECONDS)
    ticking.discard(answered)
    deadlines.add(late, 2 * TICK_SECONDS)

    async with asyncio.timeout(WAIT_SECONDS):
        await late

    assert not answered.done()


async def test_a_short_time_is_kept_to() -> None:
    """One that is over soon is not shared, so that it is not over a tick later."""
    loop, ended = asyncio.get_running_loop(), list[Answer]()
    deadlines = Deadlines(ended.append)
    shared, short = loop.create_future(), loop.create_future()
    deadlines.add(shared, TICK_SECONDS)
    deadlines.add(short, TICK_SECONDS / 4)

    await until(lambda: len(ended) == 2, WAIT_SECONDS)

    assert ended == [short, shared]
