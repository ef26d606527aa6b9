"""An export of a ledger in which somebody has changed a row."""

from __future__ import annotations

import os
from pathlib import Path
from typing import LiteralString

import pytest
from psycopg import sql

from holdfast_server.ledger.store import Ledger
from tests.support.entries import history_of
from tests.support.ledger import record, tamper
from tests.support.server import call, run

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
def test_an_export_is_utf8_whatever_the_locale(url: str, form: str, tmp_path: Path) -> None:
    change(url, "reason = '10 €'")
    # As where the system has none but old locales; Python would take UTF-8 for the C locale.
    old = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    variables = {**os.environ, **old, "HOLDFAST_POSTGRES_URL": url}
    path = tmp_path / "ledger"
    written = run(["ledger", "export", form, "--output", str(path)], variables)
    shown = run(["ledger", "export", form], variables)
    assert (written.returncode, shown.returncode) == (0, 0), written.stderr
    text = path.read_bytes().decode()
    # JSON escapes it.
    assert ("10 €" in text) == ("10 €" in shown.stdout) == (form == "csv")


@FORMATS
def test_a_disk_that_is_full_is_named(url: str, form: str) -> None:
    variables = {**os.environ, "HOLDFAST_POSTGRES_URL": url}
    done = run(["ledger", "export", form, "--output", "/dev/full"], variables)
    assert done.returncode == 1
    assert done.stderr.strip() == "holdfast: /dev/full: No space left on device"


@FORMATS
def test_what_can_still_be_written_is(url: str, form: str) -> None:
    """Whoever verifies the file finds it."""
    change(url, "labels = '[1]'")

    done = call(["ledger", "export", form], {"HOLDFAST_POSTGRES_URL": url})

    assert (done.returncode, done.stderr.strip()) == (0, "24 entries")
