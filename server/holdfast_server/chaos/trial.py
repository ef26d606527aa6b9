"""Callers and their accounts on a stack, from the first credits to the verdict."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TextIO

from holdfast import AsyncClient, Durability, Mode, Policy, Scope, ScopeKind
from holdfast_server.app.problem import Problem
from holdfast_server.chaos import checkers
from holdfast_server.chaos.history import Attempts, history_of
from holdfast_server.chaos.load import CREDITS, PREMIUM, TIMEOUT_MS, TTL_MS, Caller
from holdfast_server.chaos.plan import KILL_EFFECT_S
from holdfast_server.chaos.stack import Stack
from holdfast_server.workload.checks.audit import Audit, Auditor

#: Callers, and the connections that they share: the kernel spreads them over the workers.
CALLERS: Final = 12
CONNECTIONS: Final = 4
#: How long a call may take before anything is broken, on a machine that has much to do.
SET_UP_MS: Final = 60_000
#: Trees of two levels, half of them with credits for everything and half of them short.
ROOTS: Final = 12
PLENTY: Final = 1_000_000
SHORT: Final = 3_000
#: The tree that is in shadow mode: one that is short of credits.
SHADOW_ROOT: Final = 1
#: So long after everything was healed every call that was under way has ended.
LIVENESS_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a trial left behind."""

    #: What the audit found; None when the service never came to rest.
    audit: Audit | None
    #: All that does not hold.
    violations: Sequence[str]
    #: Seconds from healing until every call had ended.
    recovered_s: float


@dataclass(slots=True)
class Trial:
    """Everybody who calls, and what they were told."""

    stack: Stack
    callers: Sequence[Caller]
    clients: Sequence[AsyncClient]
    accounts: Sequence[str]
    attempts: Attempts
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _running: list[asyncio.Task[None]] = field(default_factory=list)

    async def set_up(self) -> None:
        """Makes the accounts and gives them credits. Raises Problem when that is not answered."""
        async with AsyncClient(
            self.stack.target, timeout_ms=SET_UP_MS, attempt_timeout_ms=SET_UP_MS
        ) as client:
            for credit_type in (CREDITS, PREMIUM):
                await client.create_credit_type(credit_type)
            await asyncio.gather(*(self._set_up_root(number) for number in range(ROOTS)))
            for account in (self.accounts[SHADOW_ROOT], f"{self.accounts[SHADOW_ROOT]}-below"):
                policy = Policy(Scope(ScopeKind.ACCOUNT, account), Mode.SHADOW)
                await client.set_policy(policy, reason="watched, never denied")

    async def _set_up_root(self, number: int) -> None:
        caller, root = self.callers[number % len(self.callers)], self.accounts[number]
        for question in (
            caller.create(root, ""),
            caller.create(f"{root}-below", root),
            caller.grant(root, SHORT if number % 2 else PLENTY, durability=Durability.MEMORY),
            caller.grant(root, PLENTY, PREMIUM, Durability.MEMORY),
        ):
            if await caller.answer(question, patiently=True) is None:
                raise Problem(f"{question.op} was not answered before anything was broken")

    def start(self) -> None:
        """Everybody begins to call."""
        self._running = [asyncio.create_task(caller.run(self._stopping)) for caller in self.callers]

    async def end(self, killed: Sequence[checkers.Period] = ()) -> Verdict:
        """Lets every call end, waits until nothing moves, and checks everything.

        Call it when nothing is broken any more. `killed`: when the kill switch was on.
        """
        await self.stack.ready()
        healed_s = time.monotonic()
        stuck = await self._all_done()
        recovered_s = time.monotonic() - healed_s
        made = self.attempts.made
        late = checkers.finished(made, healed_s, LIVENESS_S)
        refused = [each for on in killed for each in checkers.kill_works(made, on, KILL_EFFECT_S)]
        promises = [*stuck, *late, *refused, *checkers.check(made)]
        try:
            audit = await self._audit(promises)
        except TimeoutError as error:
            return Verdict(None, [str(error), *promises], recovered_s)
        return Verdict(audit, audit.violations, recovered_s)

    async def _all_done(self) -> list[str]:
        """Waits for every caller; a sentence about those that still wait for an answer."""
        self._stopping.set()
        _, stuck = await asyncio.wait(self._running, timeout=LIVENESS_S)
        await self.stop()
        for task in self._running:
            if not task.cancelled() and (error := task.exception()):
                raise error
        if not stuck:
            return []
        return [f"{len(stuck)} callers had no answer {LIVENESS_S:.0f} s after all was healed"]

    async def stop(self) -> None:
        """Everybody stops at once."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _audit(self, promises: list[str]) -> Audit:
        stack, history = self.stack, history_of(self.attempts.made, promises)
        auditor = Auditor(self.clients[0], stack.ledger.url, stack.store.url, self.accounts)
        return await auditor.audit(history)


@asynccontextmanager
async def trial(
    stack: Stack, seed: int, file: TextIO, *, ttl_ms: int = TTL_MS
) -> AsyncIterator[Trial]:
    """A trial whose callers are calling. Every attempt is written to `file`."""
    attempts, prefix = Attempts(file), f"chaos-{secrets.token_hex(4)}"
    roots = [f"{prefix}-{number}" for number in range(ROOTS)]
    accounts = [*roots, *(f"{root}-below" for root in roots)]
    async with AsyncExitStack() as opened:
        clients = [
            await opened.enter_async_context(
                AsyncClient(stack.target, credit_type=CREDITS, timeout_ms=TIMEOUT_MS)
            )
            for _ in range(CONNECTIONS)
        ]
        callers = [
            Caller(
                f"caller-{number}",
                clients,
                accounts,
                attempts,
                random.Random(f"{seed}/{number}"),
                ttl_ms,
            )
            for number in range(CALLERS)
        ]
        one = Trial(stack, callers, clients, accounts, attempts)
        opened.push_async_callback(one.stop)
        await one.set_up()
        one.start()
        yield one
