"""An export of a ledger in which somebody has changed a row."""

from __future__ import annotations

from typing import LiteralString

import pytest
from psycopg import sql

from holdfast_server.ledger.store import Ledger
from tests.support.entries import history_of
from tests.support.ledger import record, tamper
from tests.support.server import call

FORMATS = pytest.mark.parametrize("form", ["csv", "jsonl"])


@pytest.fixture
async def url(ledger: Ledger, migrated_postgres_url: str) -> str:
    """Two partitions with twelve entries each."""
    await record(migrated_postgres_url, *history_of(0, 5), *history_of(1, 5))
    return migrated_postgres_url


def change(url: str, assignment: LiteralString) -> None:
    """Changes one row, whatever the constraints say."""
    tamper(
        url,
        "ALTER TABLE holdfast.entry DROP CONSTRAINT entry_codes",
        "ALTER TABLE holdfast.entry DROP CONSTRAINT entry_event_time",
        sql.SQL("UPDATE holdfast.entry SET {} WHERE partition = 1 AND seq = 5").format(
            sql.SQL(assignment)
        ),
    )


@FORMATS
@pytest.mark.parametrize(
    "assignment", ["kind = 99", "grant_changes = grant_changes[1:4]", "event_time = 'infinity'"]
)
def test_a_row_that_is_no_entry_is_named_with_what_to_do(
    url: str, form: str, assignment: LiteralString
) -> None:
    change(url, assignment)

    done = call(["ledger", "export", form], {"HOLDFAST_POSTGRES_URL": url})
    other = call(["ledger", "export", form, "--partition", "0"], {"HOLDFAST_POSTGRES_URL": url})

    assert done.returncode == 1
    (sentence,) = done.stderr.strip().splitlines()
    assert "entry 5 of partition 1" in sentence
    assert "holdfast ledger verify --offline" in sentence
    assert (other.returncode, other.stderr.strip()) == (0, "12 entries")


@FORMATS
def test_what_can_still_be_written_is(url: str, form: str) -> None:
    """Whoever verifies the file finds it."""
    change(url, "labels = '[1]'")

    done = call(["ledger", "export", form], {"HOLDFAST_POSTGRES_URL": url})

    assert (done.returncode, done.stderr.strip()) == (0, "24 entries")
