"""A whole service that may be broken: both stores, a proxy before each, and `holdfast serve`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from holdfast_server import embedded
from holdfast_server.app.problem import Problem
from holdfast_server.chaos.proxy import LOOPBACK, Proxy
from holdfast_server.embedded.process import Server, User, command_as, free_port
from holdfast_server.ledger.migrate import migrate

#: How long the service may take from its start to its first answer, while nothing is broken.
READY_S: Final = 180.0
#: How long it may take to end once it was told to.
END_S: Final = 30.0
#: Pause between two starts of a service that cannot start yet.
RESTART_PAUSE_S: Final = 0.3
POLL_S: Final = 0.05
#: Pause between two looks at which processes there are: each look reads all of /proc.
LOOK_S: Final = 0.5

#: An acknowledged operation must survive the death of the store's process, whatever the disk does.
STORE_OPTIONS: Final = ("--appendfsync", "always")

Found = TypeVar("Found")


@dataclass
class Stack:
    """Starts everything below `folder`; `environment` is added to the service's."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    store_options: tuple[str, ...] = STORE_OPTIONS
    store: Server = field(init=False)
    ledger: Server = field(init=False)
    store_proxy: Proxy = field(init=False)
    ledger_proxy: Proxy = field(init=False)
    port: int = field(default_factory=free_port)
    _supervisor: asyncio.subprocess.Process | None = None
    _closing: bool = False
    _ready: asyncio.Event = field(default_factory=asyncio.Event)
    #: Servers end with the thread that started them: this one lasts as long as the stack.
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    _running: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def target(self) -> str:
        """Where the service listens."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def kill_file(self) -> Path:
        """While it exists, nothing is enforced."""
        return self.folder / "state" / "KILL"

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as running:
            running.callback(self._thread.shutdown)
            running.push_async_callback(self._stop_stores)
            await self._in_thread(self._start_stores)
            self.store_proxy = await running.enter_async_context(Proxy(self.store.port))
            self.ledger_proxy = await running.enter_async_context(Proxy(self.ledger.port))
            await migrate(self.ledger.url)
            keeper = asyncio.create_task(self._keep_serving())
            running.push_async_callback(self._end_serving, keeper)
            await self.ready()
            self._running = running.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._running.aclose()

    async def ready(self) -> None:
        """Returns when the service has said that callers are welcome. Raises Problem."""
        try:
            await asyncio.wait_for(self._ready.wait(), READY_S)
        except TimeoutError as error:
            log = self.folder / "service.log"
            raise Problem(f"the service did not start in {READY_S:.0f} s; see {log}") from error

    # --- Stores ---------------------------------------------------------------------------------

    async def kill_store(self) -> None:
        """The store's process dies at once."""
        await self._in_thread(self.store.kill)

    async def stop_store(self) -> None:
        """The store's process ends in order."""
        await self._in_thread(self.store.stop)

    async def start_store(self) -> None:
        """It comes back with what its append-only file has, on the same port."""
        await self._in_thread(self._start_store)

    async def kill_ledger(self) -> None:
        """The ledger's processes die at once."""
        await self._in_thread(self.ledger.kill)

    async def stop_ledger(self) -> None:
        """The ledger's processes end in order."""
        await self._in_thread(self.ledger.stop)

    async def start_ledger(self) -> None:
        """It comes back and recovers what it has committed, on the same port."""
        await self._in_thread(self._start_ledger)

    def _start_stores(self) -> None:
        self._start_store()
        self._start_ledger()

    def _start_store(self) -> None:
        self.store = embedded.start_valkey(self.folder / "valkey", extra_args=self.store_options)

    def _start_ledger(self) -> None:
        self.ledger = embedded.start_postgres(self.folder / "postgres")

    async def _stop_stores(self) -> None:
        for name in ("store", "ledger"):
            server: Server | None = getattr(self, name, None)
            if server is not None:
                for each in family(server.pid):
                    send(each, signal.SIGCONT)
                await self._in_thread(server.stop)

    async def _in_thread(self, work: Callable[[], Found]) -> Found:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # --- Service --------------------------------------------------------------------------------

    def processes(self, role: str = "") -> list[int]:
        """The processes of the service, of one role or all, but without the supervisor."""
        supervisor = self._supervisor
        found = children(supervisor.pid) if supervisor else []
        return [each for each in found if not role or role in _arguments(each)]

    async def kill_supervisor(self) -> bool:
        """The supervisor dies; its processes end by themselves, and all is started again.

        Says whether there was one.
        """
        if not (self._supervisor and self._ready.is_set()):
            return False
        self._ready.clear()
        send(self._supervisor.pid, signal.SIGKILL)
        return True

    async def _keep_serving(self) -> None:
        """Starts the service whenever it is not there, as a service manager would."""
        while not self._closing:
            left = await self._serve_once()
            await _all_gone(left)
            await asyncio.sleep(RESTART_PAUSE_S)

    async def _serve_once(self) -> list[int]:
        """Answers which processes it may have left behind."""
        command = [sys.executable, "-m", "holdfast_server", "serve", "--json"]
        with (self.folder / "service.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command_as(User.current(), command),
                env=self._environment(),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                process_group=0,
            )
        self._supervisor = process
        assert process.stdout is not None
        if await process.stdout.readline():
            self._ready.set()
        left: list[int] = []
        while process.returncode is None:
            left = self.processes() or left
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), LOOK_S)
        self._ready.clear()
        return left

    def _environment(self) -> dict[str, str]:
        kept = {name: text for name, text in os.environ.items() if name[:9] != "HOLDFAST_"}
        return {
            **kept,
            "HOLDFAST_REDIS_URL": self.store_proxy.url(self.store.url),
            "HOLDFAST_POSTGRES_URL": self.ledger_proxy.url(self.ledger.url),
            "HOLDFAST_STATE_DIR": str(self.folder / "state"),
            "HOLDFAST_DEVELOPMENT": "true",
            "HOLDFAST_PORT": str(self.port),
            "HOLDFAST_METRICS_PORT": "0",
            "HOLDFAST_WORKERS": "2",
            "HOLDFAST_LOG_LEVEL": "warning",
            **self.environment,
        }

    async def _end_serving(self, keeper: asyncio.Task[None]) -> None:
        self._closing = True
        supervisor = self._supervisor
        if supervisor is not None:
            for each in self.processes():
                send(each, signal.SIGCONT)
            send(supervisor.pid, signal.SIGTERM)
        try:
            await asyncio.wait_for(keeper, END_S)
        except TimeoutError:
            if supervisor is not None:
                send(supervisor.pid, signal.SIGKILL)


async def _all_gone(processes: list[int]) -> None:
    while any(map(alive, processes)):  # noqa: ASYNC110 (the kernel tells only their parent)
        await asyncio.sleep(POLL_S)


# --- Processes ----------------------------------------------------------------------------------


def send(process_id: int, number: signal.Signals) -> None:
    """Sends a signal to a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(process_id, number)


def alive(process_id: int) -> bool:
    """Whether a process exists and is no zombie."""
    state, _ = _state_and_parent(process_id)
    return state not in ("", "Z")


def children(process_id: int) -> list[int]:
    """The processes that a process has started and that live."""
    everybody = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    return [each for each in everybody if _state_and_parent(each)[1] == process_id and alive(each)]


def family(process_id: int) -> list[int]:
    """A process and its children."""
    return [process_id, *children(process_id)]


def _state_and_parent(process_id: int) -> tuple[str, int]:
    """See proc(5). The name before them may hold anything."""
    try:
        text = Path(f"/proc/{process_id}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    state, parent, *_ = text.rpartition(")")[2].split()
    return state, int(parent)


def _arguments(process_id: int) -> list[str]:
    try:
        return Path(f"/proc/{process_id}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []
