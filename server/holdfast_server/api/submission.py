"""Operations to the submitter and back; what was decided is counted here, once for each."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from holdfast_server.api.call import Call
from holdfast_server.domain.operation import Caller, Mode, Operation
from holdfast_server.domain.reply import (
    BurnReply,
    CommitReply,
    ExtendReply,
    Outcome,
    ReleaseReply,
    Reply,
    ReserveReply,
    WarningKind,
)
from holdfast_server.domain.submit import Answer, Asked, Attempter, among
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.telemetry.names import Attribute
from holdfast_server.telemetry.recorder import Recorder
from holdfast_server.telemetry.tracing import Span

#: Answers that may be a denial, and what is counted of them.
_Decided = ReserveReply | CommitReply | ReleaseReply | ExtendReply | BurnReply
_Labels = tuple[str, Outcome, Reason, Mode]
#: Answers that may warn of something.
_WARNING = (ReserveReply, CommitReply, BurnReply)

_log = logging.getLogger(__name__)

Wanted = TypeVar("Wanted", bound=Reply)


class Submission:
    """The way of every service to the submitter."""

    def __init__(self, submitter: Attempter, recorder: Recorder) -> None:
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
        self._count_decided(call, [operation], [answer])
        return answer

    async def attempt(
        self, call: Call, callers: Iterable[Caller], items: Sequence[Operation | HoldfastError]
    ) -> list[Answer | None]:
        """The answers of all items as far as they come at once; see `Attempter.attempt`."""
        asked = [
            None if isinstance(item, HoldfastError) else Asked(caller, item)
            for caller, item in zip(callers, items, strict=True)
        ]
        answers = await among(asked, self._submitter.attempt)
        self._count_decided(call, items, answers)
        return [
            item if isinstance(item, HoldfastError) else answer
            for item, answer in zip(items, answers, strict=True)
        ]

    async def many(
        self, call: Call, callers: Iterable[Caller], items: Sequence[Operation | HoldfastError]
    ) -> list[Answer]:
        """The answers of all items in order, of which each caller's are decided in theirs; what was
        refused for its form is not submitted.
        """
        asked = list(zip(callers, items, strict=True))
        operations = defaultdict[Caller, list[Operation]](list)
        for caller, item in asked:
            if not isinstance(item, HoldfastError):
                operations[caller].append(item)
        decided = await self._submit(operations)
        answers = [
            item if isinstance(item, HoldfastError) else next(decided[caller])
            for caller, item in asked
        ]
        self.count_refused(items, answers)
        self._count_decided(call, items, answers)
        return answers

    async def _submit(
        self, operations: Mapping[Caller, Sequence[Operation]]
    ) -> dict[Caller, Iterator[Answer]]:
        """The answers to what each caller asks, in order."""
        submitted = [self._submitter.submit(*each) for each in operations.items()]
        # One is waited for here: a task for it would cost more than the wait.
        found = [await submitted[0]] if len(submitted) == 1 else await asyncio.gather(*submitted)
        return dict(zip(operations, map(iter, found), strict=True))

    def count_refused(
        self, items: Sequence[Operation | HoldfastError], answers: Sequence[Answer | None]
    ) -> None:
        """Reports of what no decision came, besides what was refused for its form."""
        for item, answer in zip(items, answers, strict=True):
            if isinstance(answer, HoldfastError) and answer is not item:
                self._recorder.refused(type(item).__name__, answer.reason)

    def _count_decided(
        self,
        call: Call,
        items: Sequence[Operation | HoldfastError],
        answers: Sequence[Answer | None],
    ) -> None:
        """Reports what was decided; what many operations have in common, once for all of them."""
        decided: Counter[_Labels] = Counter()
        for item, answer in zip(items, answers, strict=True):
            if isinstance(answer, _Decided):
                decided[_labels(item, answer)] += 1
                if isinstance(answer, _WARNING) and answer.warnings:
                    self._note_warnings(item, answer)
        for labels, count in decided.items():
            self._recorder.decision(*labels, count)
            if len(items) == 1:
                _note(call.span, labels)

    def _note_warnings(
        self, item: Operation | HoldfastError, answer: ReserveReply | CommitReply | BurnReply
    ) -> None:
        """Counts what an answer warns of, once, and tells of a threshold that was crossed."""
        if answer.applied.replayed or isinstance(item, HoldfastError):
            return
        for warning in answer.warnings:
            self._recorder.warned(warning.kind)
            if warning.kind is not WarningKind.SOFT_LIMIT_EXCEEDED:
                facts = {
                    "tenant": item.tenant,
                    "account": warning.account,
                    "limit": warning.limit_id,
                    "credit_type": warning.credit_type,
                    "percent": warning.percent,
                }
                _log.info("a threshold was crossed", extra={"facts": facts})


def _note(span: Span, labels: _Labels) -> None:
    """What was decided on the one operation of a call, for whoever looks at its trace."""
    _, outcome, reason, mode = labels
    span.set(Attribute.OUTCOME, outcome.name)
    span.set(Attribute.REASON, reason.name)
    span.set(Attribute.MODE, mode.name)


def _labels(item: Operation | HoldfastError, answer: _Decided) -> _Labels:
    decision = answer.decision
    return type(item).__name__, decision.outcome, decision.reason, decision.mode
