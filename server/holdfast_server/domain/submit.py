"""The one way in: a list of operations, answered in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from holdfast_server.domain.operation import Caller, Operation
from holdfast_server.domain.reply import Reply
from holdfast_server.errors import HoldfastError

Answer = Reply | HoldfastError


class Submitter(Protocol):
    """Decides operations. A single operation is a list of one: there is no second path."""

    async def submit(self, caller: Caller, operations: Sequence[Operation]) -> list[Answer]:
        """Answers every operation, in order.

        MUST return as many answers as operations and MUST NOT raise for one of them: what could not
        be decided is returned as a `HoldfastError` in its place. A cancelled caller does not cancel
        what was already sent to the store.
        """
        ...
