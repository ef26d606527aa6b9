"""Verification finds keys and ends of holds that are not protected any more, as no chain shows."""

from __future__ import annotations

from typing import LiteralString

import pytest

from holdfast_server.ledger.store import Ledger
from tests.support.entries import Story, history_of
from tests.support.ledger import record, tamper

UNLOCK = "ALTER TABLE holdfast.operation DISABLE TRIGGER ALL"


async def unprotected(ledger: Ledger) -> dict[tuple[int, int], int]:
    """How many operations, by the partition and sequence number of the first."""
    violations = (await ledger.verify()).violations
    assert {each.check for each in violations} <= {"key"}
    missing = [each for each in violations if "no row" in each.message]
    return {(each.partition, each.seq): int(each.message.split()[0]) for each in missing}


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ("DELETE FROM holdfast.operation", {(0, 1): 7, (1, 1): 7}),
        ("DELETE FROM holdfast.operation WHERE first_seq = 6 AND partition = 1", {(1, 6): 1}),
        ("UPDATE holdfast.operation SET fingerprint = '' WHERE partition = 0", {(0, 1): 7}),
        ("UPDATE holdfast.operation SET first_seq = 4 WHERE first_seq = 2", {(0, 2): 1, (1, 2): 1}),
        ("UPDATE holdfast.operation SET answer = '' WHERE first_seq = 6", {(0, 6): 1, (1, 6): 1}),
        ("UPDATE holdfast.operation SET hold_ended = NULL", {(0, 4): 5, (1, 4): 5}),
    ],
)
async def test_what_could_be_applied_again_is_found(
    ledger: Ledger,
    migrated_postgres_url: str,
    change: LiteralString,
    missing: dict[tuple[int, int], int],
) -> None:
    """Two grants and five Commits in each of two partitions; the keys of Reserves are not kept."""
    await record(migrated_postgres_url, *history_of(0, 5), *history_of(1, 5))
    assert await unprotected(ledger) == {}

    tamper(migrated_postgres_url, UNLOCK, change)

    assert await unprotected(ledger) == missing


async def test_a_hold_that_ran_out_and_could_end_again_is_found(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    """Nobody asked for that end, so that the hold itself stands for a key."""
    tale = Story()
    await record(
        migrated_postgres_url, tale.grant("ada", 9), tale.hold("ada", 7), tale.expire("ada", 7)
    )
    assert await unprotected(ledger) == {}

    tamper(migrated_postgres_url, UNLOCK, "DELETE FROM holdfast.operation WHERE method = 'Expire'")

    assert await unprotected(ledger) == {(0, 3): 1}
