"""Answers that somebody waits for, unless the caller or the deadline was faster."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from holdfast_server.errors import HoldfastError, Reason

Waiting = asyncio.Future[bytes]


def give(answer: Waiting, payload: bytes) -> None:
    """Answers, if anybody still waits."""
    if not answer.done():
        answer.set_result(payload)


def fail(answer: Waiting, error: HoldfastError) -> None:
    """Answers with an error, if anybody still waits."""
    if not answer.done():
        answer.set_exception(error)


async def fulfil(answer: Waiting, reply: Coroutine[Any, Any, bytes]) -> None:
    """Works, and answers if anybody still waits. `reply` raises nothing but HoldfastError."""
    try:
        give(answer, await reply)
    except HoldfastError as error:
        fail(answer, error)
    except asyncio.CancelledError:
        # Work that was cancelled inside must not leave the client waiting for an answer.
        fail(answer, result_unknown())
        raise


def result_unknown() -> HoldfastError:
    """The answer when work was ended from inside before it was known what became of it."""
    return HoldfastError(
        Reason.RESULT_UNKNOWN,
        "The work was interrupted and its result is not known; retry with the same key.",
    )
