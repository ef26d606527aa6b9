"""Epochs and fences as the ledger keeps them: who may decide, what is acknowledged or lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from holdfast_server.domain.epoch import Acknowledged, Epoch
from holdfast_server.ledger import rows
from holdfast_server.ledger.database import (
    CONTROL_ROLE,
    EVERY_TENANT,
    Cursor,
    Database,
    begin_session,
    connection_text,
    fetch_all,
    fetch_one,
    translated,
)
from holdfast_server.ledger.sql import QUERIES

#: Epochs of a partition that a process hears of: older ones belong to keys forgotten long ago.
EPOCHS_MAX: Final = 100
#: Seconds after which a process that did not report is not waited for.
VOTER_SILENT_SECONDS_MAX: Final = 12
#: More fencings than there will ever be.
_NEVER: Final = 2**62
#: Seconds for which the ledger keeps what processes had acknowledged.
ACKNOWLEDGED_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True)
class Lifeline:
    """Two numbers that rise: with every epoch that begins, and with every fencing."""

    epochs: int
    fencing: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a partition stands."""

    partition: int
    epoch: int
    #: How far the ledger is.
    seq: int
    start_seq: int
    home: int
    #: The history that may decide in it; empty before the first one.
    replid: str
    #: How it began.
    reason: str
    opened_at_ms: int
    #: Number of the fencing that holds now; 0 for none. With it, why and since when.
    fencing: int
    why: str
    fenced_at_ms: int


@dataclass(frozen=True, slots=True)
class Opening:
    """The next epoch of a partition, and where the ledger must be for it to begin."""

    partition: int
    epoch: int
    seq: int
    hash: bytes
    next_epoch: int
    home: int
    replid: str
    reason: str


@dataclass(frozen=True, slots=True)
class Loss:
    """Acknowledged entries that nobody has any more, from `first_seq` to `last_seq`."""

    partition: int
    epoch: int
    first_seq: int
    last_seq: int
    reported_at_ms: int = 0

    @property
    def entries(self) -> int:
        """How many there are."""
        return self.last_seq - self.first_seq + 1


class Recoveries(Database):
    """What processes and the coordinator of recoveries say to each other."""

    async def lifeline(self) -> Lifeline:
        """Asked often: whether anything about epochs and fences has changed."""
        row = await self.glance(QUERIES["lifeline"])
        assert row is not None
        return Lifeline(row["epochs"], row["fencing"])

    async def epochs(self) -> dict[int, list[Epoch]]:
        """The newest epochs of every partition, oldest first."""
        async with self.reading("") as cursor:
            found = await fetch_all(cursor, QUERIES["epochs"], epochs_max=EPOCHS_MAX)
        return {
            partition: [Epoch(row["epoch"], row["start_seq"], row["home"]) for row in group]
            for partition, group in groupby(found, key=lambda row: int(row["partition"]))
        }

    async def standings(self) -> list[Standing]:
        """Where every partition stands."""
        async with self.reading("") as cursor:
            found = await fetch_all(cursor, QUERIES["standings"])
        return [_standing(row) for row in found]

    async def fence(self, partitions: Iterable[int], why: str) -> int:
        """Says that partitions are fenced; answers the number of this fencing."""
        async with self.changing() as cursor:
            row = await fetch_one(cursor, QUERIES["fence"], partitions=sorted(partitions), why=why)
        assert row is not None
        return int(row["number"])

    async def vote(
        self, process: str, role: str, fencing: int, acknowledged: Acknowledged
    ) -> list[Loss]:
        """Says what a process had acknowledged before a fencing; answers losses that are new."""
        marks = [
            (partition, epoch, seq)
            for partition, of_epochs in acknowledged.marks.items()
            for epoch, seq in of_epochs.items()
        ]
        async with self.changing() as cursor:
            voter = {"process": process, "role": role}
            await cursor.execute(
                QUERIES["acknowledge"],
                {
                    **voter,
                    "partitions": [partition for partition, _, _ in marks],
                    "epochs": [epoch for _, epoch, _ in marks],
                    "seqs": [seq for _, _, seq in marks],
                },
            )
            await cursor.execute(QUERIES["saw_fencing"], {**voter, "fencing": fencing})
            return await _report_losses(cursor)

    async def count_silent(self, fencing: int) -> int:
        """How many living processes have not answered a fencing yet."""
        async with self.reading("") as cursor:
            row = await fetch_one(
                cursor,
                QUERIES["count_silent"],
                fencing=fencing,
                silent_seconds=VOTER_SILENT_SECONDS_MAX,
            )
        assert row is not None
        return int(row["silent"])

    async def count_living(self) -> int:
        """How many processes have reported within the last seconds."""
        return await self.count_silent(_NEVER)

    async def highest_acknowledged(self) -> dict[int, int]:
        """The highest sequence number that was acknowledged in the present epoch, per partition."""
        async with self.reading("") as cursor:
            found = await fetch_all(cursor, QUERIES["highest_acknowledged"])
        return {row["partition"]: row["seq"] for row in found}

    async def open_epochs(
        self, openings: Sequence[Opening], fencing: int
    ) -> tuple[set[int], list[Loss]]:
        """Begins epochs; answers the partitions whose cursors were as expected, and the losses.

        From then on no flusher of the epochs before can append.
        """
        async with self.changing() as cursor:
            opened = await fetch_all(cursor, QUERIES["open_epochs"], **_columns(openings, fencing))
            losses = await _report_losses(cursor)
            await cursor.execute(QUERIES["forget_acknowledged"], {"seconds": ACKNOWLEDGED_SECONDS})
        return {row["partition"] for row in opened}, losses

    async def chain_hashes(
        self, ranges: Mapping[int, tuple[int, int]]
    ) -> dict[tuple[int, int], bytes]:
        """Hashes by partition and sequence number, from the first to the last of each range."""
        async with self.reading(EVERY_TENANT) as cursor:
            found = await fetch_all(
                cursor,
                QUERIES["chain_hashes"],
                partitions=list(ranges),
                firsts=[first for first, _ in ranges.values()],
                lasts=[last for _, last in ranges.values()],
            )
        return {(row["partition"], row["seq"]): bytes(row["hash"]) for row in found}

    async def last_event_times(self) -> dict[int, int]:
        """The time of the newest entry of each partition, in milliseconds; 0 for none."""
        async with self.reading("") as cursor:
            found = await fetch_all(cursor, QUERIES["last_event_times"])
        return {row["partition"]: rows.milliseconds(row["last_event_time"]) for row in found}

    async def losses(self) -> list[Loss]:
        """Every loss that was ever reported."""
        async with self.reading("") as cursor:
            return [_loss(row) for row in await fetch_all(cursor, QUERIES["losses"])]


@asynccontextmanager
async def recovering(postgres_url: str, partitions: Iterable[int]) -> AsyncIterator[set[int]]:
    """Those of the partitions that nobody else recovers while the block lasts.

    That keeps coordinators out of each other's way. What keeps them from doing harm is that epochs
    begin by compare-and-set. Raises LEDGER_UNAVAILABLE.
    """
    with translated():
        url = connection_text(postgres_url, "recovery")
        connection = await AsyncConnection.connect(url, autocommit=True, row_factory=dict_row)
    async with connection:
        with translated():
            await begin_session(connection, CONTROL_ROLE)
            async with connection.cursor() as cursor:
                found = await fetch_all(
                    cursor, QUERIES["lock_recovery"], partitions=list(partitions)
                )
        yield {row["partition"] for row in found}


async def _report_losses(cursor: Cursor) -> list[Loss]:
    return [_loss(row) for row in await fetch_all(cursor, QUERIES["report_losses"])]


def _columns(openings: Sequence[Opening], fencing: int) -> Mapping[str, object]:
    return {
        "partitions": [each.partition for each in openings],
        "epochs": [each.epoch for each in openings],
        "seqs": [each.seq for each in openings],
        "hashes": [each.hash for each in openings],
        "next_epochs": [each.next_epoch for each in openings],
        "homes": [each.home for each in openings],
        "replids": [each.replid for each in openings],
        "reasons": [each.reason for each in openings],
        "fencing": fencing,
    }


def _standing(row: rows.Row) -> Standing:
    return Standing(
        partition=row["partition"],
        epoch=row["epoch"],
        seq=row["seq"],
        start_seq=row["start_seq"],
        home=row["home"],
        replid=row["replid"],
        reason=row["reason"],
        opened_at_ms=rows.milliseconds(row["opened_at"]),
        fencing=row["fencing"] or 0,
        why=row["why"] or "",
        fenced_at_ms=rows.milliseconds(row["fenced_at"]) if row["fenced_at"] else 0,
    )


def _loss(row: rows.Row) -> Loss:
    reported = row.get("reported_at")
    return Loss(
        row["partition"],
        row["epoch"],
        row["first_seq"],
        row["last_seq"],
        rows.milliseconds(reported) if reported else 0,
    )
