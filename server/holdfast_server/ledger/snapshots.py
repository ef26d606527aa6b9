"""Snapshots of trees: derived from entries, kept beside them, and never more than a shortcut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast_server.domain.rebuild import Snapshot
from holdfast_server.ledger import rows
from holdfast_server.ledger.database import (
    EVERY_TENANT,
    Cursor,
    Database,
    fetch_all,
    fetch_one,
    fetch_tuples,
)
from holdfast_server.ledger.sql import QUERIES


@dataclass(frozen=True, slots=True)
class Kept:
    """A snapshot as the ledger has it, with the digest that it had when it was taken."""

    snapshot: Snapshot
    sha256: bytes

    @property
    def tree(self) -> tuple[str, str]:
        """Tenant and root."""
        return self.snapshot.tenant, self.snapshot.root


class Snapshots(Database):
    """The snapshots of all tenants' trees."""

    async def save_snapshot(self, snapshot: Snapshot) -> bool:
        """Keeps it; answers whether it was the newest. One that goes further stays."""
        async with self.changing() as cursor:
            await cursor.execute(QUERIES["save_snapshot"], _parameters(snapshot))
            return cursor.rowcount > 0

    async def drop_snapshot(self, kept: Kept) -> bool:
        """Removes it; answers whether it was still there."""
        snapshot = kept.snapshot
        which = {"tenant": snapshot.tenant, "root": snapshot.root, "sha256": kept.sha256}
        async with self.changing() as cursor:
            await cursor.execute(QUERIES["drop_snapshot"], which)
            return cursor.rowcount > 0

    async def snapshot_behind(self, behind: bytes, entries_max: int) -> Kept | None:
        """The first one behind a digest that stands for so many entries at most."""
        async with self.reading(EVERY_TENANT) as cursor:
            row = await fetch_one(
                cursor, QUERIES["snapshot_behind"], behind=behind, entries_max=entries_max
            )
        return kept_snapshot(row) if row else None

    async def roots_at(self, places: Sequence[tuple[int, int]]) -> list[tuple[str, str]]:
        """The trees of some entries, by partition and sequence number."""
        async with self.reading(EVERY_TENANT) as cursor:
            return [
                (tenant, root)
                for tenant, root in await fetch_tuples(
                    cursor,
                    QUERIES["roots_at"],
                    partitions=[partition for partition, _ in places],
                    seqs=[seq for _, seq in places],
                )
            ]


async def snapshots_in(cursor: Cursor, partition: int) -> list[Kept]:
    """Those of a partition's trees."""
    found = await fetch_all(cursor, QUERIES["snapshots_in"], partition=partition)
    return [kept_snapshot(row) for row in found]


def kept_snapshot(row: rows.Row) -> Kept:
    """A row of `holdfast.tree_snapshot`."""
    snapshot = Snapshot(
        row["tenant"],
        row["root"],
        row["partition"],
        row["epoch"],
        row["seq"],
        rows.milliseconds(row["event_time"]),
        row["entries"],
        row["layout"],
        row["state"],
    )
    return Kept(snapshot, row["sha256"])


def _parameters(snapshot: Snapshot) -> dict[str, object]:
    return {
        "tenant": snapshot.tenant,
        "root": snapshot.root,
        "partition": snapshot.partition,
        "epoch": snapshot.epoch,
        "seq": snapshot.seq,
        "event_ms": snapshot.event_ms,
        "entries": snapshot.entries,
        "layout": snapshot.layout,
        "state": snapshot.state,
        "sha256": snapshot.digest,
    }
