"""A whole service with stores of its own, which the tests of one module may break."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest_asyncio

from holdfast_server.chaos.stack import Stack
from holdfast_server.chaos.trial import Trial, trial

#: Holds that nobody settles end soon, so that a trial comes to rest.
TTL_MS = 2_000


@contextmanager
def folder_of_servers() -> Iterator[Path]:
    """Not below pytest's own: as root, Postgres runs as a user who may not enter that."""
    with TemporaryDirectory(prefix="holdfast-faults-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_stack() -> AsyncIterator[Stack]:
    """Starts it once for all tests of a module."""
    with folder_of_servers() as folder:
        async with Stack(folder) as stack:
            yield stack


@pytest_asyncio.fixture(loop_scope="module")
async def stack(running_stack: Stack) -> AsyncIterator[Stack]:
    """The same, with nothing broken before and after."""
    await running_stack.ready()
    yield running_stack
    running_stack.store_proxy.heal()
    running_stack.ledger_proxy.heal()


@asynccontextmanager
async def under_load(stack: Stack) -> AsyncIterator[Trial]:
    """Callers call while the block lasts; afterwards everything must hold.

    Whatever the block breaks it must have mended at its end.
    """
    async with trial(stack, 1, io.StringIO(), ttl_ms=TTL_MS) as one:
        yield one
        verdict = await one.end()
    assert list(verdict.violations) == []
    assert any(each.seq for each in one.attempts.made)
