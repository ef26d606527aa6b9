"""One chaos run: set up, break things under load, heal, wait for rest, check everything."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from holdfast import AsyncClient, Durability
from holdfast_server.app.problem import Problem
from holdfast_server.chaos import checkers
from holdfast_server.chaos.history import Attempts, history_of
from holdfast_server.chaos.inject import Injector
from holdfast_server.chaos.load import CREDITS, PREMIUM, TIMEOUT_MS, Caller
from holdfast_server.chaos.plan import Fault, plan_faults
from holdfast_server.chaos.report import Ending, Options, Report, make_report
from holdfast_server.chaos.stack import Stack
from holdfast_server.workload.checks.audit import Audit, Auditor

#: Callers, and the connections that they share: each lands on a worker of its own.
CALLERS: Final = 12
CONNECTIONS: Final = 4
#: Trees of two levels, half of them with credits for everything and half of them short.
ROOTS: Final = 12
PLENTY: Final = 1_000_000
SHORT: Final = 3_000
#: So long after everything was healed every call that was under way has ended.
LIVENESS_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Listener:
    """Who hears how a run goes on."""

    phase: Callable[[str], None]
    fault: Callable[[Fault], None]


@dataclass(slots=True)
class _Cast:
    """Everybody in a run."""

    callers: list[Caller]
    accounts: list[str]
    attempts: Attempts
    clients: list[AsyncClient]


async def run(folder: Path, options: Options, listener: Listener) -> Report:
    """Breaks a service of its own below `folder`. The history is in `history.jsonl` there.

    Raises Problem when the service does not start before anything is broken.
    """
    with (folder / "history.jsonl").open("w", encoding="utf-8") as file:
        listener.phase("starting")
        async with Stack(folder) as stack, AsyncExitStack() as open_clients:
            clients = [
                await open_clients.enter_async_context(
                    AsyncClient(stack.target, credit_type=CREDITS, timeout_ms=TIMEOUT_MS)
                )
                for _ in range(CONNECTIONS)
            ]
            cast = _cast(clients, Attempts(file), options.seed)
            await _set_up(cast)
            return await _play(stack, cast, options, listener)


def _cast(clients: list[AsyncClient], attempts: Attempts, seed: int) -> _Cast:
    prefix = f"chaos-{secrets.token_hex(4)}"
    roots = [f"{prefix}-{number}" for number in range(ROOTS)]
    accounts = [*roots, *(f"{root}-below" for root in roots)]
    callers = [
        Caller(f"caller-{number}", clients, accounts, attempts, random.Random(f"{seed}/{number}"))
        for number in range(CALLERS)
    ]
    return _Cast(callers, accounts, attempts, clients)


async def _set_up(cast: _Cast) -> None:
    for credit_type in (CREDITS, PREMIUM):
        await cast.clients[0].create_credit_type(credit_type)
    first, roots = cast.callers[0], cast.accounts[:ROOTS]
    for number, root in enumerate(roots):
        amount = SHORT if number % 2 else PLENTY
        questions = [
            first.create(root, ""),
            first.create(f"{root}-below", root),
            first.grant(root, amount, durability=Durability.MEMORY),
            first.grant(root, PLENTY, PREMIUM, Durability.MEMORY),
        ]
        for question in questions:
            if await first.answer(question) is None:
                raise Problem(f"{question.op} was not answered before anything was broken")


async def _play(stack: Stack, cast: _Cast, options: Options, listener: Listener) -> Report:
    injector = Injector(stack, random.Random(f"inject/{options.seed}"))
    faults = plan_faults(options.seed, options.seconds)
    stopping = asyncio.Event()
    listener.phase("breaking")
    running = [asyncio.create_task(caller.run(stopping)) for caller in cast.callers]
    await injector.run(faults, listener.fault)
    listener.phase("healing")
    await stack.ready()
    healed_s = time.monotonic()
    stopping.set()
    stuck = await _all_done(running)
    done_s = time.monotonic() - healed_s
    listener.phase("checking")
    audit, restless = await _audit(stack, cast, [*stuck, *_checked(cast, healed_s)])
    ending = Ending(audit, restless, done_s)
    return make_report(options, cast.attempts.made, injector.done, ending)


async def _all_done(running: Sequence[asyncio.Task[None]]) -> list[str]:
    """Waits for every caller; sentences about those that are still waiting for an answer."""
    _, stuck = await asyncio.wait(running, timeout=LIVENESS_S)
    for task in stuck:
        task.cancel()
    found = await asyncio.gather(*running, return_exceptions=True)
    for one in found:
        if isinstance(one, Exception):
            raise one
    if not stuck:
        return []
    return [f"{len(stuck)} callers had no answer {LIVENESS_S:.0f} s after all was healed"]


def _checked(cast: _Cast, healed_s: float) -> list[str]:
    made = cast.attempts.made
    return [*checkers.check(made), *checkers.finished(made, healed_s, LIVENESS_S)]


async def _audit(stack: Stack, cast: _Cast, promises: list[str]) -> tuple[Audit | None, list[str]]:
    """What the audit found; None and a sentence when the service never came to rest."""
    history = history_of(cast.attempts.made, promises)
    auditor = Auditor(cast.clients[0], stack.ledger.url, stack.store.url, cast.accounts)
    try:
        return await auditor.audit(history), []
    except TimeoutError as error:
        return None, [str(error), *promises]
