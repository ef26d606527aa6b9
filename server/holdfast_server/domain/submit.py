"""The one way in: a list of operations, answered in order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from holdfast_server.domain.operation import Caller, Operation
from holdfast_server.domain.reply import Reply
from holdfast_server.errors import HoldfastError

Answer = Reply | HoldfastError

Given = TypeVar("Given")
Found = TypeVar("Found")


class Submitter(Protocol):
    """Decides operations. A single operation is a list of one: there is no second path."""

    async def submit(self, caller: Caller, operations: Sequence[Operation]) -> list[Answer]:
        """Answers every operation, in order.

        MUST return as many answers as operations and MUST NOT raise for one of them: what could not
        be decided is returned as a `HoldfastError` in its place. A cancelled caller does not cancel
        what was already sent to the store.
        """
        ...


class Asked(NamedTuple):
    """An operation, and who asks for it in which trace."""

    caller: Caller
    operation: Operation


class Attempter(Submitter, Protocol):
    """Can also decide what came at one time without being a list, and wait for none of it."""

    async def attempt(self, asked: Sequence[Asked]) -> list[Answer | None]:
        """Answers those of some independent operations that the hot store decides at once.

        None: nothing was decided, since somebody else has to be asked or waited for. It is to be
        submitted by itself, so that the others need not wait as long.
        """
        ...


async def among(
    asked: Sequence[Given | None], answer: Callable[[list[Given]], Awaitable[Sequence[Found]]]
) -> list[Found | None]:
    """What `answer` finds for those that are not None, each in its place. Nothing that is asked
    is falsy.
    """
    some = list(filter(None, asked))
    if len(some) == len(asked):
        return list(await answer(some))
    found = iter(await answer(some) if some else ())
    return [None if each is None else next(found) for each in asked]
