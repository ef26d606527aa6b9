"""One operation on either way: tried at once first, as calls that travel together are, or not."""

from __future__ import annotations

from holdfast_server.domain.operation import Caller, Operation
from holdfast_server.domain.submit import Answer, Asked, Attempter


async def ask(
    decider: Attempter, caller: Caller, operation: Operation, *, attempted: bool
) -> Answer:
    """The answer, which MUST NOT depend on the way."""
    if attempted:
        (answer,) = await decider.attempt([Asked(caller, operation)])
        if answer is not None:
            return answer
    (answer,) = await decider.submit(caller, [operation])
    return answer
