"""Facts of the deployment: partitions, token keys, and which processes live."""

from __future__ import annotations

import secrets
from typing import Final

from holdfast_server.domain.entry import GENESIS_HASH
from holdfast_server.ledger import rows
from holdfast_server.ledger.database import Cursor, Database, fetch_all, fetch_one
from holdfast_server.ledger.records import DeploymentFacts, ProcessReport
from holdfast_server.ledger.sql import QUERIES

#: Bytes of a token key: as many as SHA-256 gives.
TOKEN_KEY_BYTES: Final = 32
#: Seconds after which a process that does not report no longer counts as living.
PROCESS_SILENT_SECONDS_MAX: Final = 60


class Deployment(Database):
    """What is the same for every process of a deployment."""

    async def start_deployment(self, partitions: int) -> DeploymentFacts:
        """The facts of this deployment, fixed now if it starts for the first time.

        `partitions` only counts the first time: the caller compares it with what comes back.
        """
        async with self.changing() as cursor:
            await cursor.execute(QUERIES["create_deployment"], {"partitions": partitions})
            if cursor.rowcount:
                await _create_cursors(cursor, partitions)
                secret = secrets.token_bytes(TOKEN_KEY_BYTES)
                await cursor.execute(QUERIES["create_token_key"], {"secret": secret})
            return await _facts(cursor)

    async def report_process(self, report: ProcessReport) -> None:
        """Says that a process lives, and forgets those that have been silent for long."""
        async with self.changing() as cursor:
            await cursor.execute(
                QUERIES["report_process"],
                {
                    "process": report.process,
                    "role": report.role,
                    "version": report.version,
                    "started_at": rows.instant(report.started_at_ms),
                    "config_version": report.config_version,
                    "killed": report.killed,
                    "killed_by": report.killed_by,
                },
            )
            await cursor.execute(
                QUERIES["forget_processes"], {"silent_seconds": PROCESS_SILENT_SECONDS_MAX}
            )

    async def list_processes(self) -> list[ProcessReport]:
        """Every process that reported within the last minute."""
        async with self.reading("") as cursor:
            found = await fetch_all(
                cursor, QUERIES["processes"], silent_seconds=PROCESS_SILENT_SECONDS_MAX
            )
        return [_process(row) for row in found]


async def _create_cursors(cursor: Cursor, partitions: int) -> None:
    await cursor.execute(
        QUERIES["create_cursors"], {"partitions": partitions, "genesis": GENESIS_HASH}
    )


async def _facts(cursor: Cursor) -> DeploymentFacts:
    deployment = await fetch_one(cursor, QUERIES["deployment"])
    assert deployment is not None
    keys = await fetch_all(cursor, QUERIES["token_keys"])
    return DeploymentFacts(
        partitions=deployment["partitions"],
        created_at_ms=rows.milliseconds(deployment["created_at"]),
        token_keys={row["key_id"]: row["secret"] for row in keys},
        active_token_key=keys[0]["key_id"],
        read_at_ms=rows.milliseconds(deployment["read_at"]),
    )


def _process(row: rows.Row) -> ProcessReport:
    return ProcessReport(
        process=row["process"],
        role=row["role"],
        version=row["version"],
        started_at_ms=rows.milliseconds(row["started_at"]),
        config_version=row["config_version"],
        killed=row["killed"],
        killed_by=row["killed_by"],
        seen_at_ms=rows.milliseconds(row["seen_at"]),
    )
