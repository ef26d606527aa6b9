"""The ledger loses, hangs or runs full: each entry is brought once, or somebody is told."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql
from psycopg_pool.base import AttemptWithBackoff
from redis.asyncio import Redis

from holdfast_server import embedded
from holdfast_server.chaos.proxy import Proxy
from holdfast_server.domain.entry import Entry
from holdfast_server.domain.packed import LAYOUT
from holdfast_server.embedded import Server
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.flusher.flusher import Flusher
from holdfast_server.flusher.retention import Retention
from holdfast_server.ledger.append import Appender
from holdfast_server.ledger.migrate import migrate
from holdfast_server.ledger.prepare import Fault
from holdfast_server.ledger.store import Ledger
from tests.fixtures.databases import database
from tests.flusher.stage import KEYS, Heard, Stage, open_store
from tests.support.entries import Story, holds_and_commits, pack
from tests.support.ledger import open_ledger, query, record
from tests.support.waiting import WAIT_SECONDS, until

pytestmark = pytest.mark.faults

RETAIN_MS = 3_600_000
RETAINED = 1_000_000
#: A disk with room for an empty database and little more.
DISK_MB = 160
#: So many messages of 10 MB are more than such a disk can take.
MESSAGES_MAX = 100


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[Redis]:
    async with open_store(valkey_url) as opened:
        yield opened


@asynccontextmanager
async def staged(client: Redis, postgres_url: str, valkey_url: str) -> AsyncIterator[Stage]:
    async with open_ledger(postgres_url) as ledger:
        yield Stage(ledger, client, postgres_url, valkey_url)


@pytest.fixture
async def stage(client: Redis, migrated_postgres_url: str, valkey_url: str) -> AsyncIterator[Stage]:
    async with staged(client, migrated_postgres_url, valkey_url) as one:
        yield one


@asynccontextmanager
async def flushing_to(stage: Stage, url: str, heard: Heard | None = None) -> AsyncIterator[Flusher]:
    """A flusher that reaches the ledger by another URL, and keeps what it has flushed."""
    hooks = (heard or Heard()).hooks
    flusher = Flusher(
        stage.outbox, Appender(url), hooks=hooks, retention=Retention(RETAIN_MS, RETAINED)
    )
    running = asyncio.create_task(flusher.run())
    try:
        yield flusher
    finally:
        flusher.stop()
        async with asyncio.timeout(WAIT_SECONDS):
            await running


def story(commits: int = 20) -> list[Entry]:
    return holds_and_commits(Story(), ["ada"], commits)


# --- Lost commits -------------------------------------------------------------------------------


@pytest.fixture
def standby_url(postgres_server_url: str, migrated_template: str) -> Iterator[str]:
    """A second ledger, to take the place of the first."""
    with database(postgres_server_url, template=migrated_template) as url:
        yield url


async def test_a_standby_takes_over_that_lacks_the_last_commits(
    stage: Stage, client: Redis, standby_url: str, valkey_url: str
) -> None:
    """F35, F65: what was flushed lately is still in the outbox and is sent again."""
    entries = story()
    await stage.add(*entries)
    async with flushing_to(stage, stage.postgres_url):
        await stage.until_recorded(p0=len(entries))
    async with staged(client, standby_url, valkey_url) as standby:
        await record(standby_url, *entries[:10])
        async with flushing_to(standby, standby_url):
            await standby.until_recorded(p0=len(entries))
        await standby.check(entries)


async def test_a_standby_that_lacks_what_was_trimmed_is_no_place_to_go_on(
    stage: Stage, client: Redis, standby_url: str, valkey_url: str
) -> None:
    """F35: nothing is skipped; the partition halts and says where."""
    entries, heard = story(), Heard()
    await stage.add(*entries)
    async with flushing_to(stage, stage.postgres_url):
        await stage.until_recorded(p0=len(entries))
    await client.xtrim(KEYS.outbox(0, 1), minid=f"1-{len(entries)}", approximate=False)
    async with staged(client, standby_url, valkey_url) as standby:
        await record(standby_url, *entries[:10])
        async with flushing_to(standby, standby_url, heard):
            await until(lambda: heard.halts)
        await standby.check(entries[:10])
    assert heard.halts[0].fault in {Fault.GAP, Fault.REGRESSED}


@pytest.fixture
def lost_standby(postgres_server_url: str) -> Iterator[Callable[[bool], None]]:
    """Says whether commits must wait for a standby that is not there."""

    def must_wait(wanted: bool) -> None:
        with psycopg.connect(postgres_server_url, autocommit=True) as connection:
            name = "nobody" if wanted else ""
            connection.execute(
                sql.SQL("ALTER SYSTEM SET synchronous_standby_names = {}").format(name)
            )
            connection.execute("SELECT pg_reload_conf()")

    yield must_wait
    must_wait(False)


async def test_a_commit_that_stopped_waiting_for_its_standby_is_no_word_of_the_ledger(
    stage: Stage, lost_standby: Callable[[bool], None]
) -> None:
    """F36: "committed locally" is not enough; the next commit waits for this one, too."""
    entries = story()
    await stage.add(*entries[:10])
    async with flushing_to(stage, stage.postgres_url):
        await stage.until_recorded(p0=10)
        await until(lambda: _published(stage, 10))
        lost_standby(True)
        await stage.add(*entries[10:])
        await until(lambda: _cancelled(stage.postgres_url))
        await stage.until_recorded(p0=len(entries))
        # It now waits for a commit of its own, in another session.
        await until(lambda: _waiting(stage.postgres_url))
        assert (await stage.watermarks())[0] == 10
        lost_standby(False)
        await until(lambda: _published(stage, len(entries)))
    await stage.check(entries)


async def _published(stage: Stage, seq: int) -> bool:
    return (await stage.watermarks()).get(0) == seq


def _waiting(url: str) -> list[dict[str, Any]]:
    """Flushers of this database whose commit waits for a standby."""
    return query(
        url,
        "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' "
        "AND application_name = 'holdfast flusher' AND datname = current_database()",
    )


def _cancelled(url: str) -> bool:
    """Has such a commit stop waiting; False where there is none yet."""
    for row in _waiting(url):
        query(url, "SELECT pg_cancel_backend(%s)", row["pid"])
        return True
    return False


# --- Lines --------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["blackhole", "requests", "replies", "cut", "throttle"])
async def test_the_line_to_the_ledger_breaks(stage: Stage, way: str) -> None:
    """F48: both ways or one; it costs time and nothing else."""
    entries = story(60)
    async with Proxy(_port(stage.postgres_url)) as proxy:
        breaks: dict[str, Callable[[], None]] = {
            "blackhole": proxy.blackhole,
            "requests": lambda: proxy.half_open("requests"),
            "replies": lambda: proxy.half_open("replies"),
            "cut": proxy.cut,
            "throttle": lambda: proxy.throttle(50_000),
        }
        async with flushing_to(stage, proxy.url(stage.postgres_url)):
            await stage.add(*entries[:40])
            await stage.until_recorded(p0=40)
            breaks[way]()
            await stage.add(*entries[40:])
            if way in {"blackhole", "requests"}:
                await asyncio.sleep(0.1)
                assert (await stage.recorded())[0] == 40
            proxy.heal()
            await stage.until_recorded(p0=len(entries))
    await stage.check(entries)


def _port(url: str) -> int:
    return urlsplit(url).port or 5432


async def test_a_ledger_that_is_back_is_asked_at_once(
    migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F30, F47: however long the pause has become by which the pool would try again by itself."""
    monkeypatch.setattr(AttemptWithBackoff, "INITIAL_DELAY", 10 * WAIT_SECONDS)
    async with Proxy(_port(migrated_postgres_url)) as proxy:
        ledger = await Ledger.open(proxy.url(migrated_postgres_url), pool_size=2)
        proxy.cut()
        with pytest.raises(HoldfastError) as caught:
            await ledger.flushed()
        proxy.heal()
        await until(lambda: _answers(ledger))
        await ledger.close()
    assert caught.value.reason is Reason.LEDGER_UNAVAILABLE


async def _answers(ledger: Ledger) -> bool:
    try:
        await ledger.flushed()
    except HoldfastError:
        return False
    return True


# --- Versions -----------------------------------------------------------------------------------


async def test_an_entry_of_a_newer_version_waits_for_a_newer_flusher(stage: Stage) -> None:
    """F42: it is not guessed at, not skipped and not lost."""
    entries, heard = story(5), Heard()
    newer = bytes([LAYOUT + 1]) + pack(entries[3])[1:]
    await stage.add(*entries[:3])
    await stage.add_raw(entries[3], newer)
    async with stage.flushing(heard):
        await until(lambda: heard.halts)
    assert [(halt.seq, halt.fault) for halt in heard.halts] == [(4, Fault.UNREADABLE)]
    await stage.check(entries[:3])
    rows: Any = await stage.client.xrange(KEYS.outbox(0, 1), min="1-4")
    assert [fields[b"e"] for _, fields in rows] == [newer]


# --- Disks --------------------------------------------------------------------------------------


@contextmanager
def small_disk() -> Iterator[Path]:
    """A file system of its own; only root may mount one."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    with TemporaryDirectory(prefix="holdfast-faults-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        place = folder / "disk"
        place.mkdir()
        size = f"size={DISK_MB}m,mode=711"
        mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(place)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("this machine lets nobody mount a file system")
        try:
            yield place
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def ballast() -> Iterator[tuple[Path, Path]]:
    """A small disk and a file that will fill it."""
    with small_disk() as disk:
        yield disk / "postgres", disk / "ballast"


def fill(path: Path) -> None:
    """Writes until nothing more fits."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65_536))
        except OSError:
            return


async def test_the_disk_of_the_ledger_is_full(
    client: Redis, valkey_url: str, ballast: tuple[Path, Path]
) -> None:
    """F32, F33: the flusher waits, also while Postgres falls over its log, and loses nothing."""
    folder, file = ballast
    server = embedded.start_postgres(folder)
    try:
        await migrate(server.url)
        async with staged(client, server.url, valkey_url) as stage:
            entries, heard = story(600), Heard()
            async with flushing_to(stage, server.url, heard):
                await stage.add(*entries[:10])
                await stage.until_recorded(p0=10)
                fill(file)
                await stage.add(*entries[10:])
                _switch_log(server)
                await until(lambda: not server.running)
                file.unlink()
                server = _again(server, folder)
                await stage.until_recorded(p0=len(entries))
            await stage.check(entries)
            assert heard.halts == []
            assert stage.quarantine() == []
    finally:
        server.stop()


def _switch_log(server: Server) -> None:
    """Has Postgres begin new files of its log until there is no room for one."""
    fill_log = "SELECT pg_logical_emit_message(true, 'fill', repeat('x', 9999999))"
    with suppress(psycopg.Error), psycopg.connect(server.url, autocommit=True) as connection:
        for _ in range(MESSAGES_MAX):
            connection.execute(fill_log)
    assert connection.closed


def _again(server: Server, folder: Path) -> Server:
    server.stop()
    return embedded.start_postgres(folder)
