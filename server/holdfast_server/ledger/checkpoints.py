"""The number of the newest checkpoint, which waits here until it is kept elsewhere."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from holdfast_server.domain.checkpoint import Tip
from holdfast_server.ledger.database import EVERY_TENANT, Database, fetch_all, fetch_one
from holdfast_server.ledger.sql import QUERIES


@dataclass(frozen=True, slots=True)
class CheckpointHead:
    """The newest checkpoint that was made: its number and hash, how old it is, and its line while
    it is not delivered."""

    number: int
    hash: bytes
    age_ms: int
    pending: str


class Checkpoints(Database):
    """What checkpoints are made of. Every method raises LEDGER_UNAVAILABLE."""

    async def checkpoint_head(self) -> CheckpointHead:
        """The newest checkpoint."""
        async with self.reading("") as cursor:
            row = await fetch_one(cursor, QUERIES["checkpoint_head"])
        assert row is not None
        return CheckpointHead(**row)

    async def keep_checkpoint(self, number: int, digest: bytes, line: str) -> bool:
        """Whether this is the checkpoint of that number: only one can be, behind those before."""
        parameters = {"number": number, "hash": digest, "line": line}
        async with self.changing() as cursor:
            await cursor.execute(QUERIES["keep_checkpoint"], parameters)
            return cursor.rowcount == 1

    async def checkpoint_delivered(self, number: int) -> None:
        """The next checkpoint may be made."""
        async with self.changing() as cursor:
            await cursor.execute(QUERIES["checkpoint_delivered"], {"number": number})

    async def entries_at(self, tips: Collection[Tip]) -> set[Tip]:
        """Those of the tips that are the places and hashes of entries."""
        places = sorted(tips)
        async with self.reading(EVERY_TENANT) as cursor:
            found = await fetch_all(
                cursor,
                QUERIES["entries_at"],
                partitions=[tip.partition for tip in places],
                seqs=[tip.seq for tip in places],
            )
        hashes = {(row["partition"], row["seq"]): row["hash"] for row in found}
        return {tip for tip in tips if hashes.get((tip.partition, tip.seq)) == tip.hash}
