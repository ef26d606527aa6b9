"""Partitions that are given up and begin anew, under stores whose clock is the test's."""

from __future__ import annotations

from holdfast_server.control.due_search import DueSearch
from holdfast_server.engine.due_notes import DueNotes
from holdfast_server.engine.keys import Keys
from holdfast_server.recovery.coordinator import Coordinator, Stores
from holdfast_server.recovery.verdict import Verdict
from holdfast_server.telemetry.recorder import Recorder
from tests.support.both import Both

DEPLOYMENT = "4/1"


def coordinator_of(both: Both, postgres_url: str) -> Coordinator:
    """What recovers partitions; the engine hears of it at once."""
    stores = Stores(both.ledger, both.real.store, both.real.keys, postgres_url, DEPLOYMENT)
    return Coordinator(stores, Recorder())


async def rebuild(both: Both, postgres_url: str, *partitions: int) -> None:
    """Gives up the hot state of partitions, all of which the ledger has."""
    wanted = set(partitions)
    while wanted:
        for each in await coordinator_of(both, postgres_url).recover(wanted):
            assert each.verdict is Verdict.REBUILT
            wanted -= {each.partition} if each.armed else set()


def search_of(both: Both) -> DueSearch:
    """What looks for what is due, as a process that has just begun has it."""
    keys = Keys(both.real.keys.partitions, both.real.keys.epochs)
    return DueSearch(both.ledger, DueNotes(both.real.store, keys), keys)


async def search(both: Both) -> None:
    """Looks until everything is found."""
    looking = search_of(both)
    while not await looking.look():
        pass
