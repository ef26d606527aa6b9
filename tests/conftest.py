"""Fixtures for all tests; each module named here is a small plugin."""

pytest_plugins = ["tests.fixtures.stores", "tests.fixtures.databases", "tests.fixtures.server"]
