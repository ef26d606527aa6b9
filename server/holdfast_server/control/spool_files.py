"""Segment files: records behind each other, each with its length and checksum, synced in groups.

A file begins with `MAGIC`; a record is its length and the CRC-32 of its bytes, both big-endian in
four bytes, and then its bytes. A record counts once the file was synced after it. Whatever a crash
left at the end of a file, half a record or zeros, nobody was told of, so it is passed over.
A record in the middle that does not match its checksum is damage: the file is kept for a person.

The first byte of a length, which no length needs, is the record's `Mark`: a byte is written whole
or not at all, and goes wherever its file is moved.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from io import FileIO
from pathlib import Path
from typing import Final

#: What every segment begins with; a later layout has another number.
MAGIC = b"HOLDFAST-SPOOL-1\n"
#: Bytes of one record: an operation with all its labels needs a tenth of it.
RECORD_BYTES_MAX = 65_536
#: A segment of this size is closed, so that what is booked can be given back to the disk.
SEGMENT_BYTES_MAX = 4_194_304
#: The ending of a segment's name.
SUFFIX = ".log"

_HEAD = struct.Struct(">II")
#: Bits of a length below the mark.
_LENGTH_BITS: Final = 24


class Mark(IntEnum):
    """How a record is to be booked; what was tried last has the highest number.

    Two of them differ in two bits, so that no flipped bit makes one into another.
    """

    AS_IT_IS = 0
    #: The engine denied what had been done, or did not evaluate it.
    DENIED = 3
    #: The hold of a Commit has ended otherwise.
    ENDED = 5
    #: Another Commit has ended it, and has booked what it held.
    COMMITTED = 6


_MARKS: Final = {mark.value: mark for mark in Mark}


@dataclass(frozen=True, slots=True)
class Kept:
    """A record, and where in its file it begins."""

    place: int
    mark: Mark
    raw: bytes


@dataclass(frozen=True, slots=True)
class Segment:
    """What a segment file holds. `damaged`: after `kept`, something that is no torn end."""

    kept: tuple[Kept, ...]
    damaged: bool

    @property
    def records(self) -> tuple[bytes, ...]:
        """The bytes of each record."""
        return tuple(each.raw for each in self.kept)


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
    kept: list[Kept] = []
    place = len(MAGIC)
    while place < len(content):
        found = _kept_at(content, place)
        if found is None:
            return Segment(tuple(kept), damaged=not _torn(content, place))
        kept.append(found)
        place += _HEAD.size + len(found.raw)
    return Segment(tuple(kept), damaged=False)


def write_mark(segment: Path, kept: Kept) -> None:
    """Gives a record in a file its mark, for good once this returns. Raises OSError."""
    descriptor = os.open(segment, os.O_WRONLY)
    try:
        os.pwrite(descriptor, bytes((kept.mark,)), kept.place)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def _kept_at(content: bytes, place: int) -> Kept | None:
    if len(content) - place < _HEAD.size:
        return None
    marked, checksum = _HEAD.unpack_from(content, place)
    number, length = divmod(marked, 1 << _LENGTH_BITS)
    mark, start = _MARKS.get(number), place + _HEAD.size
    raw = content[start : start + length]
    whole = 0 < length <= RECORD_BYTES_MAX and len(raw) == length
    if mark is None or not whole or zlib.crc32(raw) != checksum:
        return None
    return Kept(place, mark, raw)


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
