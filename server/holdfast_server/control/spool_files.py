"""Segment files: records behind each other, each with its length and checksum, synced in groups.

A file begins with `MAGIC`; a record is its length and the CRC-32 of its bytes, both big-endian in
four bytes, and then its bytes. A record counts once the file was synced after it. Whatever a crash
left at the end of a file, half a record or zeros, nobody was told of, so it is passed over.
A record in the middle that does not match its checksum is damage: the file is kept for a person.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

#: What every segment begins with; a later layout has another number.
MAGIC = b"HOLDFAST-SPOOL-1\n"
#: Bytes of one record: an operation with all its labels needs a tenth of it.
RECORD_BYTES_MAX = 65_536
#: A segment of this size is closed, so that what is booked can be given back to the disk.
SEGMENT_BYTES_MAX = 4_194_304
#: The ending of a segment's name.
SUFFIX = ".log"

_HEAD = struct.Struct(">II")


@dataclass(frozen=True, slots=True)
class Segment:
    """What a segment file holds. `damaged`: after `records`, something that is no torn end."""

    records: tuple[bytes, ...]
    damaged: bool


def frame(record: bytes) -> bytes:
    """A record as it is written."""
    if not 0 < len(record) <= RECORD_BYTES_MAX:
        raise ValueError(f"a record has 1 to {RECORD_BYTES_MAX} bytes")
    return _HEAD.pack(len(record), zlib.crc32(record)) + record


def read_segment(path: Path) -> Segment:
    """The records of a segment file, up to a torn end. Raises OSError."""
    content = path.read_bytes()
    if not content.startswith(MAGIC):
        return Segment((), damaged=not MAGIC.startswith(content))
    records: list[bytes] = []
    place = len(MAGIC)
    while place < len(content):
        record = _record_at(content, place)
        if record is None:
            return Segment(tuple(records), damaged=not _torn(content, place))
        records.append(record)
        place += _HEAD.size + len(record)
    return Segment(tuple(records), damaged=False)


def segments_of(folder: Path) -> list[Path]:
    """The segment files of a folder, oldest first."""
    return sorted(folder.glob("*" + SUFFIX))


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class SegmentWriter:
    """Appends to the newest segment of a folder. Not for several threads at once."""

    def __init__(self, folder: Path) -> None:
        """Begins a new segment with the first record; what a crash left is never appended to."""
        self._folder = folder
        self._file: FileIO | None = None
        self._size = 0

    def append(self, frames: Iterable[bytes]) -> Path:
        """Writes and syncs frames together: all of them count when this returns their segment.

        Raises OSError; then none of them counts.
        """
        file = self._opened()
        path = Path(str(file.name))
        try:
            write_all(file, b"".join(frames))
            os.fsync(file.fileno())
        except OSError:
            self._take_back(file)
            raise
        self._size = file.tell()
        if self._size >= SEGMENT_BYTES_MAX:
            self.seal()
        return path

    def seal(self) -> None:
        """Closes the segment, so that the next record begins another."""
        if self._file is not None:
            self._file.close()
        self._file = None

    @property
    def current(self) -> Path | None:
        """The segment that is being written, which must not be removed."""
        return None if self._file is None else Path(str(self._file.name))

    def _opened(self) -> FileIO:
        if self._file is None:
            path = next_segment(self._folder)
            file = FileIO(path, "xb")
            try:
                write_all(file, MAGIC)
                sync_folder(self._folder)
            except OSError:
                file.close()
                path.unlink(missing_ok=True)
                raise
            self._file = file
            self._size = len(MAGIC)
        return self._file

    def _take_back(self, file: FileIO) -> None:
        # What cannot be taken back could be booked although its caller was told that it was not.
        try:
            file.truncate(self._size)
            os.fsync(file.fileno())
        finally:
            self.seal()


def next_segment(folder: Path) -> Path:
    """The name of the segment after the newest one."""
    newest = max((int(path.stem) for path in segments_of(folder)), default=0)
    return folder / f"{newest + 1:012d}{SUFFIX}"


def _record_at(content: bytes, place: int) -> bytes | None:
    if len(content) - place < _HEAD.size:
        return None
    length, checksum = _HEAD.unpack_from(content, place)
    start = place + _HEAD.size
    record = content[start : start + length]
    whole = 0 < length <= RECORD_BYTES_MAX and len(record) == length
    return record if whole and zlib.crc32(record) == checksum else None


def _torn(content: bytes, place: int) -> bool:
    """Whether what is left can be the end of a write that a crash cut off."""
    rest = content[place:]
    if len(rest) < _HEAD.size or not any(rest):
        return True
    length, _ = _HEAD.unpack_from(rest)
    return bool(0 < length <= RECORD_BYTES_MAX and len(rest) < _HEAD.size + length)


def write_all(file: FileIO, content: bytes) -> None:
    """Writes all of it, or raises OSError: on a disk that fills up, one write may end early."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) or 0 :]
