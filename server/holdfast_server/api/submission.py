"""Operations to the submitter and back; what was decided is counted here, once for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from holdfast_server.api.call import Call
from holdfast_server.domain.operation import Operation
from holdfast_server.domain.reply import Decision, Reply
from holdfast_server.domain.submit import Answer, Submitter
from holdfast_server.errors import HoldfastError
from holdfast_server.telemetry.recorder import Recorder

Wanted = TypeVar("Wanted", bound=Reply)


class Submission:
    """The way of every service to the submitter."""

    def __init__(self, submitter: Submitter, recorder: Recorder) -> None:
        self._submitter = submitter
        self._recorder = recorder

    async def one(self, call: Call, operation: Operation, wanted: type[Wanted]) -> Wanted:
        """The answer to one operation, of the kind that its method has: a list of one.

        Raises HoldfastError when there is no decision, and TypeError for an answer of another kind.
        """
        (answer,) = await self._submitter.submit(call.caller, [operation])
        if isinstance(answer, HoldfastError):
            raise answer
        if not isinstance(answer, wanted):
            raise TypeError(f"{type(operation).__name__} was answered by {type(answer).__name__}")
        self._count(operation, answer)
        return answer

    async def many(self, call: Call, items: Sequence[Operation | HoldfastError]) -> list[Answer]:
        """The answers of all items in order; what was refused for its form is not submitted."""
        operations = [item for item in items if not isinstance(item, HoldfastError)]
        answers = await self._submitter.submit(call.caller, operations) if operations else []
        for operation, answer in zip(operations, answers, strict=True):
            self._count(operation, answer)
        decided = iter(answers)
        return [item if isinstance(item, HoldfastError) else next(decided) for item in items]

    def _count(self, operation: Operation, answer: Answer) -> None:
        method = type(operation).__name__
        if isinstance(answer, HoldfastError):
            self._recorder.refused(method, answer.reason)
            return
        decision = getattr(answer, "decision", None)
        if isinstance(decision, Decision):
            self._recorder.decision(method, decision.outcome, decision.reason, decision.mode)
