"""Fixtures for all tests; each module named here is a small plugin."""

from hypothesis import settings

pytest_plugins = ["tests.fixtures.stores", "tests.fixtures.databases", "tests.fixtures.server"]

# `--hypothesis-profile=long` runs thousands of histories where the suite runs hundreds.
settings.register_profile("long", max_examples=3_000, stateful_step_count=60)
