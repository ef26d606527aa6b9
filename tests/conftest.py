"""Fixtures for all tests; each module named here is a small plugin."""

import pytest
from hypothesis import settings

from tests.support.fault_table import TESTS, named_tests, read_rows

pytest_plugins = [
    "tests.fixtures.stores",
    "tests.fixtures.databases",
    "tests.fixtures.engines",
    "tests.fixtures.server",
    "tests.fixtures.idle",
]

# `--hypothesis-profile=long` runs thousands of histories where the suite runs hundreds.
settings.register_profile("long", max_examples=3_000, stateful_step_count=60)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever the table of faults names is a test of faults, wherever it lies."""
    named = {test for _, column in read_rows() for test in named_tests(column)}
    for item in items:
        name = item.name.partition("[")[0]
        if (item.path.relative_to(TESTS).as_posix(), name) in named:
            item.add_marker("faults")
