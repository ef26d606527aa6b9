"""Request traces: read from a file, or generated."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

#: The first line of every trace file.
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
#: Rows of one trace: all of them, and the history of what became of them, are kept in memory.
ROWS_MAX = 1_000_000
#: Characters of one line, line ending included.
LINE_CHARACTERS_MAX = 100
#: Tokens in one row: far above any model's context.
TOKENS_MAX = 10_000_000

#: What generated requests look like: medians and spread like those of a public conversation trace.
CONTEXT_TOKENS_MEDIAN = 900
GENERATED_TOKENS_MEDIAN = 130
TOKENS_SIGMA = 0.9
#: Generated requests come in bursts of up to this many, this far apart on average.
BURST_REQUESTS_MAX = 40
BURST_GAP_MS = 3_000
#: Within a burst they are this far apart on average.
REQUEST_GAP_MS = 20

_ROW = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\.(\d{1,9}),(\d{1,8}),(\d{1,8})", re.ASCII)


class TraceError(ValueError):
    """A trace that cannot be read; the message names the line."""


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One request: when it came, after the trace's first, and how many tokens it read and wrote."""

    at_ms: int
    context_tokens: int
    generated_tokens: int


def read_trace(path: Path) -> list[TraceRow]:
    """All rows of a file. Raises TraceError for anything but the format, OSError for no file."""
    with path.open(encoding="ascii", errors="replace", newline="") as file:
        return parse_trace(iter(lambda: file.readline(LINE_CHARACTERS_MAX + 1), ""))


def parse_trace(lines: Iterable[str]) -> list[TraceRow]:
    """The rows of a trace's lines, header included. Raises TraceError."""
    rows: list[TraceRow] = []
    first_ms = 0
    for number, line in enumerate(lines, start=1):
        if number == 1:
            _check_header(line)
            continue
        row = _parse_row(number, line)
        first_ms = first_ms if rows else row.at_ms
        rows.append(TraceRow(row.at_ms - first_ms, row.context_tokens, row.generated_tokens))
        if len(rows) > ROWS_MAX:
            raise TraceError(f"line {number}: a trace has at most {ROWS_MAX:,} rows")
        if len(rows) > 1 and rows[-1].at_ms < rows[-2].at_ms:
            raise TraceError(f"line {number}: the time is before that of the line above")
    if not rows:
        raise TraceError("the trace has no rows")
    return rows


def generate_trace(requests: int, seed: int) -> list[TraceRow]:
    """Requests with lognormal token counts, in bursts. The same seed makes the same trace."""
    source = random.Random(seed)
    rows: list[TraceRow] = []
    at_ms = 0.0
    while len(rows) < requests:
        for _ in range(min(source.randint(1, BURST_REQUESTS_MAX), requests - len(rows))):
            at_ms += source.expovariate(1 / REQUEST_GAP_MS)
            context = _lognormal(source, CONTEXT_TOKENS_MEDIAN)
            rows.append(TraceRow(int(at_ms), context, _lognormal(source, GENERATED_TOKENS_MEDIAN)))
        at_ms += source.expovariate(1 / BURST_GAP_MS)
    return rows


def _lognormal(source: random.Random, median: int) -> int:
    tokens = source.lognormvariate(math.log(median), TOKENS_SIGMA)
    return min(TOKENS_MAX, max(1, round(tokens)))


def _check_header(line: str) -> None:
    if line.rstrip("\r\n") != HEADER:
        raise TraceError(f"line 1: expected {HEADER!r}")


def _parse_row(number: int, line: str) -> TraceRow:
    match = _ROW.fullmatch(line.rstrip("\r\n"))
    if match is None:
        raise TraceError(f"line {number}: expected a timestamp and two token counts")
    second, fraction, context, generated = match.groups()
    try:
        instant = datetime.strptime(second, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        raise TraceError(f"line {number}: no such date or time") from None
    tokens = int(context), int(generated)
    if max(tokens) > TOKENS_MAX:
        raise TraceError(f"line {number}: a request has at most {TOKENS_MAX:,} tokens")
    return TraceRow(int(instant.timestamp()) * 1_000 + int(fraction[:3].ljust(3, "0")), *tokens)
