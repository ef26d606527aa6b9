"""The table of faults names every row, and tests that exist."""

from __future__ import annotations

import re

from tests.support.fault_table import TESTS, named_tests, read_naive_rows, read_rows

ROWS = [f"F{number}" for number in range(1, 63)] + ["F63", "F65"]
#: At least so many rows have a test that runs.
RUNNING_MIN = 50
#: What such systems are known to lose money by.
FINDINGS = 10


def test_every_row_is_there_once_and_in_order() -> None:
    assert [name for name, _ in read_rows()] == ROWS


def test_every_row_names_a_test_or_says_why_not() -> None:
    rows = read_rows()
    without = [column for _, column in rows if not named_tests(column)]
    assert len(rows) - len(without) >= RUNNING_MIN
    assert all("not testable here because" in reason for reason in without)


def test_every_finding_has_a_test_of_the_naive_way() -> None:
    rows = read_naive_rows()
    assert len(rows) == FINDINGS
    assert all(named_tests(column) for column in rows)


def test_the_tests_that_are_named_exist() -> None:
    naive = [("naive", column) for column in read_naive_rows()]
    for name, column in read_rows() + naive:
        for path, test in named_tests(column):
            assert re.search(rf"def {test}\b", (TESTS / path).read_text()), (name, path, test)
