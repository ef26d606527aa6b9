"""A tree that is rebuilt from its entries is the tree that the scripts left in the store (I25).

Random histories run through the real scripts; after each, all trees are read raw from the store and
compared, value by value, with those that the entries of the outbox give.
"""

from __future__ import annotations

from typing import Any

import pytest

from holdfast_server.domain.entry import Entry
from holdfast_server.domain.rebuild import rebuild
from holdfast_server.domain.twin.accounts import Offsets
from holdfast_server.domain.zones import offsets_of
from holdfast_server.engine.image import draw_image
from tests.property.test_oracle import TENANT, Oracle, run_histories
from tests.support.drawn import TREE
from tests.support.pair import Real
from tests.support.stored import drawn, stored

#: Histories of the suite.
EXAMPLES = 60
ROOTS = tuple(account for account, parent in TREE.items() if not parent)


def offsets_now(zone: str, instant_ms: int) -> Offsets:
    """The engine computes offsets by the real clock, which is not that of these tests."""
    return offsets_of(zone)


def rebuilt(entries: list[Entry], tenant: str, root: str, real: Real) -> dict[str, Any]:
    """What the entries give of a tree."""
    image = draw_image(rebuild(tenant, root, entries_of(entries, root), offsets_now))
    return drawn(image, real.clock.now_ms)


def entries_of(entries: list[Entry], root: str) -> list[Entry]:
    """Those of one tree."""
    accounts = {entry.account for entry in entries if _root_of(entry) == root}
    return [entry for entry in entries if entry.account in accounts]


def _root_of(entry: Entry) -> object:
    return entry.context.detail.get("root")


class Rebuild(Oracle):
    """Holds trees against their entries instead of balances against the twin."""

    def balances_agree(self) -> None:
        return None

    def teardown(self) -> None:
        self.loop.run_until_complete(self.check())
        super().teardown()

    async def check(self) -> None:
        entries = await self.real.entries()
        for root in ROOTS:
            found = await stored(self.real, TENANT, root)
            mine = rebuilt(entries, TENANT, root, self.real)
            holds = {name for name in found if name.startswith("hold ")}
            late = {hold for hold in mine["late"] if f"hold {hold}" not in holds}
            # Expired holds belong to the partition: those of another tree are no matter here.
            found["late"] = {hold: found["late"].get(hold) for hold in late}
            assert mine == found


@pytest.mark.timeout(0)
def test_a_tree_is_what_its_entries_say(valkey_url: str) -> None:
    run_histories(Rebuild, valkey_url, EXAMPLES)
