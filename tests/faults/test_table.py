"""The table of faults names every row, and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parent
ROWS = [f"F{number}" for number in range(1, 63)] + ["F65"]
#: At least so many of them have a test that runs.
RUNNING_MIN = 50

_ROW = re.compile(r"^\| (F\d+) \|[^|]*\|[^|]*\|([^|]*)\|$", re.MULTILINE)
_TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")


def rows() -> list[tuple[str, str]]:
    """Each row's name, and what its last column says."""
    return _ROW.findall((FOLDER / "README.md").read_text())


def test_every_row_is_there_once_and_in_order() -> None:
    assert [name for name, _ in rows()] == ROWS


def test_every_row_names_a_test_or_says_why_not() -> None:
    with_tests = [name for name, tests in rows() if _TEST.search(tests)]
    without = [tests for _, tests in rows() if not _TEST.search(tests)]
    assert len(with_tests) >= RUNNING_MIN
    assert all("not testable here because" in reason for reason in without)


def test_the_tests_that_are_named_exist() -> None:
    for name, tests in rows():
        for path, test in _TEST.findall(tests):
            text = (FOLDER.parent / path).read_text()
            assert re.search(rf"def {test}\b", text), (name, path, test)
