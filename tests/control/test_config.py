"""Policies in memory: right within a second, and never worse than before whatever comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio

from holdfast_server.background import background
from holdfast_server.control import config_file
from holdfast_server.control.config import FILE, ConfigCache, check_successor
from holdfast_server.domain.operation import Mode
from holdfast_server.domain.policy import (
    Policy,
    Scope,
    ScopeKind,
    StoreUnavailable,
    StoreUnavailableKind,
)
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger.records import Configuration, CreditType
from holdfast_server.ledger.store import Ledger
from holdfast_server.telemetry.names import Alert
from tests.control.support import NOW_MS, Reports, until

TENANT = Scope(ScopeKind.TENANT, "t")
AI = CreditType("ai", "AI credits", 2)
SHADOW = Policy(
    TENANT,
    Mode.SHADOW,
    50,
    25,
    StoreUnavailable(StoreUnavailableKind.ALLOW_BOUNDED, 9),
    60_000,
    version=3,
    expires_at_ms=NOW_MS + 10_000,
    changed_by="ann",
    reason='why "not"\n',
    changed_at_ms=NOW_MS,
)
KNOWN = Configuration(7, {"t": (AI,)}, (replace(SHADOW, evaluate_percent=100),))


@dataclass
class Source:
    """A ledger that says what it is told to, or fails."""

    configuration: Configuration = KNOWN
    error: Exception | None = None
    asked: int = 0
    loaded: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def config_version(self) -> int:
        self.asked += 1
        version = self.configuration.version
        await self.gate.wait()
        if self.error:
            raise self.error
        return version

    async def load_configuration(self) -> Configuration:
        self.loaded += 1
        if self.error:
            raise self.error
        return self.configuration


def mode_of(cache: ConfigCache) -> Mode:
    return cache.mode("t", "a", "a", ["ai"], "chat")


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def cache(tmp_path: Path, reports: Reports) -> ConfigCache:
    return ConfigCache(Source(), tmp_path, reports, lambda: NOW_MS)


def again(tmp_path: Path, reports: Reports, source: Source, now_ms: int = NOW_MS) -> ConfigCache:
    """What the next process starts with."""
    return ConfigCache(source, tmp_path, reports, lambda: now_ms)


async def test_it_answers_from_what_it_read(cache: ConfigCache, reports: Reports) -> None:
    assert mode_of(cache) is Mode.ENFORCE
    assert not cache.knows_credit_type("t", "ai")
    assert await cache.refresh()
    assert mode_of(cache) is Mode.SHADOW
    assert cache.knows_credit_type("t", "ai")
    assert not cache.knows_credit_type("u", "ai")
    assert cache.idempotency_window_ms("t") == 60_000
    assert cache.store_unavailable("t", "a", "ai", "chat").bound_amount == 9
    assert (cache.version, reports.config_versions) == (7, [7])


async def test_what_did_not_change_is_not_read_again(cache: ConfigCache) -> None:
    source = cache._source
    assert isinstance(source, Source)
    for _ in range(5):
        await cache.refresh()
    assert (source.asked, source.loaded) == (5, 1)


async def test_a_policy_expires_without_anybody_asking_the_ledger(
    tmp_path: Path, reports: Reports, cache: ConfigCache
) -> None:
    await cache.refresh()
    gone = Source(error=HoldfastError(Reason.LEDGER_UNAVAILABLE, "away"))
    assert mode_of(again(tmp_path, reports, gone)) is Mode.SHADOW
    assert mode_of(again(tmp_path, reports, gone, NOW_MS + 10_000)) is Mode.ENFORCE


ERRORS = [
    HoldfastError(Reason.LEDGER_UNAVAILABLE, "away"),
    TimeoutError(),
    RuntimeError("a bug"),
    ValueError("99 is not a valid Mode"),
]


@pytest.mark.parametrize("error", ERRORS)
async def test_a_ledger_that_fails_changes_nothing(cache: ConfigCache, error: Exception) -> None:
    source = cache._source
    assert isinstance(source, Source)
    await cache.refresh()
    source.error = error
    assert not await cache.refresh()
    assert mode_of(cache) is Mode.SHADOW
    source.error = None
    assert await cache.refresh()


WORSE = [
    replace(KNOWN, version=6),
    Configuration(8, {}, ()),
    Configuration(8, {"t": ()}, KNOWN.policies),
    replace(KNOWN, version=8, policies=(replace(SHADOW, evaluate_percent=101),)),
    replace(KNOWN, version=8, policies=(replace(SHADOW, scope=Scope(ScopeKind.TENANT)),)),
]


@pytest.mark.parametrize("worse", WORSE)
async def test_what_makes_no_sense_is_refused_with_an_alert(
    tmp_path: Path, cache: ConfigCache, reports: Reports, worse: Configuration
) -> None:
    source = cache._source
    assert isinstance(source, Source)
    await cache.refresh()
    source.configuration = worse
    assert not await cache.refresh()
    assert reports.alerts == [Alert.CONFIG_REFUSED]
    assert (mode_of(cache), cache.version) == (Mode.SHADOW, 7)
    assert cache.knows_credit_type("t", "ai")
    assert config_file.load(tmp_path / FILE) == KNOWN


def test_what_is_newer_and_has_all_there_was_is_taken() -> None:
    check_successor(KNOWN, replace(KNOWN, version=8, policies=()))
    check_successor(KNOWN, KNOWN)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"{}",
        b"\xff\x00garbage",
        b"[" * 100_000,
        b'{"sha256": "0", "body": "{}"}',
        b'{"sha256": 5, "body": 6}',
    ],
)
async def test_a_file_that_is_not_whole_is_refused_and_replaced(
    tmp_path: Path, reports: Reports, content: bytes
) -> None:
    (tmp_path / FILE).write_bytes(content)
    found = again(tmp_path, reports, Source())
    assert reports.alerts == [Alert.CONFIG_REFUSED]
    assert mode_of(found) is Mode.ENFORCE
    assert await found.refresh()
    assert config_file.load(tmp_path / FILE) == KNOWN


async def test_every_byte_of_the_file_is_checked(tmp_path: Path, reports: Reports) -> None:
    path = tmp_path / FILE
    config_file.save(path, KNOWN)
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        try:
            assert config_file.load(path) == KNOWN
        except ValueError:
            continue
    for size in range(0, len(content), 13):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError):  # noqa: PT011 - each size has a message of its own.
            config_file.load(path)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    configuration = Configuration(9, {"t": (AI,), "u": ()}, (SHADOW, Policy(TENANT)))
    config_file.save(tmp_path / "folder" / FILE, configuration)
    assert config_file.load(tmp_path / "folder" / FILE) == configuration
    assert config_file.load(tmp_path / "nothing") is None


async def test_a_disk_that_refuses_the_file_changes_nothing_else(
    tmp_path: Path, reports: Reports
) -> None:
    (tmp_path / "file").touch()
    found = ConfigCache(Source(), tmp_path / "file", reports, lambda: NOW_MS)
    assert await found.refresh()
    assert mode_of(found) is Mode.SHADOW


async def test_silence_of_the_ledger_alerts_once_until_it_speaks(
    cache: ConfigCache, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast_server.control.config.STALE_SECONDS_MAX", -1.0)
    source = cache._source
    assert isinstance(source, Source)
    for _ in range(2):
        source.error = HoldfastError(Reason.LEDGER_UNAVAILABLE, "away")
        await cache.refresh()
        await cache.refresh()
        source.error = None
        await cache.refresh()
    assert reports.alerts == [Alert.CONFIG_STALE] * 2


async def test_an_unknown_credit_type_is_looked_up_once_for_all_who_ask(
    cache: ConfigCache,
) -> None:
    source = cache._source
    assert isinstance(source, Source)
    source.gate.clear()
    asking = [asyncio.create_task(cache.ensure_credit_type("t", "ai")) for _ in range(50)]
    await until(lambda: source.asked == 1)
    source.gate.set()
    assert await asyncio.gather(*asking) == [True] * 50
    assert source.loaded == 1
    assert source.asked <= 2
    assert await cache.ensure_credit_type("t", "ai")
    assert source.asked <= 2


async def test_nobody_is_told_that_a_credit_type_is_missing_while_the_ledger_is_away(
    cache: ConfigCache,
) -> None:
    source = cache._source
    assert isinstance(source, Source)
    await cache.refresh()
    source.error = HoldfastError(Reason.LEDGER_UNAVAILABLE, "away")
    assert await cache.ensure_credit_type("t", "ai")
    with pytest.raises(HoldfastError) as caught:
        await cache.ensure_credit_type("t", "video")
    assert caught.value.reason is Reason.LEDGER_UNAVAILABLE
    source.error = None
    assert not await cache.ensure_credit_type("t", "video")


async def test_a_look_that_began_before_the_question_does_not_answer_it(
    cache: ConfigCache,
) -> None:
    """The look under way may have missed what was created a moment ago."""
    source = cache._source
    assert isinstance(source, Source)
    await cache.refresh()
    source.gate.clear()
    looking = asyncio.create_task(cache.refresh())
    await until(lambda: source.asked == 2)
    video = replace(AI, code="video")
    source.configuration = replace(KNOWN, version=8, credit_types={"t": (AI, video)})
    asking = asyncio.create_task(cache.ensure_credit_type("t", "video"))
    await asyncio.sleep(0)
    source.gate.set()
    assert await looking
    assert await asking
    assert source.asked == 3
    assert not await cache.ensure_credit_type("t", "gold")


# --- With a real ledger -------------------------------------------------------------------------


@pytest_asyncio.fixture
async def ledger(migrated_postgres_url: str) -> AsyncIterator[Ledger]:
    found = await Ledger.open(migrated_postgres_url, pool_size=4)
    yield found
    await found.close()


async def test_a_change_reaches_a_running_cache(
    tmp_path: Path, reports: Reports, ledger: Ledger
) -> None:
    cache = ConfigCache(ledger, tmp_path, reports)
    policy = Policy(TENANT, Mode.SHADOW)
    async with background(cache.run(pause_ms=500)):
        await until(lambda: bool(reports.config_versions))
        await ledger.create_credit_type("t", AI, "ann")
        await until(lambda: cache.knows_credit_type("t", "ai"))
        await ledger.set_policy(policy, expected_version=0, idempotency_key="k", fingerprint=b"f")
        await until(lambda: mode_of(cache) is Mode.SHADOW)


async def test_garbage_in_the_database_is_refused(
    tmp_path: Path, reports: Reports, ledger: Ledger, migrated_postgres_url: str
) -> None:
    """Rows that no program of ours would write: what counted before goes on counting."""
    cache = ConfigCache(ledger, tmp_path, reports)
    await ledger.create_credit_type("t", AI, "ann")
    await ledger.set_policy(
        Policy(TENANT, Mode.SHADOW), expected_version=0, idempotency_key="k", fingerprint=b"f"
    )
    assert await cache.refresh()
    async with await psycopg.AsyncConnection.connect(migrated_postgres_url) as connection:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute("ALTER TABLE holdfast.policy_audit DISABLE TRIGGER ALL")
        await connection.execute("UPDATE holdfast.policy_audit SET scope_value = 'nonsense'")
        await connection.execute("UPDATE holdfast.config_version SET version = version + 1")
    assert not await cache.refresh()
    assert reports.alerts == [Alert.CONFIG_REFUSED]
    assert mode_of(cache) is Mode.SHADOW
