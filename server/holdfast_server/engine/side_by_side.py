"""Calls that run side by side, each with its own end: where one fails, the others have answers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

from holdfast_server.errors import HoldfastError

#: Calls that run at one time.
CALLS_MAX: Final = 16

Item = TypeVar("Item")


async def gather(calls: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Answers, or the errors in place of them."""
    free = asyncio.Semaphore(CALLS_MAX)

    async def one(call: Coroutine[Any, Any, Any]) -> Any:
        async with free:
            try:
                return await call
            except HoldfastError as error:
                return error

    try:
        return list(await asyncio.gather(*map(one, calls)))
    finally:
        # Whoever is cancelled has not begun some of them.
        for call in calls:
            call.close()


def answered(found: Sequence[Any]) -> list[Any]:
    """What was answered. Raises the first error where nobody answered."""
    answers = [each for each in found if not isinstance(each, HoldfastError)]
    return answers if answers or not found else whole(found)


def whole(found: Sequence[Any]) -> list[Any]:
    """All answers. Raises the first error."""
    for each in found:
        if isinstance(each, HoldfastError):
            raise each
    return list(found)


def in_parts(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """The items in their order, so many at a time."""
    return [items[first : first + size] for first in range(0, len(items), size)]
