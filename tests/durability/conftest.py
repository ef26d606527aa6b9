"""A hot store with a replica, started once for these tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import kill
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import pytest
import redis

from tests.support.cluster import PASSWORD, Followed, followed


@pytest.fixture(scope="session")
def started_pair(stores_dir: Path) -> Iterator[Followed]:
    """A master and its replica."""
    with followed(stores_dir / "followed") as stores:
        yield stores


@pytest.fixture
def followed_store(started_pair: Followed) -> Followed:
    """The same, with nothing in it, and a master that writes its log at once."""
    with redis.Redis(port=started_pair.master.port, password=PASSWORD) as master:
        master.flushall()
        master.script_flush()
        master.config_set("appendonly", "yes")
        master.config_set("appendfsync", "always")
        master.config_resetstat()
    return started_pair


@contextmanager
def frozen(stores: Followed) -> Iterator[None]:
    """The replica does nothing, and its master does not know."""
    kill(stores.replica.pid, SIGSTOP)
    try:
        yield
    finally:
        kill(stores.replica.pid, SIGCONT)
