"""A process that spools without end and prints what it was told is kept, to be ended in the middle.

Run as `python -m tests.control.spooling_process FOLDER`. It spools from many tasks at once, with
records of many lengths, and prints one number per confirmed record.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

from holdfast_server.control.spool import Spool
from holdfast_server.telemetry.recorder import Recorder
from tests.control.support import CALLER, burn

TASKS = 16


async def keep(spool: Spool, numbers: itertools.count[int]) -> None:
    """Spools one record after another."""
    for number in numbers:
        labels = {str(label): "x" * (number % 250) for label in range(number % 8)}
        if await spool.append(CALLER, burn(str(number), labels=labels)):
            print(number, flush=True)


async def main(folder: Path) -> None:
    """Spools until the process is ended."""
    spool, numbers = Spool(folder, 10**9, 10**9, Recorder()), itertools.count(1)
    await asyncio.gather(*(keep(spool, numbers) for _ in range(TASKS)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
