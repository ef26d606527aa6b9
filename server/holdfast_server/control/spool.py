"""The spool: what passed without a decision, kept on disk until it is booked.

Every process has a folder of its own below the spool's, locked for as long as the process lives. A
folder whose process is gone is adopted by the next process that looks: its segments become the last
ones of its own. A record is confirmed when it is synced; many that come together are synced once.

What can never be booked goes to the folder `dead`, in segments of the same form. To try such a
segment again, move it into a new folder beside `dead`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path

from holdfast_server.control import spool_files
from holdfast_server.control.spool_files import SegmentWriter
from holdfast_server.control.spool_record import Record, Spooled, encode
from holdfast_server.domain.operation import Caller
from holdfast_server.telemetry.names import Alert, Replayed
from holdfast_server.telemetry.recorder import Recorder

_log = logging.getLogger(__name__)

#: Records that wait for one sync; more are refused, since the disk does not keep up.
WAITING_MAX = 10_000
#: Where records are that cannot be booked.
DEAD_FOLDER = "dead"
_LOCK_FILE = "lock"


class Spool:
    """The spool of one process. Belongs to one event loop."""

    def __init__(self, root: Path, bytes_max: int, records_max: int, recorder: Recorder) -> None:
        """Takes a new folder below `root`. Raises OSError."""
        self._root = root
        self._bytes_max = bytes_max
        self._records_max = records_max
        self._recorder = recorder
        self._folder, self._lock = _new_folder(root)
        self._writer = SegmentWriter(self._folder)
        self._dead = _DeadLetters(root / DEAD_FOLDER, bytes_max)
        #: Records and bytes of each segment.
        self._contents: dict[Path, tuple[int, int]] = {}
        #: Those of all segments, and of what is to be written.
        self._records = 0
        self._bytes = 0
        self._waiting: list[tuple[bytes, asyncio.Future[bool]]] = []
        self._writing: asyncio.Task[None] | None = None
        #: Held while files are written, sealed or moved.
        self._disk = asyncio.Lock()
        #: Whoever adopts the folder next removes it, with whatever came too late.
        self._is_closed = False

    @property
    def records(self) -> int:
        """Records that wait to be booked."""
        return self._records

    async def append(self, caller: Caller, operation: Spooled) -> bool:
        """Keeps what passed; True once it is on disk, False when there is no room or no disk.

        A closed spool has no room. A cancelled caller does not take it back.
        """
        framed = spool_files.frame(encode(Record(caller, operation, time.time_ns() // 1_000_000)))
        if not self._room_for(len(framed)):
            self._lose()
            return False
        self._count(1, len(framed))
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((framed, future))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_waiting())
        kept = await asyncio.shield(future)
        if not kept:
            self._lose()
        return kept

    async def sealed(self, but: Collection[Path] = ()) -> list[Path]:
        """Segments that are no longer written, oldest first, without some; or the current one,
        alone.
        """
        async with self._disk:
            segments = [each for each in spool_files.segments_of(self._folder) if each not in but]
            current = self._writer.current
            if current is None or segments != [current]:
                return [each for each in segments if each != current]
            self._writer.seal()
            return segments

    async def remove(self, segment: Path) -> None:
        """Forgets a sealed segment, all of whose records are booked or dead."""
        await asyncio.to_thread(segment.unlink)
        records, size = self._contents.pop(segment, (0, 0))
        self._count(-records, -size)

    async def bury(self, raw: bytes, why: str) -> bool:
        """Keeps a record that cannot be booked aside; False when that failed and it must stay."""
        buried = await asyncio.to_thread(self._dead.add, raw)
        if buried:
            self._recorder.replayed(Replayed.DEAD)
            self._recorder.alert(Alert.SPOOL_DEAD)
            _log.error("a spooled record cannot be booked", extra={"facts": {"why": why}})
        return buried

    async def set_aside(self, segment: Path) -> None:
        """Keeps a damaged segment whole, after what could be read of it was booked."""
        await asyncio.to_thread(self._dead.keep, segment)
        self._recorder.alert(Alert.SPOOL_DAMAGED)
        _log.error("a spool segment is damaged", extra={"facts": {"segment": segment.name}})
        await self.remove(segment)

    async def adopt(self) -> None:
        """Takes over the segments of processes that are gone. What cannot be moved stays."""
        async with self._disk:
            moved = await asyncio.to_thread(self._adopted)
        for segment, (records, size) in moved.items():
            self._contents[segment] = (records, size)
            self._count(records, size)

    async def close(self) -> None:
        """Finishes what is being written, and lets another process adopt what is left."""
        self._is_closed = True
        if self._writing is not None:
            await self._writing
        async with self._disk:
            self._writer.seal()
            self._dead.close()
            os.close(self._lock)

    def _adopted(self) -> dict[Path, tuple[int, int]]:
        moved: dict[Path, tuple[int, int]] = {}
        for folder in _folders(self._root):
            if folder == self._folder:
                continue
            with contextlib.suppress(OSError), _locked(folder) as free:
                if free:
                    moved |= self._take_over(folder)
        return moved

    def _take_over(self, folder: Path) -> dict[Path, tuple[int, int]]:
        moved: dict[Path, tuple[int, int]] = {}
        for segment in spool_files.segments_of(folder):
            records = len(spool_files.read_segment(segment).records)
            place = spool_files.next_segment(self._folder)
            segment.rename(place)
            moved[place] = (records, place.stat().st_size)
        spool_files.sync_folder(self._folder)
        shutil.rmtree(folder)
        return moved

    def _room_for(self, size: int) -> bool:
        return (
            not self._is_closed
            and len(self._waiting) < WAITING_MAX
            and self._records < self._records_max
            and self._bytes + size <= self._bytes_max
        )

    async def _write_waiting(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            kept = await self._written([framed for framed, _ in batch])
            for _, future in batch:
                if not future.done():
                    future.set_result(kept)

    async def _written(self, frames: list[bytes]) -> bool:
        size = sum(map(len, frames))
        async with self._disk:
            try:
                segment = await asyncio.to_thread(self._writer.append, frames)
            except OSError:
                _log.exception("the spool cannot be written")
                self._count(-len(frames), -size)
                return False
            records_before, size_before = self._contents.get(segment, (0, 0))
            self._contents[segment] = (records_before + len(frames), size_before + size)
        return True

    def _count(self, records: int, size: int) -> None:
        self._records += records
        self._bytes += size
        self._recorder.spool(self._records, self._bytes)

    def _lose(self) -> None:
        self._recorder.replayed(Replayed.LOST)
        self._recorder.alert(Alert.SPOOL_FULL)
        facts = {"records": self._records, "bytes": self._bytes, "folder": self._root}
        _log.warning("the spool has no room or no disk for what passes", extra={"facts": facts})


class _DeadLetters:
    """Segments of records that cannot be booked: kept for a person, never read by Holdfast."""

    def __init__(self, root: Path, bytes_max: int) -> None:
        self._root = root
        self._bytes_max = bytes_max
        self._writer: SegmentWriter | None = None
        self._bytes = 0

    def add(self, raw: bytes) -> bool:
        """Keeps a record; False when there is no room or no disk for it."""
        framed = spool_files.frame(raw)
        try:
            writer = self._opened()
            if self._bytes + len(framed) > self._bytes_max:
                return False
            writer.append([framed])
        except OSError:
            _log.exception("the folder of dead records cannot be written")
            return False
        self._bytes += len(framed)
        return True

    def keep(self, segment: Path) -> None:
        """Copies a damaged segment. Raises OSError."""
        self._root.mkdir(exist_ok=True)
        shutil.copyfile(segment, self._root / f"{uuid.uuid4().hex}.damaged")

    def close(self) -> None:
        """Closes the segment."""
        if self._writer is not None:
            self._writer.seal()

    def _opened(self) -> SegmentWriter:
        if self._writer is None:
            folder = self._root / uuid.uuid4().hex
            folder.mkdir(parents=True)
            self._bytes = sum(file.stat().st_size for file in self._root.rglob("*.*"))
            self._writer = SegmentWriter(folder)
        return self._writer


def _new_folder(root: Path) -> tuple[Path, int]:
    """A folder and its lock. It gets its name once it is locked, so that nobody adopts it."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = uuid.uuid4().hex
    hidden = root / f".{name}"
    hidden.mkdir()
    lock = os.open(hidden / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    hidden.rename(root / name)
    return root / name, lock


def _folders(root: Path) -> list[Path]:
    named = (each for each in root.iterdir() if not each.name.startswith("."))
    return sorted(each for each in named if each.is_dir() and each.name != DEAD_FOLDER)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Yields whether the folder is nobody's; it is ours while this lasts."""
    lock = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(lock)
