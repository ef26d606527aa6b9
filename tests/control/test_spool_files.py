"""The files of a spool: a record is there whole, as it was marked, or not at all."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast_server.control.spool_files import (
    MAGIC,
    RECORD_BYTES_MAX,
    SEGMENT_BYTES_MAX,
    Mark,
    SegmentWriter,
    frame,
    read_segment,
    segments_of,
    write_mark,
)
from tests.support.full_disk import files_of_at_most

RECORDS = (b"one", b"two" * 100, b"\x00" * 8, b"four")


def written(folder: Path) -> Path:
    writer = SegmentWriter(folder)
    writer.append(map(frame, RECORDS[:2]))
    writer.append(map(frame, RECORDS[2:]))
    writer.seal()
    (path,) = segments_of(folder)
    return path


def test_a_segment_cut_anywhere_gives_what_is_whole_and_counts_as_torn(tmp_path: Path) -> None:
    path = written(tmp_path)
    content = path.read_bytes()
    ends = [len(MAGIC)]
    for record in RECORDS:
        ends.append(ends[-1] + len(frame(record)))
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        whole = sum(end <= size for end in ends[1:])
        found = read_segment(path)
        assert (found.records, found.damaged) == (RECORDS[:whole], False), size


def test_zeros_at_the_end_count_as_torn(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes() + bytes(4_096))
    assert (read_segment(path).records, read_segment(path).damaged) == (RECORDS, False)


def test_a_flipped_bit_is_never_read_as_a_record(tmp_path: Path) -> None:
    path = written(tmp_path)
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0x10
        path.write_bytes(changed)
        found = read_segment(path)
        assert found.records == RECORDS[: len(found.records)]
        assert len(found.records) < len(RECORDS)
    # In the middle of a record it is damage, for a person to look at.
    changed = bytearray(content)
    changed[len(MAGIC) + 8] ^= 1
    path.write_bytes(changed)
    assert read_segment(path).damaged


def test_a_record_keeps_its_mark_and_no_flipped_bit_gives_it_another(tmp_path: Path) -> None:
    path = written(tmp_path)
    _, second, _, last = read_segment(path).kept
    write_mark(path, replace(second, mark=Mark.DENIED))
    write_mark(path, replace(last, mark=Mark.ENDED))
    found = read_segment(path)
    assert (found.records, found.damaged) == (RECORDS, False)
    assert [each.mark for each in found.kept] == [
        Mark.AS_IT_IS,
        Mark.DENIED,
        Mark.AS_IT_IS,
        Mark.ENDED,
    ]
    content = path.read_bytes()
    for number, kept in enumerate(found.kept):
        for bit in range(8):
            changed = bytearray(content)
            changed[kept.place] ^= 1 << bit
            path.write_bytes(changed)
            assert read_segment(path).kept == found.kept[:number]
            assert read_segment(path).damaged


@pytest.mark.parametrize("record", [b"", b"x" * (RECORD_BYTES_MAX + 1)])
def test_a_record_has_a_size(record: bytes) -> None:
    with pytest.raises(ValueError, match="a record has"):
        frame(record)


def test_a_segment_that_is_full_is_followed_by_another(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path)
    large = frame(b"x" * RECORD_BYTES_MAX)
    while len(segments_of(tmp_path)) < 2:
        writer.append([large])
    writer.seal()
    first, second = segments_of(tmp_path)
    assert first.stat().st_size >= SEGMENT_BYTES_MAX
    assert read_segment(second).records == (b"x" * RECORD_BYTES_MAX,)


def test_what_could_not_be_written_whole_is_taken_back(tmp_path: Path) -> None:
    """A group of which a part reached the disk was refused as a whole, so none of it may count."""
    writer = SegmentWriter(tmp_path)
    writer.append([frame(b"kept")])
    group = [frame(b"a" * 100), frame(b"b" * 10_000)]
    with files_of_at_most(1_000), pytest.raises(OSError, match="too large") as caught:
        writer.append(group)
    assert caught.value.errno == errno.EFBIG
    writer.append([frame(b"later")])
    writer.seal()
    found = [read_segment(path) for path in segments_of(tmp_path)]
    assert [segment.records for segment in found] == [(b"kept",), (b"later",)]
    assert not any(segment.damaged for segment in found)


# --- The spool ----------------------------------------------------------------------------------
