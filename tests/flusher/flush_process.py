"""A flusher as a process of its own, to be killed: `flush_process.py POSTGRES_URL VALKEY_URL`."""

from __future__ import annotations

import asyncio
import signal
import sys

from holdfast_server.engine.outbox import Outbox
from holdfast_server.failpoint import check_allowed
from holdfast_server.flusher.flusher import Flusher
from holdfast_server.ledger.append import Appender
from tests.flusher.stage import KEYS, open_store

#: Small, so that a test sees many batches.
BATCH_ENTRIES_MAX = 15


async def main(postgres_url: str, valkey_url: str) -> None:
    """Flushes until SIGTERM."""
    check_allowed()
    async with open_store(valkey_url) as client:
        flusher = Flusher(
            Outbox(client, KEYS), Appender(postgres_url), batch_entries_max=BATCH_ENTRIES_MAX
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, flusher.stop)
        await flusher.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
