"""What `--profile` shows: where the time of each process goes, and that of the store."""

from __future__ import annotations

import os
import pstats
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import redis.asyncio as redis

from holdfast_server.app.profile import FOLDER_VARIABLE, SUFFIX

#: Functions of one process, and commands of the store, that are shown.
SHOWN_MAX: Final = 15


@dataclass(frozen=True, slots=True)
class Share:
    """What took how much of a process' time, by itself."""

    process: str
    what: str
    calls: int
    seconds: float
    percent: float


@contextmanager
def profiles() -> Iterator[Path]:
    """A folder to which every process that is started meanwhile writes its profile at its end."""
    with TemporaryDirectory(prefix="holdfast-profiles-") as folder:
        os.environ[FOLDER_VARIABLE] = folder
        try:
            yield Path(folder)
        finally:
            del os.environ[FOLDER_VARIABLE]


def functions(folder: Path) -> Iterator[Share]:
    """The functions that took longest, of each role whose profiles are in the folder."""
    roles = defaultdict[str, list[Path]](list)
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        roles[path.name.partition("-")[0]].append(path)
    for role, paths in roles.items():
        stats: Any = pstats.Stats(*map(str, paths))
        rows = sorted(stats.stats.items(), key=lambda row: -row[1][2])
        # Waiting is no work: an idle event loop spends its time here.
        busy = [row for row in rows if "select" not in row[0][2] and "poll" not in row[0][2]]
        total = sum(row[1][2] for row in busy) or 1.0
        for (file, line, name), (_, calls, own, *_) in busy[:SHOWN_MAX]:
            yield Share(role, _named(file, line, name), calls, own, 100 * own / total)


async def commands(redis_url: str) -> list[Share]:
    """The commands that took longest in the store; a script's own contain what it calls."""
    async with redis.Redis.from_url(redis_url) as store:
        stats: dict[str, Any] = await store.info("commandstats")
    used = {name.partition("_")[2]: each for name, each in stats.items()}
    total = sum(used[name]["usec"] for name in ("fcall", "evalsha") if name in used) or 1
    rows = sorted(used.items(), key=lambda row: -row[1]["usec"])[:SHOWN_MAX]
    return [
        Share("valkey", name, each["calls"], each["usec"] / 1e6, 100 * each["usec"] / total)
        for name, each in rows
    ]


def _named(file: str, line: int, name: str) -> str:
    return f"{Path(file).name}:{line} {name}" if line else name
