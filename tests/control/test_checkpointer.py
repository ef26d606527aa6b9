"""Evidence outside of the database: made in order, delivered once, never in the way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from holdfast_server.control import checkpointer as module
from holdfast_server.control.checkpointer import Checkpointer, Evidence
from holdfast_server.control.outgoing import AddressForbidden, Network, RequestFailed
from holdfast_server.control.places import HttpPlace, Place, open_place
from holdfast_server.control.signing import PublicKeys, SigningKey
from holdfast_server.domain.checkpoint import Anchors, Checkpoint, judge, read_lines
from holdfast_server.ledger.checkpoints import CheckpointHead
from holdfast_server.ledger.store import Ledger
from holdfast_server.telemetry.names import Alert, Delivery
from holdfast_server.telemetry.recorder import Recorder
from tests.support.entries import Story
from tests.support.full_disk import files_of_at_most
from tests.support.ledger import open_ledger, record, tamper


@pytest.fixture
async def ledger(migrated_postgres_url: str) -> AsyncIterator[Ledger]:
    async with open_ledger(migrated_postgres_url) as opened:
        yield opened


@dataclass
class Heard(Recorder):
    """What a checkpointer reports."""

    results: list[Delivery] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    up_to_date: int = 0

    def delivered(self, result: Delivery) -> None:
        self.results.append(result)

    def checkpointed(self) -> None:
        self.up_to_date += 1

    def alert(self, alert: Alert) -> None:
        self.alerts.append(alert)


@dataclass
class Memory:
    """A place that can be away, or take a checkpoint and lose the answer."""

    keeps_newest_only: bool = False
    away: bool = False
    silent: bool = False
    lines: list[str] = field(default_factory=list)

    async def deliver(self, checkpoint: Checkpoint) -> None:
        if not self.away:
            self.lines.append(checkpoint.line)
        if self.away or self.silent:
            raise RequestFailed("no answer")


@dataclass
class Stage:
    """A ledger, a key, and what is told of it."""

    ledger: Ledger
    url: str
    folder: Path
    heard: Heard = field(default_factory=Heard)
    stories: dict[int, Story] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.key = SigningKey.create(self.folder / "key.pem")
        self.public = [self.key.public_pem]

    def checkpointer(self, place: Place, interval_ms: int = 0) -> Checkpointer:
        evidence = Evidence(place, self.folder / "key.pem", "4/1", interval_ms)
        return Checkpointer(self.ledger, evidence, self.heard)

    async def lose(self, before: CheckpointHead) -> None:
        """A standby takes over that knows no newer checkpoint."""
        async with self.ledger.changing() as cursor:
            await cursor.execute(
                "UPDATE holdfast.checkpoint_head SET number = %s, hash = %s, pending = %s",
                [before.number, before.hash, before.pending],
            )

    async def happen(self, *partitions: int) -> None:
        """Something is recorded in these partitions."""
        for partition in partitions:
            story = self.stories.setdefault(partition, Story(partition))
            name, grant = f"a{story.seq}", f"{partition:016x}{story.seq:016x}"
            await record(self.url, story.grant(name, 100, grant))

    def judged(self, lines: list[str]) -> Anchors:
        path = self.folder / "public.pem"
        path.write_text("".join(self.public))
        checkpoints, damaged = read_lines(lines)
        assert damaged == []
        return judge(checkpoints, PublicKeys.read([path]).flaw)


@pytest.fixture
def stage(
    ledger: Ledger,
    migrated_postgres_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Stage:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)
    return Stage(ledger, migrated_postgres_url, tmp_path)


async def test_what_moves_is_vouched_for(stage: Stage) -> None:
    place = Memory()
    checkpointer = stage.checkpointer(place)
    await checkpointer.look()
    assert place.lines == []

    await stage.happen(0, 1)
    await checkpointer.look()
    await checkpointer.look()
    await stage.happen(1)
    await checkpointer.look()

    checkpoints, _ = read_lines(place.lines)
    assert [[tip.partition for tip in each.tips] for each in checkpoints] == [[0, 1], [1]]
    anchors = stage.judged(place.lines)
    assert (anchors.flaws, anchors.last) == ((), 2)
    assert (await stage.ledger.verify(vouched=anchors.vouched)).ok
    assert stage.heard.results == [Delivery.DELIVERED] * 2
    assert stage.heard.up_to_date == 4
    assert stage.heard.alerts == []


async def test_a_place_for_one_object_gets_every_partition(stage: Stage) -> None:
    place = Memory(keeps_newest_only=True)
    checkpointer = stage.checkpointer(place)
    for partitions in ((0, 1), (1,)):
        await stage.happen(*partitions)
        await checkpointer.look()

    newest = read_lines(place.lines)[0][-1]
    assert [(tip.partition, tip.seq) for tip in newest.tips if tip.seq] == [(0, 1), (1, 2)]


async def test_a_place_that_is_away_gets_the_very_same_later(stage: Stage) -> None:
    """Bounded tries, an alert, nothing lost; the next one waits until this one is there."""
    place = Memory(away=True)
    await stage.happen(0)
    checkpointer = stage.checkpointer(place)
    await checkpointer.look()
    pending = (await stage.ledger.checkpoint_head()).pending
    await stage.happen(0)
    await checkpointer.look()

    assert (await stage.ledger.checkpoint_head()).pending == pending != ""
    assert stage.heard.results == [Delivery.FAILED] * 2
    assert stage.heard.alerts == [Alert.CHECKPOINT_FAILED] * 2
    place.away = False
    await stage.checkpointer(place).look()
    assert place.lines[0] == pending
    assert stage.judged(place.lines).last == 2
    assert stage.judged(place.lines).flaws == ()


async def test_an_answer_that_is_lost_makes_no_second_checkpoint(stage: Stage) -> None:
    place = Memory(silent=True)
    await stage.happen(0)
    checkpointer = stage.checkpointer(place)
    await checkpointer.look()
    place.silent = False
    await checkpointer.look()

    assert len(place.lines) == module.ATTEMPTS_MAX + 1
    assert len(set(place.lines)) == 1
    assert stage.judged(place.lines).flaws == ()


async def test_of_two_flushers_one_makes_the_next(stage: Stage) -> None:
    place = Memory()
    one, other = (stage.checkpointer(place, 60_000) for _ in range(2))
    await stage.happen(0)
    await one.look()
    await other.look()
    assert len(place.lines) == 1

    head = await stage.ledger.checkpoint_head()
    assert not await stage.ledger.keep_checkpoint(head.number, head.hash, "late")
    await stage.happen(0)
    await other.finish()
    assert stage.judged(place.lines).flaws == ()
    assert stage.judged(place.lines).last == 2


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("who", [0, 1])
async def test_no_number_is_used_twice_where_the_ledger_lost_it(
    stage: Stage, lost: int, who: int
) -> None:
    """Whoever made a checkpoint, or saw that there is one, knows its number."""
    place, heads = Memory(), list[CheckpointHead]()
    made, seen = stage.checkpointer(place), stage.checkpointer(place, 60_000)
    for _ in range(3):
        await stage.happen(0)
        await made.look()
        heads.append(await stage.ledger.checkpoint_head())
    await seen.look()
    await stage.lose(heads[-1 - lost])
    await stage.happen(1)
    await (made, seen)[who].look(again=True)

    found = stage.judged(place.lines)
    assert (found.flaws, found.last) == ((), 4)
    assert stage.heard.alerts == []


async def test_what_waits_is_delivered_as_it_was_although_the_ledger_lost_it(stage: Stage) -> None:
    place = Memory()
    checkpointer = stage.checkpointer(place)
    await stage.happen(0)
    await checkpointer.look()
    delivered = await stage.ledger.checkpoint_head()
    place.silent = True
    await stage.happen(0)
    await checkpointer.look()
    # Not even that the first one was delivered is known any more.
    await stage.lose(replace(delivered, pending=place.lines[0]))
    await checkpointer.look()
    place.silent = False
    await stage.happen(0)
    await stage.checkpointer(place).look()

    found = stage.judged(place.lines)
    assert (found.flaws, found.last) == ((), 3)


async def test_nothing_is_signed_over_a_ledger_that_was_cut_off(stage: Stage) -> None:
    """F64: within a minute, without anybody asking."""
    place = Memory()
    checkpointer = stage.checkpointer(place)
    await stage.happen(0, 0, 1)
    await checkpointer.look()
    tamper(
        stage.url,
        "ALTER TABLE holdfast.operation DISABLE TRIGGER ALL",
        "ALTER TABLE holdfast.grant_terms DISABLE TRIGGER ALL",
        "DELETE FROM holdfast.operation WHERE partition = 0 AND first_seq = 2",
        "DELETE FROM holdfast.grant_terms WHERE partition = 0 AND first_seq = 2",
        "DELETE FROM holdfast.entry WHERE partition = 0 AND seq = 2",
        "UPDATE holdfast.flush_cursor SET last_seq = 1, last_hash = "
        "(SELECT hash FROM holdfast.entry WHERE partition = 0 AND seq = 1) WHERE partition = 0",
    )
    assert (await stage.ledger.verify()).ok
    before = stage.heard.up_to_date

    await checkpointer.look()

    assert stage.heard.alerts == [Alert.CHAIN_BROKEN]
    assert stage.heard.up_to_date == before
    assert len(place.lines) == 1
    report = await stage.ledger.verify(vouched=stage.judged(place.lines).vouched)
    assert [(each.check, each.partition) for each in report.violations] == [("checkpoint", 0)]


async def test_keys_are_rotated_by_changing_the_file(stage: Stage) -> None:
    place = Memory()
    checkpointer = stage.checkpointer(place)
    await stage.happen(0)
    await checkpointer.look()
    new = SigningKey.create(stage.folder / "new.pem")
    (stage.folder / "new.pem").rename(stage.folder / "key.pem")
    await stage.happen(0)
    await checkpointer.look()

    assert stage.judged(place.lines).flaws[0].number == 2
    stage.public.append(new.public_pem)
    assert stage.judged(place.lines).flaws == ()


async def test_without_its_key_it_says_so_and_goes_on(stage: Stage) -> None:
    place = Memory()
    checkpointer = stage.checkpointer(place)
    await stage.happen(0)
    key = (stage.folder / "key.pem").read_bytes()
    (stage.folder / "key.pem").unlink()
    await checkpointer.look()
    assert stage.heard.alerts == [Alert.CHECKPOINT_FAILED]

    (stage.folder / "key.pem").write_bytes(key)
    await checkpointer.look()
    assert len(place.lines) == 1


async def test_what_the_ledger_has_for_a_checkpoint_may_be_anything(stage: Stage) -> None:
    await stage.lose(CheckpointHead(1, bytes(32), 0, "{}"))
    await stage.checkpointer(Memory()).look()
    assert stage.heard.alerts == [Alert.CHECKPOINT_FAILED]


async def test_a_file_holds_a_line_each_even_after_a_torn_one(stage: Stage) -> None:
    path = stage.folder / "checkpoints.jsonl"
    checkpointer = stage.checkpointer(open_place(path.as_uri(), Network.PUBLIC))
    await stage.happen(0)
    await checkpointer.look()
    whole = path.read_text()
    path.write_text(whole[:50])
    async with stage.ledger.changing() as cursor:
        await cursor.execute(
            "UPDATE holdfast.checkpoint_head SET pending = %s", [whole.rstrip("\n")]
        )
    await checkpointer.look()
    await stage.happen(0)
    await checkpointer.look()

    assert path.read_text().startswith(whole[:50] + "\n" + whole)
    assert stage.judged(path.read_text().splitlines()).flaws == ()
    (stage.folder / "gone").mkdir()
    unwritable = open_place((stage.folder / "gone").as_uri(), Network.PUBLIC)
    with pytest.raises(RequestFailed, match="gone"):
        await unwritable.deliver(read_lines([whole])[0][0])


async def test_a_line_that_a_full_disk_cuts_short_is_not_delivered(stage: Stage) -> None:
    """Whatever of it was written, time and again: the whole line comes once there is room."""
    path = stage.folder / "checkpoints.jsonl"
    checkpointer = stage.checkpointer(open_place(path.as_uri(), Network.PUBLIC))
    await stage.happen(0)
    for size in (100, 150, 300):
        with files_of_at_most(size):
            await checkpointer.look()
        assert path.stat().st_size == size
    assert stage.heard.results == [Delivery.FAILED] * 3
    assert (await stage.ledger.checkpoint_head()).pending

    await checkpointer.look()
    await stage.happen(0)
    await checkpointer.look()

    anchors = stage.judged(path.read_text().splitlines())
    assert (anchors.flaws, anchors.checkpoints) == ((), 2)


def test_places_are_told_apart_by_their_urls() -> None:
    def place(url: str) -> HttpPlace:
        opened = open_place(url, Network.PUBLIC)
        assert isinstance(opened, HttpPlace)
        return opened

    assert not place("https://example.com/{number}.json").keeps_newest_only
    assert place("https://example.com/newest").keeps_newest_only
    assert not place("webhook+https://example.com/hook").keeps_newest_only
    for url in ("http://example.com/", "webhook+http://example.com/"):
        with pytest.raises(AddressForbidden):
            open_place(url, Network.PUBLIC)
    with pytest.raises(ValueError, match="whole path"):
        open_place("file://relative", Network.PUBLIC)
