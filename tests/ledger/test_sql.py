"""Named queries: how the file is split, and that it is whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import holdfast_server.ledger
from holdfast_server.ledger.sql import QUERIES, migration_names, parse_queries


def test_queries_are_split_by_name() -> None:
    text = "-- one --\n-- Says one.\nSELECT 1;\n\n-- two --\nSELECT 2;\n"

    assert parse_queries(text) == {"one": "-- Says one.\nSELECT 1;", "two": "SELECT 2;"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("SELECT 1;", "before the first name"), ("-- a --\nSELECT 1;\n-- a --\nSELECT 2;", "twice")],
)
def test_text_without_a_name_or_with_one_twice_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_queries(text)


def test_every_query_is_used_and_every_used_one_exists() -> None:
    package = Path(holdfast_server.ledger.__file__).parent
    sources = "".join(path.read_text() for path in package.glob("*.py"))
    used = set(re.findall(r"QUERIES\[\"(\w+)\"\]", sources))

    assert used == set(QUERIES)


def test_every_query_says_what_it_is_for() -> None:
    assert [name for name, text in QUERIES.items() if not text.startswith("-- ")] == []


def test_nothing_is_inserted_into_the_ledger_on_conflict() -> None:
    """A row that is there already is a fork of history: ON CONFLICT would hide it."""
    forgiving = {name for name, text in QUERIES.items() if "ON CONFLICT" in text}

    assert forgiving == {
        "create_deployment",
        "report_process",
        "upsert_account",
        "quarantine",
        "note_finding",
        "acknowledge",
        "report_losses",
        "save_snapshot",
    }


def test_migrations_have_their_names() -> None:
    assert migration_names()[0] == "0001_pre_initial.sql"
