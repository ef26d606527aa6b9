"""What audits found, kept for people: rows that never change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from holdfast_server.domain.figures import Difference, Figure
from holdfast_server.ledger import rows
from holdfast_server.ledger.database import EVERY_TENANT, Database, fetch_all
from holdfast_server.ledger.records import Finding
from holdfast_server.ledger.sql import QUERIES

#: Findings that are shown; the newest ones say how things are.
FINDINGS_SHOWN_MAX: Final = 1_000


class Findings(Database):
    """Differences between the hot store and the ledger, as they were found."""

    async def note_findings(self, findings: Sequence[Finding]) -> None:
        """Keeps them. The same again of the same moment changes nothing."""
        async with self.changing() as cursor:
            await cursor.executemany(QUERIES["note_finding"], [_parameters(f) for f in findings])

    async def list_findings(self) -> list[Finding]:
        """The newest first."""
        async with self.reading(EVERY_TENANT) as cursor:
            found = await fetch_all(cursor, QUERIES["findings"], limit=FINDINGS_SHOWN_MAX)
        return [_finding(row) for row in found]


def _parameters(finding: Finding) -> dict[str, object]:
    difference = finding.difference
    return {
        "partition": finding.partition,
        "epoch": finding.epoch,
        "seq": finding.seq,
        "tenant": finding.tenant,
        **difference.figure._asdict(),
        "version": difference.version,
        "hot": difference.hot,
        "ledger": difference.ledger,
    }


def _finding(row: rows.Row) -> Finding:
    figure = Figure(row["account"], row["credit_type"], row["part"], row["name"])
    return Finding(
        partition=row["partition"],
        epoch=row["epoch"],
        seq=row["seq"],
        tenant=row["tenant"],
        difference=Difference(figure, row["hot"], row["ledger"], row["version"]),
        found_at_ms=rows.milliseconds(row["found_at"]),
    )
