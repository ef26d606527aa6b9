"""A real cluster of three masters, and a master with a replica and a sentinel, on this machine."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from holdfast_server import embedded
from holdfast_server.embedded.process import Server, free_port
from holdfast_server.embedded.valkey import find_valkey
from tests.support.server import PATIENCE_S, eventually

SLOTS = 16_384
PASSWORD = "all nodes know it"
#: What it takes until a node that does not answer counts as gone.
NODE_TIMEOUT_MS = 1_000


@dataclass(frozen=True, slots=True)
class Cluster:
    """Its nodes, and how to reach each."""

    ports: Sequence[int]
    clients: Sequence[redis.Redis]

    @property
    def url(self) -> str:
        """What names it in the settings."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"redis+cluster://:{PASSWORD.replace(' ', '%20')}@{hosts}"

    def empty(self) -> None:
        """Deletes everything."""
        for client in self.clients:
            client.flushall()

    def owner(self, slot: int, asked: int = 0) -> int:
        """Which node has a slot, as one of them says."""
        for first, last, (_, port, *_), *_ in self._ask(asked, "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return self.ports.index(port)
        raise AssertionError(f"nobody has slot {slot}")

    def begin_move(self, slot: int, target: int) -> int:
        """Says to both nodes that the slot is on its way; answers where it was."""
        source = self.owner(slot)
        self._ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.name(source))
        self._ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.name(target))
        return source

    def move_keys(self, slot: int, source: int, target: int, count: int) -> int:
        """Moves so many of a slot's keys; answers how many there were to move."""
        names = self._ask(source, "CLUSTER", "GETKEYSINSLOT", slot, count)
        if names:
            place = ("127.0.0.1", self.ports[target], "", 0, 5_000)
            self._ask(source, "MIGRATE", *place, "AUTH", PASSWORD, "KEYS", *names)
        return len(names)

    def end_move(self, slot: int, source: int, target: int) -> None:
        """Says to both that the slot has arrived."""
        for node in (target, source):
            self._ask(node, "CLUSTER", "SETSLOT", slot, "NODE", self.name(target))

    def name(self, node: int) -> str:
        """What the nodes call it."""
        return str(self._ask(node, "CLUSTER", "MYID").decode())

    def _ask(self, node: int, *command: Any) -> Any:
        return ask(self.clients[node], *command)


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Cluster]:
    """Three masters that share all slots."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(_node(folder / str(number))) for number in range(3)]
        clients = [stack.enter_context(_client(server)) for server in servers]
        share = SLOTS // len(clients) + 1
        for number, client in enumerate(clients):
            first, last = number * share, min(SLOTS, (number + 1) * share) - 1
            ask(client, "CLUSTER", "ADDSLOTSRANGE", first, last)
            bus = int(client.config_get("cluster-port")["cluster-port"])
            for other in clients[:number]:
                ask(other, "CLUSTER", "MEET", "127.0.0.1", servers[number].port, bus)
        eventually(lambda: all(map(_is_whole, clients)), "the cluster is whole")
        yield Cluster([server.port for server in servers], clients)


@contextlib.contextmanager
def copied(cluster: Cluster, node: int, folder: Path) -> Iterator[None]:
    """A replica of one of its masters, which has caught up and takes its place when it goes."""
    with _node(folder) as server, _client(server) as client:
        bus = int(client.config_get("cluster-port")["cluster-port"])
        ask(cluster.clients[node], "CLUSTER", "MEET", "127.0.0.1", server.port, bus)
        eventually(lambda: _follows(client, cluster.name(node)), "the replica knows its master")
        eventually(lambda: client.info()["master_link_status"] == "up", "the replica follows")
        eventually(lambda: all(map(_knows_a_replica, cluster.clients)), "all know of the replica")
        yield


def _follows(client: redis.Redis, master: str) -> bool:
    try:
        return bool(ask(client, "CLUSTER", "REPLICATE", master))
    except redis.ResponseError:
        return False


def _knows_a_replica(client: redis.Redis) -> bool:
    return any(len(places) > 1 for _, _, *places in ask(client, "CLUSTER", "SLOTS"))


def _node(folder: Path) -> Server:
    options = {
        "--cluster-enabled": "yes",
        "--cluster-port": str(free_port()),
        "--cluster-node-timeout": str(NODE_TIMEOUT_MS),
        "--cluster-announce-ip": "127.0.0.1",
    }
    return embedded.start_valkey(
        folder, extra_args=[part for pair in options.items() for part in pair]
    )


def _client(server: Server) -> redis.Redis:
    """Gives a node the password of all nodes."""
    with redis.Redis.from_url(server.url) as first:
        first.config_set("masterauth", PASSWORD)
        first.config_set("requirepass", PASSWORD)
    return redis.Redis(port=server.port, password=PASSWORD)


def _is_whole(client: redis.Redis) -> bool:
    slots, info = ask(client, "CLUSTER", "SLOTS"), ask(client, "CLUSTER", "INFO")
    covered = sum(last - first + 1 for first, last, *_ in slots)
    return b"cluster_state:ok" in info and covered == SLOTS


def ask(client: redis.Redis, *command: Any) -> Any:
    """What a node answers, as it is."""
    return client.execute_command(*command)  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Watched:
    """A master and its replica, and the sentinel that watches them."""

    master: Server
    replica: Server
    sentinel_port: int

    @property
    def url(self) -> str:
        """What names it in the settings."""
        password = PASSWORD.replace(" ", "%20")
        return f"redis+sentinel://:{password}@127.0.0.1:{self.sentinel_port}/mymaster"


@dataclass(frozen=True, slots=True)
class Followed:
    """A master and its replica."""

    master: Server
    replica: Server

    @property
    def url(self) -> str:
        """What names the master in the settings."""
        return f"redis://:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{self.master.port}/0"


@contextlib.contextmanager
def followed(folder: Path) -> Iterator[Followed]:
    """A replica that has caught up."""
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(embedded.start_valkey(folder / "master"))
        replica = stack.enter_context(embedded.start_valkey(folder / "replica"))
        stack.enter_context(_client(master))
        copying = stack.enter_context(_client(replica))
        copying.replicaof("127.0.0.1", master.port)
        eventually(lambda: copying.info()["master_link_status"] == "up", "the replica follows")
        yield Followed(master, replica)


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[Watched]:
    """A replica that has caught up, and one sentinel whose word is enough."""
    with contextlib.ExitStack() as stack:
        stores = stack.enter_context(followed(folder))
        master, replica = stores.master, stores.replica
        port = stack.enter_context(_sentinel(folder, master.port))
        sentinel = redis.Redis(port=port)
        eventually(lambda: sentinel.sentinel_slaves("mymaster"), "the sentinel knows the replica")
        yield Watched(master, replica, port)


@contextlib.contextmanager
def _sentinel(folder: Path, master_port: int) -> Iterator[int]:
    port, config = free_port(), folder / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
        f"sentinel monitor mymaster 127.0.0.1 {master_port} 1\n"
        f'sentinel auth-pass mymaster "{PASSWORD}"\n'
        f"sentinel down-after-milliseconds mymaster {NODE_TIMEOUT_MS}\n"
        "sentinel failover-timeout mymaster 5000\n"
    )
    process = subprocess.Popen(
        [find_valkey(), config, "--sentinel"], stdout=subprocess.DEVNULL, cwd=folder
    )
    with process:
        try:
            eventually(lambda: _answers(port), "the sentinel answers")
            yield port
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def _answers(port: int) -> bool:
    try:
        return bool(redis.Redis(port=port).ping())
    except redis.ConnectionError:
        return False
