"""The table of faults in tests/faults/README.md: its rows, and the tests that they name."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]

_ROW = re.compile(r"^\| (F\d+) \|[^|]*\|[^|]*\|([^|]*)\|$", re.MULTILINE)
_TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")


def read_rows() -> list[tuple[str, str]]:
    """Each row's name, and what its last column says."""
    return _ROW.findall((TESTS / "faults" / "README.md").read_text())


def read_naive_rows() -> list[str]:
    """What the last column says of each way that is naive."""
    text = (TESTS / "faults" / "README.md").read_text()
    section = text.split("\n## The naive way\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
    return [row.rsplit("|", 2)[1] for row in rows]


def named_tests(column: str) -> list[tuple[str, str]]:
    """The tests that a last column names: file below `tests`, and function."""
    return _TEST.findall(column)
