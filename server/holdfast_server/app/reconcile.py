"""`holdfast reconcile`: compares the hot store with the ledger when somebody asks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from holdfast_server.app.compose import build_reconciler
from holdfast_server.app.problem import Problem
from holdfast_server.app.stores import open_hot_store, open_ledger
from holdfast_server.control.reconcile import Comparison, Reconciler
from holdfast_server.engine.cold import Name
from holdfast_server.engine.keys import Keys
from holdfast_server.ledger.records import Finding
from holdfast_server.ledger.store import Ledger
from holdfast_server.settings import Settings
from holdfast_server.telemetry.names import Audited

#: Trees whose names are read at a time.
PAGE_TREES: Final = 500
#: Differences that are shown; the first ones say what is wrong.
DIFFERENCES_MAX: Final = 1_000


@dataclass(slots=True)
class Reconciliation:
    """What was compared, and what came of it."""

    agree: int = 0
    drift: int = 0
    #: The ledger did not reach them in time, or they are too large to be read in one step.
    behind: int = 0
    too_large: int = 0
    #: The ledger alone has them, until somebody uses them.
    cold: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything was compared and is the same."""
        return not (self.drift or self.behind or self.too_large)

    def add(self, comparison: Comparison) -> None:
        """Counts one comparison."""
        match comparison.result:
            case Audited.AGREES:
                self.agree += 1
            case Audited.DRIFTS:
                self.drift += 1
            case Audited.BEHIND:
                self.behind += 1
            case Audited.TOO_LARGE:
                self.too_large += 1
            case Audited.COLD:
                self.cold += 1
        room = DIFFERENCES_MAX - len(self.findings)
        self.findings += comparison.findings[:room]


@dataclass(frozen=True, slots=True)
class Comparing:
    """Both stores, opened for comparing."""

    ledger: Ledger
    reconciler: Reconciler

    async def trees(self) -> AsyncIterator[Name]:
        """Every tree there is."""
        after: Name = "", ""
        while page := await self.ledger.list_roots(after, PAGE_TREES):
            for tree in page:
                yield tree
            after = page[-1]

    async def root_of(self, tenant: str, account: str) -> Name:
        """The tree of an account. Raises `Problem` where the ledger knows no such account."""
        found = await self.ledger.get_account(tenant, account)
        if found is None:
            raise Problem(f"the ledger knows no account {account} of tenant {tenant}")
        return tenant, found.root


@asynccontextmanager
async def comparing(settings: Settings) -> AsyncIterator[Comparing]:
    """Opens both stores. Raises `Problem` where one is not named."""
    async with open_hot_store(settings) as store, open_ledger(settings) as ledger:
        partitions = len(await ledger.flushed())
        if not partitions:
            raise Problem("nothing has started on these stores yet: there is nothing to compare")
        keys = Keys(partitions)
        keys.epochs.learn(await ledger.epochs())
        reconciler, _ = build_reconciler(store, keys, ledger)
        yield Comparing(ledger, reconciler)
