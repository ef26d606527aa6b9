"""Brings trees from the ledger into the hot store: on first use after an eviction or a rebuild.

Names that are asked for at one time are read together, in one transaction of the ledger, and nobody
is read twice at once. How much of that a process does is bounded, in reads at one time and in names
per second, so that a store that begins empty does not take the ledger down with it.

What is read may only be installed where it cannot be stale, which the script judges
(engine/lua/install_tree.lua): it must go at least as far as the cold floor of the partition.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from holdfast_server import failpoint
from holdfast_server.control.snapshots import SnapshotKeeper
from holdfast_server.engine import failures
from holdfast_server.engine.cold import Absent, Brought, Name, Outcome
from holdfast_server.engine.drains import Drains
from holdfast_server.engine.failures import ledger_behind
from holdfast_server.engine.image import draw_image
from holdfast_server.engine.tree_store import Installed, NewTree, TreeStore
from holdfast_server.errors import HoldfastError, Reason, new_reference
from holdfast_server.ledger.histories import HistoryTooLong, TreesRead
from holdfast_server.telemetry.names import Hydrated
from holdfast_server.telemetry.recorder import Recorder

#: Names in one read of the ledger.
NAMES_MAX: Final = 200
#: How often a name is read again whose reading was older than what the store must have.
READS_MAX: Final = 5
#: Seconds until it is read again.
READ_AGAIN_S: Final = 0.05
#: For how long it is remembered that there is no such account, and of how many.
ABSENT_S: Final = 10.0
ABSENT_MAX: Final = 50_000

_LOG = logging.getLogger(__name__)

#: A source of its own: nobody's seed makes processes march in step.
_CHANCE = random.Random()


class TreeLedger(Protocol):
    """Reads whole trees."""

    async def read_trees(self, names: Sequence[Name]) -> TreesRead:
        """See `Histories.read_trees`."""
        ...


@dataclass(frozen=True, slots=True)
class HydrationLimits:
    """How much one process takes on."""

    reads_at_once: int = 2
    names_per_second: int = 2_000
    #: Names that may wait; more are told to come back.
    waiting: int = 5_000


@dataclass(slots=True)
class _Budget:
    """So many names per second, and no more than a second's worth at once."""

    per_second: int
    left: float = field(init=False)
    at: float = field(init=False)

    def __post_init__(self) -> None:
        self.left, self.at = float(self.per_second), time.monotonic()

    def take(self, names: int) -> float:
        """Takes them, and answers how many seconds to wait before they are read."""
        now = time.monotonic()
        self.left = min(self.per_second, self.left + (now - self.at) * self.per_second)
        self.at, self.left = now, self.left - names
        return max(0.0, -self.left / self.per_second)


class Hydrator:
    """A `Hydration` over both stores."""

    def __init__(
        self,
        ledger: TreeLedger,
        trees: TreeStore,
        recorder: Recorder,
        limits: HydrationLimits | None = None,
        keeper: SnapshotKeeper | None = None,
    ) -> None:
        """`keeper` keeps what took long to read, so that it does not the next time."""
        self._ledger, self._trees, self._keys = ledger, trees, trees.keys
        self._recorder, self._why, self._keeper = recorder, Hydrated.USED, keeper
        self._limits = limits or HydrationLimits()
        self._budget = _Budget(self._limits.names_per_second)
        self._asked: dict[Name, asyncio.Future[Outcome]] = {}
        self._waiting: deque[Name] = deque()
        #: By name, and by the epoch of the partition that a tree of that name would be in.
        self._absent: OrderedDict[tuple[Name, int], tuple[Absent, float]] = OrderedDict()
        self._drains = Drains(self._limits.reads_at_once, self._drain)

    def beside(self, why: Hydrated) -> Hydrator:
        """One with a queue of its own and the same budget: its names keep nobody waiting here."""
        other = Hydrator(self._ledger, self._trees, self._recorder, self._limits, self._keeper)
        other._budget, other._why = self._budget, why
        return other

    async def bring(self, names: Sequence[Name]) -> Mapping[Name, Outcome]:
        """See `Hydration.bring`."""
        try:
            outcomes = await self._look(names)
        except HoldfastError as error:
            return dict.fromkeys(names, error)
        futures = {name: self._ask(name) for name in names if name not in outcomes}
        for name, future in futures.items():
            # Whoever asks for a name first may go away: others still wait for it.
            outcomes[name] = await asyncio.shield(future)
        return outcomes

    async def restore(self, name: Name, least_seq: int) -> Installed:
        """Brings back the tree of a root that somebody removed by hand.

        The ledger must have `least_seq`: the newest entry of the partition when the tree was gone
        already, so that it has all of the tree's.
        """
        read = await self._ledger.read_trees([name])
        if name not in read.trees or (self._read_to(read, name) or 0) < least_seq:
            return Installed.STALE
        return (await self._install(read, [name], was_removed=True))[name]

    async def _look(self, names: Sequence[Name]) -> dict[Name, Outcome]:
        """What the store alone can say."""
        outcomes: dict[Name, Outcome] = {}
        for name, found in (await self._trees.look(names)).items():
            known = self._known_absent(name)
            if found.is_stored:
                outcomes[name] = Brought(name[1])
            elif found.is_hot:
                outcomes[name] = _removed(name)
            elif found.cold_floor is None:
                outcomes[name] = Absent(-1)
            elif known is not None and known.read_to >= found.cold_floor:
                outcomes[name] = known
        return outcomes

    def _ask(self, name: Name) -> asyncio.Future[Outcome]:
        future = self._asked.get(name)
        if future is None:
            future = asyncio.get_running_loop().create_future()
            if len(self._waiting) >= self._limits.waiting:
                future.set_result(self._too_many())
                return future
            self._asked[name] = future
            self._waiting.append(name)
            self._drains.start()
        return future

    def _too_many(self) -> HoldfastError:
        """Callers come back one by one, when the names before them are likely to be read."""
        wait_ms = 1_000 * len(self._waiting) // self._limits.names_per_second
        message = "many accounts are being read from the ledger; retry in a moment"
        return HoldfastError(
            Reason.OVERLOADED, message, retry_after_ms=_CHANCE.randint(50, 100 + wait_ms)
        )

    async def _drain(self) -> None:
        """Reads until nobody waits."""
        while self._waiting:
            count = min(NAMES_MAX, len(self._waiting))
            names = [self._waiting.popleft() for _ in range(count)]
            await asyncio.sleep(self._budget.take(count))
            for name, outcome in (await self._bring_all(names)).items():
                self._asked.pop(name).set_result(outcome)

    async def _bring_all(self, names: Sequence[Name]) -> dict[Name, Outcome]:
        """The outcomes of all names: what was read too early is read again. A tree that cannot be
        brought, because of what it has, shall fail alone: the others are read apart from it.
        """
        outcomes: dict[Name, Outcome] = {}
        left = list(names)
        try:
            for _ in range(READS_MAX):
                outcomes.update(await self._bring_once(left))
                left = [name for name in names if name not in outcomes]
                if not left:
                    return outcomes
                await asyncio.sleep(READ_AGAIN_S)
            error = ledger_behind()
        except HistoryTooLong as failed:
            if len(left) > 1:
                return outcomes | await self._bring_halves(left)
            error = failed
        except HoldfastError as failed:
            error = failed
        except Exception:
            if len(left) > 1:
                return outcomes | await self._bring_halves(left)
            reference = new_reference()
            facts = {"accounts": len(left), "reference": reference}
            _LOG.exception("accounts could not be read from the ledger", extra={"facts": facts})
            error = failures.internal(reference)
        return outcomes | dict.fromkeys(left, error)

    async def _bring_halves(self, names: Sequence[Name]) -> dict[Name, Outcome]:
        middle = len(names) // 2
        first, second = names[:middle], names[middle:]
        return await self._bring_all(first) | await self._bring_all(second)

    async def _bring_once(self, names: Sequence[Name]) -> dict[Name, Outcome]:
        """The outcomes of those names whose reading was not too early."""
        read = await self._ledger.read_trees(names)
        failpoint.hit("hydrate.after_read")
        roots = {name: read.roots[name] for name in names if name in read.roots}
        await self._trees.note_roots(roots)
        trees = {(tenant, root) for (tenant, _), root in roots.items()}
        installed = await self._install(read, sorted(trees))
        outcomes: dict[Name, Outcome] = {}
        for name, root in roots.items():
            became = installed[name[0], root]
            if became is Installed.REMOVED:
                outcomes[name] = _removed((name[0], root))
            elif became is not Installed.STALE:
                outcomes[name] = Brought(root)
        absent = [name for name in names if name not in roots]
        return outcomes | await self._judge_absent(read, absent)

    async def _install(
        self, read: TreesRead, names: Sequence[Name], *, was_removed: bool = False
    ) -> dict[Name, Installed]:
        new: list[NewTree] = []
        for name in names:
            read_to = self._read_to(read, name)
            if read_to is not None:
                image = draw_image(read.trees[name].rebuilt)
                new.append(NewTree(name, image, read_to, was_removed))
                # Drawing a tree takes a while: others get their turn.
                await asyncio.sleep(0)
        failpoint.hit("hydrate.before_install")
        installed = await self._trees.install(new)
        self._keep(read, installed)
        count = sum(each is Installed.INSTALLED for each in installed.values())
        self._recorder.hydrated(self._why, count)
        return dict.fromkeys(names, Installed.STALE) | installed

    def _keep(self, read: TreesRead, installed: Mapping[Name, Installed]) -> None:
        """What was installed was read whole: the script has seen to that."""
        if self._keeper is None:
            return
        for refused in read.refused:
            self._keeper.refuse(refused)
        for name, became in installed.items():
            if became is Installed.INSTALLED:
                self._keeper.offer(read.trees[name])

    def _read_to(self, read: TreesRead, name: Name) -> int | None:
        """Up to where the ledger was read; None where it is in another epoch."""
        partition = self._keys.partition(*name)
        epoch, last_seq = read.cursors.get(partition, (0, 0))
        return last_seq if epoch == self._keys.epoch(partition) else None

    async def _judge_absent(self, read: TreesRead, names: Sequence[Name]) -> dict[Name, Outcome]:
        """What the ledger does not know: nothing, unless it was read too early."""
        outcomes: dict[Name, Outcome] = {}
        for name, found in (await self._trees.look(names)).items():
            read_to = self._read_to(read, name)
            if found.is_stored:
                outcomes[name] = Brought(name[1])
            elif found.is_hot:
                outcomes[name] = _removed(name)
            elif read_to is not None and read_to >= (found.cold_floor or 0):
                outcomes[name] = self._remember_absent(name, Absent(read_to))
        return outcomes

    def _remember_absent(self, name: Name, absent: Absent) -> Absent:
        place = self._place(name)
        self._absent[place] = absent, time.monotonic() + ABSENT_S
        self._absent.move_to_end(place)
        if len(self._absent) > ABSENT_MAX:
            self._absent.popitem(last=False)
        return absent

    def _known_absent(self, name: Name) -> Absent | None:
        """That there is no such account, where it was found out lately.

        It may exist since: then it is in the store, where it is looked for first, unless the store
        has begun anew.
        """
        absent, until = self._absent.get(self._place(name), (None, 0.0))
        return absent if until > time.monotonic() else None

    def _place(self, name: Name) -> tuple[Name, int]:
        return name, self._keys.epoch(self._keys.partition(*name))


def _removed(name: Name) -> HoldfastError:
    """The store must have the tree and does not: it is not brought back without a word."""
    _LOG.critical("the tree %s/%s was removed from the hot store", *name)
    return failures.failed(Reason.FENCED, {"account": name[1]})
