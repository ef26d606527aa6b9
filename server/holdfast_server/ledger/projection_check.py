"""Whether the terms of grants and accounts are what a partition's entries say, given in order.

They are copies, which no chain covers: readers take them because they are found by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from holdfast_server.domain.entry import Entry, canonical_json
from holdfast_server.ledger import rows
from holdfast_server.ledger.database import Cursor, fetch_all
from holdfast_server.ledger.projection import KINDS, DetailError, project
from holdfast_server.ledger.sql import QUERIES

#: Rows that are looked up at a time.
LOOKED_UP: Final = 1_000

#: Tenant, and a grant or an account.
Name = tuple[str, str]


class ProjectionCheck:
    """Keeps a digest of what each grant and each account should be."""

    def __init__(self) -> None:
        #: The entry that says so, and what.
        self._grants: dict[Name, tuple[int, bytes]] = {}
        self._accounts: dict[Name, tuple[int, bytes]] = {}

    def add(self, entry: Entry) -> None:
        """Takes the next entry of the partition. One without terms was never recorded like that,
        as the chain shows.
        """
        if entry.kind not in KINDS:
            return
        try:
            projection = project([entry])
        except DetailError:
            return
        self._grants |= {_grant_of(row): (entry.seq, _digest(row)) for row in projection.grants}
        # The newest of an account is the last.
        self._accounts |= {
            _account_of(row): (entry.seq, _digest(row)) for row in projection.accounts
        }

    async def finish(self, cursor: Cursor) -> AsyncIterator[tuple[int, str]]:
        """Those that are otherwise: the entry that says what they should be, and what they are."""
        while looked_up := _taken(self._grants):
            found = await fetch_all(cursor, QUERIES["grants_named"], **_columns(looked_up))
            actual = {_grant_of(row): _digest(row) for row in found}
            for name, (seq, digest) in looked_up.items():
                if actual.get(name) != digest:
                    yield seq, f"the terms of grant {name[1]} of {name[0]}"
        while looked_up := _taken(self._accounts):
            found = await fetch_all(cursor, QUERIES["accounts_named"], **_columns(looked_up))
            actual = {_account_of(row): _digest(row) for row in found}
            for name, (seq, digest) in looked_up.items():
                if actual.get(name) != digest:
                    yield seq, f"the terms of account {name[1]} of {name[0]}"


def _taken(expected: dict[Name, tuple[int, bytes]]) -> dict[Name, tuple[int, bytes]]:
    return {name: expected.pop(name) for name in list(islice(expected, LOOKED_UP))}


def _columns(expected: Mapping[Name, object]) -> dict[str, list[str]]:
    return {"tenants": [tenant for tenant, _ in expected], "names": [name for _, name in expected]}


def _grant_of(row: Mapping[str, Any]) -> Name:
    return row["tenant"], UUID(str(row["grant_id"])).hex


def _account_of(row: Mapping[str, Any]) -> Name:
    return row["tenant"], row["account"]


def _digest(row: Mapping[str, Any]) -> bytes:
    said = {name: _plain(value) for name, value in row.items() if name != "grant_id"}
    return hashlib.sha256(canonical_json(said)).digest()


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return rows.milliseconds(value)
    return value.obj if isinstance(value, Jsonb) else value
