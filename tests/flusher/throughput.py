"""How many entries a second reach the ledger: `python -m tests.flusher.throughput [ENTRIES]`.

Starts servers of its own, fills the outbox, then lets one flusher bring it over, hash chain,
constraints and indexes included. For comparison it copies the same rows, packed beforehand, into
a table without any of these.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from psycopg import sql

from holdfast_server import embedded
from holdfast_server.domain.entry import GENESIS_HASH, Entry
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.outbox import Outbox
from holdfast_server.flusher.events import FlusherHooks
from holdfast_server.flusher.flusher import BATCH_ENTRIES_MAX, Flusher
from holdfast_server.ledger import encoding
from holdfast_server.ledger.append import Appender
from holdfast_server.ledger.migrate import migrate
from tests.flusher.stage import open_store
from tests.support.entries import Story, add, holds_and_commits
from tests.support.ledger import open_ledger, packed

PARTITIONS = 64
ACCOUNTS = [f"account-{number}" for number in range(20)]


async def flush(postgres_url: str, valkey_url: str, entries: list[Entry]) -> float:
    """Seconds from the start of a flusher until the ledger has all entries."""
    keys, done, seqs = Keys(PARTITIONS), asyncio.Event(), dict[int, int]()

    def on_flushed(partition: int, epoch: int, seq: int) -> None:
        seqs[partition] = seq
        if sum(seqs.values()) == len(entries):
            done.set()

    async with open_store(valkey_url) as client:
        for start in range(0, len(entries), BATCH_ENTRIES_MAX):
            await add(client, keys, *entries[start : start + BATCH_ENTRIES_MAX])
        hooks = FlusherHooks(on_flushed=on_flushed)
        flusher = Flusher(Outbox(client, keys), Appender(postgres_url), hooks=hooks)
        started = time.perf_counter()
        running = asyncio.create_task(flusher.run())
        await done.wait()
        seconds = time.perf_counter() - started
        flusher.stop()
        await running
    return seconds


def copy_plainly(postgres_url: str, entries: list[Entry]) -> float:
    """Seconds that plain COPY takes for the same rows, in transactions of the same size."""
    rows = [encoding.entry_row(packed(entry), GENESIS_HASH) for entry in entries]
    columns = sql.SQL(", ").join(map(sql.Identifier, encoding.ENTRY_COLUMNS))
    statement = sql.SQL("COPY plain ({}) FROM STDIN (FORMAT binary)").format(columns)
    with psycopg.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE plain (LIKE holdfast.entry INCLUDING DEFAULTS)")
        connection.commit()
        started = time.perf_counter()
        for start in range(0, len(rows), BATCH_ENTRIES_MAX):
            with cursor.copy(statement) as copy:
                copy.write(encoding.copy_block(rows[start : start + BATCH_ENTRIES_MAX]))
            connection.commit()
    return time.perf_counter() - started


async def measure(postgres_url: str, valkey_url: str, count: int) -> None:
    """Prints entries a second, both ways."""
    await migrate(postgres_url)
    pairs = count // PARTITIONS // 2
    stories = [holds_and_commits(Story(number), ACCOUNTS, pairs) for number in range(PARTITIONS)]
    entries = [entry for story in stories for entry in story]
    gc.freeze()
    async with open_ledger(postgres_url, PARTITIONS):
        flushed = len(entries) / await flush(postgres_url, valkey_url, entries)
    plain = len(entries) / copy_plainly(postgres_url, entries)
    print(
        f"flushed {flushed:,.0f} entries/s, plain COPY {plain:,.0f} rows/s: {flushed / plain:.2f}"
    )


def main() -> None:
    """Starts both servers and measures."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with TemporaryDirectory(prefix="holdfast-throughput-") as folder:
        Path(folder).chmod(0o711)
        with embedded.start(Path(folder), redis_url=None, postgres_url=None) as servers:
            asyncio.run(measure(servers.postgres_url, servers.redis_url, count))


if __name__ == "__main__":
    main()
