"""One supervised process: what becomes of it where it ends, hangs or cannot be started."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast_server.app.child import Child, Program
from tests.support.descriptors import no_descriptors
from tests.support.waiting import until

#: Stands in for the command: says that it is ready once a file is there, and does nothing more.
STANDS_IN = """
import os, pathlib, sys, time
pipe = int(next(each for each in sys.argv if each.startswith("--ready-pipe")).partition("=")[2])
pathlib.Path(sys.argv[1], "begun").touch()
while not pathlib.Path(sys.argv[1], "may").exists():
    time.sleep(0.01)
os.write(pipe, b"+")
time.sleep(600)
"""


@pytest.fixture
async def child(tmp_path: Path) -> AsyncIterator[Child]:
    """A child that became ready."""
    package = tmp_path / "holdfast_server"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STANDS_IN)
    (tmp_path / "may").touch()
    variables = {**os.environ, "PYTHONPATH": str(tmp_path)}
    child = Child(Program("stand-in", "worker", [str(tmp_path)], variables))
    running = asyncio.create_task(child.run())
    await until(child.ready.is_set)
    yield child
    await child.stop(0)
    await running


def kill(child: Child) -> None:
    """Ends the process of a child."""
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)


async def test_process_that_is_started_again_is_not_ready_before_it_says_so(
    child: Child, tmp_path: Path
) -> None:
    (tmp_path / "may").unlink()
    (tmp_path / "begun").unlink()
    kill(child)
    await until((tmp_path / "begun").exists)
    assert not child.ready.is_set()
    (tmp_path / "may").touch()
    await until(child.ready.is_set)


async def test_process_that_cannot_be_started_for_a_while_is_started_again(
    child: Child, caplog: pytest.LogCaptureFixture
) -> None:
    with no_descriptors():
        kill(child)
        await until(lambda: caplog.messages.count("a process ended and is started again") >= 2)
    await until(lambda: child.pid is not None and child.ready.is_set())
