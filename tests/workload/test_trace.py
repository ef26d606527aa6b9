"""Traces: read strictly, generated reproducibly."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from holdfast_server.workload import trace
from holdfast_server.workload.trace import HEADER, TraceError, TraceRow, generate_trace, parse_trace

FIRST = "2023-11-16 18:15:46.6805900,374,44"


def test_rows_are_counted_from_the_first() -> None:
    rows = parse_trace([HEADER, FIRST, "2023-11-16 18:15:50.9951690,396,109"])
    assert rows == [TraceRow(0, 374, 44), TraceRow(4_315, 396, 109)]


def test_line_endings_and_short_fractions_do_not_matter() -> None:
    rows = parse_trace([HEADER + "\r\n", FIRST + "\r\n", "2023-11-16 18:15:47.5,1,0\n"])
    assert rows[1] == TraceRow(820, 1, 0)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no rows"),
        ([HEADER], "no rows"),
        (["time,a,b", FIRST], "line 1"),
        ([HEADER, FIRST, ""], "line 3"),
        ([HEADER, "2023-11-16 18:15:46.6805900,374"], "line 2"),
        ([HEADER, FIRST + ",1"], "line 2"),
        ([HEADER, "2023-11-16 18:15:46.6805900,-1,44"], "line 2"),
        ([HEADER, "2023-11-16 18:15:46.6805900,1e3,44"], "line 2"),
        ([HEADER, "2023-11-16 18:15:46.6805900,\u0661,44"], "line 2"),
        ([HEADER, "2023-13-16 18:15:46.6805900,374,44"], "line 2: no such date"),
        ([HEADER, "2023-11-16 18:15:46.6805900,10000001,44"], "line 2: a request has at most"),
        ([HEADER, "2023-11-16 18:15:46.6805900,999999999,44"], "line 2"),
        ([HEADER, FIRST, "2023-11-16 18:15:45.0,1,1"], "line 3: the time is before"),
    ],
)
def test_anything_else_is_refused_with_its_line(lines: list[str], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        parse_trace(lines)


def test_a_trace_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "ROWS_MAX", 2)
    assert len(parse_trace([HEADER, FIRST, FIRST])) == 2
    with pytest.raises(TraceError, match="at most 2 rows"):
        parse_trace([HEADER, FIRST, FIRST, FIRST])


def test_a_file_without_line_ends_is_not_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(HEADER + "\n" + "1" * 10_000_000)
    with pytest.raises(TraceError, match="line 2"):
        trace.read_trace(file)


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(f"{HEADER}\n{FIRST}\n{FIRST}\n")
    assert len(trace.read_trace(file)) == 2
    file.write_bytes(HEADER.encode() + b"\n\xff\xfe\n")
    with pytest.raises(TraceError, match="line 2"):
        trace.read_trace(file)


def test_the_same_seed_generates_the_same_trace() -> None:
    assert generate_trace(500, 7) == generate_trace(500, 7)
    assert generate_trace(500, 7) != generate_trace(500, 8)


def test_a_generated_trace_looks_like_a_real_one() -> None:
    rows = generate_trace(5_000, 1)
    assert len(rows) == 5_000
    generated = sorted(row.generated_tokens for row in rows)
    median, tail = generated[2_500], generated[4_950]
    assert 100 < median < 160
    assert tail > 6 * median
    gaps = [after.at_ms - before.at_ms for before, after in pairwise(rows)]
    assert min(gaps) >= 0
    # Bursts: most follow at once, a few after a long silence.
    assert sorted(gaps)[2_500] < 30
    assert max(gaps) > 3_000
