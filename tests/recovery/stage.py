"""Hot stores of one's own, to be restarted, emptied and replaced, before one ledger."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis

from holdfast_server import embedded
from holdfast_server.background import background
from holdfast_server.control.epochs import EpochKeeper
from holdfast_server.control.hydration import Hydrator
from holdfast_server.domain import operation as op
from holdfast_server.domain.epoch import Acknowledged
from holdfast_server.domain.operation import Operation
from holdfast_server.embedded.process import Server
from holdfast_server.engine.accounts import AccountReader
from holdfast_server.engine.batcher import Batcher, Calls, Limits
from holdfast_server.engine.directory import Directory
from holdfast_server.engine.engine import Engine, Parts
from holdfast_server.engine.keys import FLUSHED_FIELD, Keys
from holdfast_server.engine.outbox import Outbox
from holdfast_server.engine.request import Request
from holdfast_server.engine.roots import Roots
from holdfast_server.engine.scripts import load
from holdfast_server.engine.store import Store
from holdfast_server.engine.stores import open_store
from holdfast_server.engine.tree_store import TreeStore
from holdfast_server.flusher.flusher import Flusher
from holdfast_server.ledger.append import Appender
from holdfast_server.ledger.records import ProcessReport
from holdfast_server.ledger.store import Ledger
from holdfast_server.recovery.case import Recovered
from holdfast_server.recovery.coordinator import Coordinator, Stores
from holdfast_server.telemetry.names import Alert
from holdfast_server.telemetry.recorder import Recorder
from tests.support.ledger import PARTITIONS
from tests.support.pair import CALLER, SIGNER, NoRecorder, OneMode, Window
from tests.support.server import eventually, without_ours
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
DEPLOYMENT = "4/1"


class Alarms(Recorder):
    """Remembers the alerts."""

    def __init__(self) -> None:
        self.heard: list[Alert] = []

    def alert(self, alert: Alert) -> None:
        self.heard.append(alert)


@dataclass
class Worker:
    """A process that decides: an engine, what it knows of epochs, and what it has acknowledged."""

    name: str
    ledger: Ledger
    store: Store
    state_dir: Path
    keys: Keys = field(default_factory=lambda: Keys(PARTITIONS))
    acknowledged: Acknowledged = field(default_factory=Acknowledged)
    alarms: Alarms = field(default_factory=Alarms)
    calls: int = 0

    def __post_init__(self) -> None:
        self.keeper = EpochKeeper(
            self.ledger,
            self.keys.epochs,
            self.acknowledged,
            self.name,
            "worker",
            self.alarms,
            self.state_dir,
        )
        self.connect(self.store)

    def connect(self, store: Store) -> None:
        """Goes on with another store, as when a name resolves to another server."""
        self.store = store
        calls = Calls(store, self.keys, load("apply"), Window(), learn_epochs=self.keeper.refresh)
        hydrator = Hydrator(self.ledger, TreeStore(store, self.keys), self.alarms)
        parts = Parts(
            Batcher(calls, Limits(), NoRecorder()),
            Roots(Directory(store, self.keys), hydrator),
            AccountReader(store, self.keys, SIGNER),
            self.keys,
            SIGNER,
            OneMode(),
            self.acknowledged,
        )
        self.engine = Engine(parts)

    async def report(self) -> None:
        """Says that it lives."""
        await self.ledger.report_process(ProcessReport(self.name, "worker", "1", 1, 1))

    async def do(self, operation: Operation) -> Any:
        """The answer to one operation, of whose key the ledger knows nothing."""
        (answer,) = await self.engine.decide(CALLER, [Request(operation, checked=True)])
        return answer

    def key(self) -> str:
        """A key that was not used before."""
        self.calls += 1
        return f"{self.name}-{self.calls}"

    async def fund(self, account: str, amount: int = 100) -> None:
        """An account with credits."""
        await self.do(op.CreateAccount("t", account, op.AccountTerms(), self.key()))
        terms = op.GrantTerms("ai", amount, op.GrantSource.PURCHASE)
        await self.do(op.Grant("t", account, terms, self.key(), op.Durability.MEMORY))

    async def burn(self, account: str, amount: int = 1, key: str = "") -> Any:
        """Burns credits."""
        return await self.do(op.Burn("t", account, (op.Line("ai", amount),), key or self.key()))

    async def available(self, account: str) -> int:
        """What the account has."""
        balance = await self.do(op.GetBalance("t", account))
        return int(next(each.buckets.available for each in balance.credits))

    @asynccontextmanager
    async def voting(self) -> AsyncIterator[None]:
        """Lives, and answers when it is asked, as long as the block lasts."""
        await self.report()
        async with background(self.keeper.run()):
            yield


@dataclass
class Stage:
    """One ledger, and the hot stores that come and go before it."""

    ledger: Ledger
    postgres_url: str
    folder: Path
    servers: dict[str, Server] = field(default_factory=dict)
    stores: list[Store] = field(default_factory=list)
    alarms: Alarms = field(default_factory=Alarms)

    def start(self, name: str = "a") -> str:
        """Starts a server on what its folder holds; answers its URL."""
        self.servers[name] = embedded.start_valkey(self.folder / name)
        return self.servers[name].url

    def store(self, name: str = "a") -> Store:
        """A new pool of connections to a server."""
        self.stores.append(open_store(self.servers[name].url))
        return self.stores[-1]

    def client(self, name: str = "a") -> redis.Redis:
        """A plain client of a server."""
        return redis.Redis.from_url(self.servers[name].url)

    async def follow(self, master: str, replica: str) -> None:
        """Starts a replica and waits until it has everything.

        The first replica of a server begins a new history there: what was armed is armed again.
        """
        self.start(replica)
        url = urlsplit(self.servers[master].url)
        with self.client(replica) as client, self.client(master) as above:
            above.config_set("repl-diskless-sync-delay", 0)
            client.config_set("masterauth", url.password or "")
            client.execute_command("REPLICAOF", "127.0.0.1", url.port)
            above.incr("mark")
            eventually(lambda: above.execute_command("WAIT", 1, 100), "a replica has everything")
            await self.recover(master)
            above.incr("mark")
            eventually(lambda: above.execute_command("WAIT", 1, 100), "a replica has everything")

    def promote(self, replica: str) -> None:
        """Makes a replica a master. It has what it had received, and nothing after that."""
        with self.client(replica) as client:
            client.execute_command("REPLICAOF", "NO", "ONE")

    async def lose_an_entry(self, worker: Worker) -> int:
        """Restarts a server that was told of an entry of `ada` which the ledger does not have, as
        when a standby takes over that lacked it. Answers the partition.
        """
        await worker.fund("ada")
        await self.flush()
        partition = worker.keys.partition("t", "ada")
        name = worker.keys.state(partition, worker.keys.epoch(partition))
        with self.client() as client:
            client.hset(name, FLUSHED_FIELD, str((await self.ledger.flushed())[partition][1] + 1))
        self.servers["a"].stop()
        self.start()
        return partition

    def worker(self, name: str = "w", on: str = "a") -> Worker:
        """A process on a server."""
        return Worker(name, self.ledger, self.store(on), self.folder / "state")

    def coordinator(self, on: str = "a") -> Coordinator:
        """A coordinator for a server."""
        keys = Keys(PARTITIONS)
        stores = Stores(self.ledger, self.store(on), keys, self.postgres_url, DEPLOYMENT)
        return Coordinator(stores, self.alarms)

    async def recover(self, on: str = "a", rebuild: Sequence[int] = ()) -> dict[int, Recovered]:
        """Recovers; what was done, by partition."""
        done = await self.coordinator(on).recover(rebuild)
        return {each.partition: each for each in done}

    async def flush(self, on: str = "a") -> None:
        """Brings everything into the ledger that is in the outbox now."""
        keys, store = Keys(PARTITIONS), self.store(on)
        keys.epochs.learn(await self.ledger.epochs())
        flusher = Flusher(Outbox(store.client, keys), Appender(self.postgres_url))
        running = asyncio.create_task(flusher.run())
        reader = AccountReader(store, keys, SIGNER)

        async def is_there() -> bool:
            recorded = await self.ledger.flushed()
            seqs = [await reader.current_seq(each) for each in range(PARTITIONS)]
            return all(recorded[each][1] >= seq for each, seq in enumerate(seqs))

        await until(is_there)
        flusher.stop()
        await running

    def run_recovery(self, failpoints: str = "", on: str = "a") -> int:
        """`holdfast recovery run` as a process of its own; answers its exit status."""
        variables = {
            **without_ours(),
            "HOLDFAST_REDIS_URL": self.servers[on].url,
            "HOLDFAST_POSTGRES_URL": self.postgres_url,
            "HOLDFAST_STATE_DIR": str(self.folder / "state"),
            "HOLDFAST_ENV": "test",
            "HOLDFAST_FAILPOINTS": failpoints,
        }
        command = [sys.executable, "-m", "holdfast_server", "recovery", "run", "--json"]
        done = subprocess.run(
            command, env=variables, cwd=ROOT, capture_output=True, check=False, timeout=60
        )
        return done.returncode

    async def close(self) -> None:
        """Ends everything."""
        for store in self.stores:
            await store.close()
        for server in self.servers.values():
            server.kill()
