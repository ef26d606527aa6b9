"""The sessions of one process: who they are for, what each message means, and their end.

The dispatcher answers calls; here are the calls that last.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.v1 import balance_service_pb2 as messages
from holdfast_server.api.allowance import Allowance
from holdfast_server.api.auth.principal import Principal
from holdfast_server.api.balance import slowness
from holdfast_server.api.call import Call, Charge, charged
from holdfast_server.api.deadlines import Deadlines, deadline_exceeded
from holdfast_server.api.methods import Handler, Method
from holdfast_server.api.session import RESULTS_BYTES_MAX, Answers, Context, Put, Session, Ways
from holdfast_server.api.status import sendable
from holdfast_server.api.translate.spending import item_error
from holdfast_server.errors import HoldfastError
from holdfast_server.telemetry.logs import current_place
from holdfast_server.telemetry.names import Attribute
from holdfast_server.telemetry.recorder import Recorder
from holdfast_server.telemetry.tracing import (
    NO_TRACE,
    Span,
    TraceContext,
    Tracing,
    parse_traceparent,
)

Items = Sequence[messages.BatchItem]
_Items = list[messages.BatchItem]


@dataclass(eq=False, slots=True)
class _Group:
    """Operations of one message that are answered together, and once."""

    method: str
    items: Items
    put: Put
    #: Where they stand in a trace: `NO_TRACE` where each may stand elsewhere.
    place: TraceContext
    #: Whether they have no span here, whatever trace they are in.
    is_silent: bool = False
    #: Whether none of them can be answered at once.
    is_slow: bool = False
    began: float = field(default_factory=time.perf_counter)
    is_answered: bool = False


@dataclass(slots=True)
class Streams:
    """Runs sessions. `start` begins work that outlives its stream, which `leave` says is done
    before its task is; `admit` refuses the running task where work is too much.
    """

    allowance: Allowance
    recorder: Recorder
    tracing: Tracing
    start: Callable[[Coroutine[Any, Any, Any]], object]
    leave: Callable[[], object]
    admit: Callable[[], None]
    #: Longest time for what one message asks.
    deadline_s: float
    _open: set[Session] = field(default_factory=set)
    _deadlines: Deadlines[_Group] = field(init=False)

    def __post_init__(self) -> None:
        self._deadlines = Deadlines(self._expire)

    async def run(
        self,
        method: Method,
        context: Context,
        principal: Principal,
        prove: Callable[[], Coroutine[Any, Any, Principal]],
    ) -> None:
        """Serves one stream to its end. Raises HoldfastError where the caller is at fault.

        Each message is for whom the credentials name when it is begun.
        """

        def work(items: Items, put: Put) -> Coroutine[Any, Any, None]:
            return self._work(method, principal, items, put)

        async def prove_again() -> None:
            nonlocal principal
            principal = await prove()

        session = Session(context, Ways(self.start, self.leave, work, prove_again, time.monotonic))
        self._open.add(session)
        self.recorder.sessions(len(self._open))
        try:
            await session.run()
        finally:
            self._open.discard(session)
            self.recorder.sessions(len(self._open))

    def close(self) -> None:
        """Asks the callers of all streams to go elsewhere."""
        for session in self._open:
            session.close()

    async def _work(self, method: Method, principal: Principal, items: Items, put: Put) -> None:
        """Answers one message: what is slow apart from the rest."""
        first, *others = self._groups(method, items, put)
        for group in others:
            self.start(self._answer(method, principal, group))
        await self._answer(method, principal, first)

    def _groups(self, method: Method, items: Items, put: Put) -> Iterator[_Group]:
        """What is answered together: all that has no span here, and each trace that has one; what
        is slow apart, by the reason why it is.
        """
        found = defaultdict[tuple[TraceContext | None, tuple[int, int] | None], _Items](list)
        for item in items:
            place = parse_traceparent(item.traceparent)
            found[None if self.tracing.is_silent(place) else place, slowness(item)].append(item)
        for (span_place, reason), some in found.items():
            is_silent, is_slow = span_place is None, reason is not None
            place = _place(some) if span_place is None else span_place
            yield _Group(method.name, some, put, place, is_silent, is_slow)

    async def _answer(self, method: Method, principal: Principal, group: _Group) -> None:
        """Answers operations: those that can be answered at once do not wait for the others."""
        if len(group.items) == 1 or group.is_slow or method.attempt is None:
            await self._answer_all(method, principal, group, self.allowance.charge)
            return
        asked = len(group.items)
        answer = await self._answer_of(method.attempt, principal, group, self.allowance.charge)
        if not isinstance(answer, HoldfastError) and len(answer.results) < asked:
            later = _rest(group, answer)
            if not group.is_answered:
                self.start(self._answer_all(method, principal, later, charged))
        await self._give(group, answer)

    async def _answer_all(
        self, method: Method, principal: Principal, group: _Group, charge: Charge
    ) -> None:
        await self._give(group, await self._answer_of(method.handle, principal, group, charge))

    async def _answer_of(
        self, handle: Handler, principal: Principal, group: _Group, charge: Charge
    ) -> messages.SessionResponse | HoldfastError:
        """What a handler says of a group in its time. It may be answered before."""
        # Work that is cancelled inside leaves it there, so that it is answered all the same.
        left_s = self.deadline_s - (time.perf_counter() - group.began)
        ticking = self._deadlines.add(group, max(0.0, left_s))
        answer: messages.SessionResponse | HoldfastError
        with self._span(group) as span:
            current_place.set(span.place)
            span.set(Attribute.METHOD, group.method)
            try:
                self.admit()
                answer = await handle(Call(principal, span, charge), group.items)
            except Exception as error:
                answer = sendable(group.method, error)
                span.set(Attribute.STATUS, answer.status.value)
                span.set(Attribute.REASON, answer.reason.name)
        ticking.discard(group)
        return answer

    def _span(self, group: _Group) -> AbstractContextManager[Span]:
        return nullcontext(Span(group.place)) if group.is_silent else self.tracing.rpc(group.place)

    async def _give(self, group: _Group, answer: messages.SessionResponse | HoldfastError) -> None:
        """Answers operations, unless their time was over before."""
        if group.is_answered or not group.items:
            return
        group.is_answered = True
        status = "OK"
        if isinstance(answer, HoldfastError):
            status = answer.status.name
            self.recorder.refused(group.method, answer.reason)
            answer = _refused(group.items, answer)
        self.recorder.rpc(group.method, status, time.perf_counter() - group.began)
        payload = answer.SerializeToString()
        if len(payload) <= RESULTS_BYTES_MAX:
            await group.put(Answers([item.id for item in group.items], payload))
            return
        for part in _parts(answer.results):
            await group.put(Answers([each.id for each in part.results], part.SerializeToString()))

    def _expire(self, group: _Group) -> None:
        self.start(self._give(group, deadline_exceeded()))


def _place(items: Items) -> TraceContext:
    """Where one operation stands; many have no place in common."""
    return parse_traceparent(items[0].traceparent) if len(items) == 1 else NO_TRACE


def _rest(group: _Group, answer: messages.SessionResponse) -> _Group:
    """Leaves a group what was answered; the rest goes on."""
    answered = {result.id for result in answer.results}
    rest = [item for item in group.items if item.id not in answered]
    group.items = [item for item in group.items if item.id in answered]
    return replace(group, items=rest, place=_place(rest) if group.is_silent else group.place)


def _parts(results: Iterable[messages.BatchResult]) -> Iterator[messages.SessionResponse]:
    """Results that are too long for one message, in as many as they need."""
    part, size = messages.SessionResponse(), 0
    for result in results:
        size += result.ByteSize()
        if part.results and size > RESULTS_BYTES_MAX:
            yield part
            part, size = messages.SessionResponse(), result.ByteSize()
        part.results.append(result)
    yield part


def _refused(items: Items, error: HoldfastError) -> messages.SessionResponse:
    said = item_error(error)
    results = [messages.BatchResult(id=item.id, error=said) for item in items]
    return messages.SessionResponse(results=results)
