"""Does to a stack what was planned, and undoes it."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from holdfast_server.chaos.checkers import Period
from holdfast_server.chaos.plan import Fault, Kind, Target
from holdfast_server.chaos.proxy import Proxy
from holdfast_server.chaos.stack import Stack, family, send

#: Slow, but slower than any timeout only for a flood.
DELAY_S: Final = 0.15
BYTES_PER_S: Final = 20_000
#: Replies that are lost in one fault.
REPLIES: Final = 5


@dataclass
class Injector:
    """Breaks one stack."""

    stack: Stack
    source: random.Random
    #: What was done, by kind.
    done: Counter[Kind] = field(default_factory=Counter)
    #: When the kill switch was on.
    killed: list[Period] = field(default_factory=list)
    #: One fault at a time for each target, however long its end takes.
    _turns: dict[Target, asyncio.Lock] = field(
        default_factory=lambda: {target: asyncio.Lock() for target in Target}
    )

    async def run(self, faults: Iterable[Fault], on_fault: Callable[[Fault], None]) -> None:
        """Does every fault when it is due; returns when all are over."""
        begun = asyncio.get_running_loop().time()

        async def later(fault: Fault) -> None:
            await asyncio.sleep(begun + fault.at_s - asyncio.get_running_loop().time())
            on_fault(fault)
            await self.inject(fault.kind, fault.lasts_s)

        async with asyncio.TaskGroup() as group:
            for fault in faults:
                group.create_task(later(fault))

    async def inject(self, kind: Kind, lasts_s: float) -> None:
        """One fault, from its beginning to its end; none where nobody is there to break."""
        async with self._turns[kind.target]:
            if await self._does(kind)(lasts_s):
                self.done[kind] += 1

    def _does(self, kind: Kind) -> Callable[[float], Awaitable[bool]]:
        if kind.target is Target.SERVICE:
            return {
                Kind.WORKER_KILL: lambda lasts_s: self._killed("worker"),
                Kind.WORKER_STOP: lambda lasts_s: self._stopped(self._one("worker"), lasts_s),
                Kind.FLUSHER_KILL: lambda lasts_s: self._killed("flush"),
                Kind.FLUSHER_STOP: lambda lasts_s: self._stopped(self._one("flush"), lasts_s),
                Kind.SWEEPER_KILL: lambda lasts_s: self._killed("sweep"),
                Kind.SUPERVISOR_KILL: lambda lasts_s: self.stack.kill_supervisor(),
                Kind.KILL_SWITCH: self._let_through,
            }[kind]
        fault = kind.value.partition("_")[2]
        return lambda lasts_s: self._server(kind.target, fault, lasts_s)

    # --- The service ----------------------------------------------------------------------------

    def _one(self, role: str) -> list[int]:
        found = self.stack.processes(role)
        return [self.source.choice(found)] if found else []

    async def _killed(self, role: str) -> bool:
        processes = self._one(role)
        for process in processes:
            send(process, signal.SIGKILL)
        return bool(processes)

    async def _stopped(self, processes: list[int], lasts_s: float) -> bool:
        """They neither answer nor end, as if the machine had forgotten them."""
        for process in processes:
            send(process, signal.SIGSTOP)
        try:
            await asyncio.sleep(lasts_s)
        finally:
            for process in processes:
                send(process, signal.SIGCONT)
        return bool(processes)

    async def _let_through(self, lasts_s: float) -> bool:
        """Turns the kill switch on, as an operator does who has nothing but a shell."""
        begin_s = time.monotonic()
        self.stack.kill_file.touch()
        try:
            await asyncio.sleep(lasts_s)
        finally:
            self.killed.append(Period(begin_s, time.monotonic()))
            self.stack.kill_file.unlink()
        return True

    # --- The stores -----------------------------------------------------------------------------

    async def _server(self, target: Target, fault: str, lasts_s: float) -> bool:
        stack, is_store = self.stack, target is Target.STORE
        if fault in ("kill", "restart"):
            await self._away(is_store, fault == "kill", lasts_s)
        elif fault == "stop":
            server = stack.store if is_store else stack.ledger
            await self._stopped(family(server.pid), lasts_s)
        else:
            await self._line(stack.store_proxy if is_store else stack.ledger_proxy, fault, lasts_s)
        return True

    async def _away(self, is_store: bool, at_once: bool, lasts_s: float) -> None:
        stack = self.stack
        end = {
            (True, True): stack.kill_store,
            (True, False): stack.stop_store,
            (False, True): stack.kill_ledger,
            (False, False): stack.stop_ledger,
        }[is_store, at_once]
        await end()
        try:
            await asyncio.sleep(lasts_s)
        finally:
            await (stack.start_store() if is_store else stack.start_ledger())

    async def _line(self, proxy: Proxy, fault: str, lasts_s: float) -> None:
        break_it: dict[str, Callable[[], None]] = {
            "cut": proxy.cut,
            "blackhole": proxy.blackhole,
            "half_open": lambda: proxy.half_open("replies"),
            "drop_reply": lambda: proxy.drop_reply(REPLIES, after=b"FCALL"),
            "delay": lambda: proxy.delay(DELAY_S),
            "throttle": lambda: proxy.throttle(BYTES_PER_S),
            "rst": proxy.rst,
        }
        break_it[fault]()
        try:
            await asyncio.sleep(lasts_s)
        finally:
            proxy.heal()
