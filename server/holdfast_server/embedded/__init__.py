"""Starts the two stores as child processes, for a machine that has neither.

What is found is used in this order: URLs that the caller already has, servers on PATH, the ones of
the extra `embedded`. Data stays in the data directory between runs. Every server ends with the
process that started it, even when that is killed.
"""

import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import current_thread, main_thread
from types import TracebackType
from typing import Self

from holdfast_server.embedded.postgres import forget_postgres, start_postgres
from holdfast_server.embedded.process import EmbeddedError, Server
from holdfast_server.embedded.valkey import start_valkey

__all__ = [
    "EmbeddedError",
    "EmbeddedServers",
    "Server",
    "forget_postgres",
    "start",
    "start_postgres",
    "start_valkey",
    "temporary_folder",
]


@dataclass
class EmbeddedServers:
    """The URLs of both stores, and whatever had to be started for them."""

    redis_url: str
    postgres_url: str
    _running: ExitStack = field(default_factory=ExitStack, repr=False)

    def stop(self) -> None:
        """Stop the servers that `start` started, the newest first; idempotent."""
        self._running.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def start(data_dir: Path, *, redis_url: str | None, postgres_url: str | None) -> EmbeddedServers:
    """Start each store whose URL is None, on the data below `data_dir`, and return both URLs.

    Blocks until both answer, well under two seconds on a first start. Call it from a thread that
    lasts as long as the servers shall. Raises `EmbeddedError`; then nothing is left running.
    """
    with ExitStack() as started:
        if redis_url is None:
            redis_url = started.enter_context(start_valkey(data_dir / "valkey")).url
        if postgres_url is None:
            postgres_url = started.enter_context(start_postgres(data_dir / "postgres")).url
        return EmbeddedServers(redis_url, postgres_url, started.pop_all())


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A folder for stores whose data ends with the block; Postgres' is in `postgres` below it."""
    temporary = tempfile.TemporaryDirectory(prefix=prefix)
    folder = Path(temporary.name)
    try:
        # Postgres does not run as root, and its user must be able to pass through.
        folder.chmod(0o711)
        yield folder
    finally:
        with _undisturbed():
            forget_postgres(folder / "postgres")
            temporary.cleanup()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Nobody who is impatient ends this block half way: what it leaves would be there for good."""
    numbers = (signal.SIGINT, signal.SIGTERM) if current_thread() is main_thread() else ()
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
