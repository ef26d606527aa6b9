"""Calls of the hot path that arrive while the process is busy travel together.

Each costs less then, and none is late for it: they would all wait for this process. A process that
has nothing else to do goes with each call at once. Together go calls of one principal, as the
operations of a stream's message do; but a call for which anybody but the hot store has to be asked,
or waited for, goes on by itself, so that the others do not wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.message import Message

from holdfast_server.api.answers import Waiting, fail, fulfil, give, result_unknown
from holdfast_server.api.auth.principal import Principal
from holdfast_server.api.call import Call, Charge, charged
from holdfast_server.api.methods import Attempt, Method
from holdfast_server.api.status import sendable
from holdfast_server.engine.idle import UntilIdle
from holdfast_server.errors import HoldfastError
from holdfast_server.telemetry.tracing import Span, TraceContext

#: So many go even while the process is busy: among more, each costs hardly less.
TOGETHER_MAX: Final = 16

_Key = tuple[str, Principal]


@dataclass(frozen=True, slots=True)
class Traveller:
    """One call, where it is in its caller's trace, and the answer that somebody waits for."""

    method: Method
    request: Message
    place: TraceContext
    answer: Waiting


@dataclass(slots=True)
class _Group:
    attempt: Attempt
    call: Call
    travellers: list[Traveller] = field(default_factory=list)
    until_idle: UntilIdle = field(default_factory=UntilIdle)


@dataclass(slots=True)
class Company:
    """Gathers calls and goes with them. `start` begins work that outlives its callers."""

    charge: Charge
    start: Callable[[Coroutine[Any, Any, None]], object]
    _gathering: dict[_Key, _Group] = field(default_factory=dict, init=False)
    #: Calls under way besides the first of each group, for which its task stands.
    others: int = field(default=0, init=False)

    def join(self, principal: Principal, attempt: Attempt, traveller: Traveller) -> None:
        """Takes a call along. Its answer comes, whatever happens."""
        key = traveller.method.service, principal
        group = self._gathering.get(key)
        if group is None:
            group = _Group(attempt, Call(principal, Span(), self.charge))
            self._gathering[key] = group
            self.start(self._go(key, group))
        else:
            self.others += 1
        group.travellers.append(traveller)
        if len(group.travellers) == TOGETHER_MAX:
            del self._gathering[key]
            group.until_idle.end()

    async def _go(self, key: _Key, group: _Group) -> None:
        try:
            await self._gather(key, group)
            await self._answer(group)
        except asyncio.CancelledError:
            # Work that was cancelled inside must not leave clients waiting for an answer.
            for each in group.travellers:
                fail(each.answer, result_unknown())
            raise
        finally:
            self.others -= len(group.travellers) - 1

    async def _gather(self, key: _Key, group: _Group) -> None:
        """Takes along whoever comes until the group is full, or nobody is about to come."""
        if self._gathering.get(key) is group:
            await group.until_idle.wait()
        if self._gathering.get(key) is group:
            del self._gathering[key]

    async def _answer(self, group: _Group) -> None:
        asked = [(each.method.name, each.request, each.place) for each in group.travellers]
        answers: Sequence[Message | HoldfastError | None]
        try:
            answers = await group.attempt(group.call, asked)
        except Exception as error:
            answers = [sendable(asked[0][0], error)] * len(asked)
        for traveller, answer in zip(group.travellers, answers, strict=True):
            self._take_leave(group.call, traveller, answer)

    def _take_leave(
        self, call: Call, traveller: Traveller, answer: Message | HoldfastError | None
    ) -> None:
        if answer is None:
            self.start(fulfil(traveller.answer, _alone(traveller, call)))
        elif isinstance(answer, HoldfastError):
            fail(traveller.answer, sendable(traveller.method.name, answer))
        else:
            give(traveller.answer, answer.SerializeToString())


async def _alone(traveller: Traveller, call: Call) -> bytes:
    """Answers a call of which an attempt did nothing but charge for it."""
    method = traveller.method
    try:
        alone = Call(call.principal, Span(traveller.place), charged)
        return await method.reply(alone, traveller.request)
    except Exception as error:
        raise sendable(method.name, error) from None
