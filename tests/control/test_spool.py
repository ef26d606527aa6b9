"""The spool: what was confirmed is there after any crash, and is booked once, in order."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.control import spool
from holdfast_server.control.spool import DEAD_FOLDER, Spool
from holdfast_server.control.spool_files import (
    frame,
    read_segment,
)
from holdfast_server.control.spool_record import Record, Spooled, decode, encode
from holdfast_server.domain.operation import (
    BookUnenforced,
    Burn,
    Caller,
    Commit,
    CommitLine,
    Durability,
    Extend,
    Fit,
    Line,
    Overage,
    Release,
)
from holdfast_server.telemetry.names import Alert, Replayed
from tests.control.support import CALLER, NOW_MS, TOKEN_HELD, Reports, burn, records_of
from tests.support.full_disk import files_of_at_most

texts = st.text(max_size=20)
amounts = st.integers(1, 2**53 - 1)
lines = st.lists(st.builds(Line, texts, amounts, amounts), max_size=3).map(tuple)
commit_lines = st.lists(
    st.builds(CommitLine, texts, st.none() | st.integers(0, 2**53 - 1)), max_size=3
).map(tuple)
labels = st.dictionaries(texts, texts, max_size=3)
durabilities, fits = st.sampled_from(Durability), st.sampled_from(Fit)
spooled = st.one_of(
    st.builds(Burn, texts, texts, lines, texts, texts, labels, fits, durabilities),
    st.builds(BookUnenforced, texts, texts, lines, texts, texts, labels),
    st.builds(
        Commit,
        texts,
        texts,
        texts,
        commit_lines,
        st.booleans(),
        amounts,
        st.sampled_from(Overage),
        labels,
        durabilities,
    ),
    st.builds(Release, texts, texts, texts, texts, durabilities),
    st.builds(Extend, texts, texts, amounts, texts),
)


@given(operation=spooled, caller=st.builds(Caller, texts, texts, texts), passed_at_ms=amounts)
def test_every_record_is_read_as_it_was_written(
    operation: Spooled, caller: Caller, passed_at_ms: int
) -> None:
    record = Record(caller, operation, passed_at_ms)
    assert decode(encode(record)) == record


@given(st.binary(max_size=200))
def test_what_is_no_record_is_none_and_raises_nothing(raw: bytes) -> None:
    assert decode(raw) is None


def test_a_record_of_another_version_is_not_guessed_at() -> None:
    raw = encode(Record(CALLER, burn(), 1))
    assert decode(raw.replace(b'"layout":1', b'"layout":2')) is None
    assert decode(raw.replace(b'"feature"', b'"purpose"')) is None
    assert decode(raw.replace(b'"Burn"', b'"Reserve"')) is None


# --- Files --------------------------------------------------------------------------------------


class MakeSpool(Protocol):
    """Opens spools below one folder, and closes them after the test."""

    def __call__(self, *, bytes_max: int = ..., records_max: int = ...) -> Spool: ...


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest_asyncio.fixture
async def spool_of(tmp_path: Path, reports: Reports) -> AsyncIterator[MakeSpool]:
    async with AsyncExitStack() as stack:

        def make(*, bytes_max: int = 10**8, records_max: int = 10**6) -> Spool:
            spool = Spool(tmp_path, bytes_max, records_max, reports)
            stack.push_async_callback(spool.close)
            return spool

        yield make


def kept(spool: Spool) -> list[str]:
    """The keys of everything that waits, in order."""
    return [record.operation.key for record in records_of(spool)]


async def forget(spool: Spool) -> None:
    """Removes everything that waits."""
    while segments := await spool.sealed():
        for segment in segments:
            await spool.remove(segment)


async def test_records_of_many_tasks_share_their_syncs(
    spool_of: MakeSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[int] = []
    sync = os.fsync

    def counted(descriptor: int) -> None:
        syncs.append(descriptor)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    spool = spool_of()
    answers = await asyncio.gather(
        *(spool.append(CALLER, burn(str(number))) for number in range(200))
    )
    assert all(answers)
    assert spool.records == 200
    assert len(syncs) < 20
    assert kept(spool) == [str(number) for number in range(200)]


FIVE_BYTES = 5 * len(frame(encode(Record(CALLER, burn("0"), NOW_MS))))


@pytest.mark.parametrize("limit", [{"records_max": 5}, {"bytes_max": FIVE_BYTES}])
async def test_it_is_bounded_and_says_what_is_lost(
    spool_of: MakeSpool,
    reports: Reports,
    limit: dict[str, int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    spool = spool_of(**limit)
    answers = [await spool.append(CALLER, burn(str(number))) for number in range(8)]
    assert answers == [True] * 5 + [False] * 3
    assert "the spool has no room or no disk" in caplog.text
    assert reports.results == [Replayed.LOST] * 3
    assert reports.alerts == [Alert.SPOOL_FULL] * 3
    assert kept(spool) == list("01234")


@pytest.mark.parametrize("limit", [{"records_max": 5}, {"bytes_max": FIVE_BYTES}])
async def test_its_bounds_count_what_waits_and_what_is_being_written(
    spool_of: MakeSpool, reports: Reports, limit: dict[str, int]
) -> None:
    spool = spool_of(**limit)
    first = [asyncio.create_task(spool.append(CALLER, burn(key))) for key in "012"]
    # Two turns later the first ones are being written, and the others wait for the next sync.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    answers = await asyncio.gather(*first, *(spool.append(CALLER, burn(key)) for key in "34567"))
    assert answers == [True] * 5 + [False] * 3
    assert reports.results == [Replayed.LOST] * 3
    assert kept(spool) == list("01234")


async def test_no_more_wait_for_one_sync_than_may(
    spool_of: MakeSpool, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "WAITING_MAX", 5)
    kept_in = spool_of()
    answers = await asyncio.gather(
        *(kept_in.append(CALLER, burn(str(number))) for number in range(8))
    )
    assert answers == [True] * 5 + [False] * 3
    assert reports.results == [Replayed.LOST] * 3
    assert await kept_in.append(CALLER, burn("8"))


async def test_nobody_else_looks_into_it(tmp_path: Path, reports: Reports) -> None:
    root = tmp_path / "state" / "spool"
    await Spool(root, 10**6, 10, reports).close()
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


async def test_room_comes_back_with_what_is_removed(spool_of: MakeSpool) -> None:
    spool = spool_of(records_max=2)
    for _ in range(3):
        assert await spool.append(CALLER, burn("1"))
        assert await spool.append(CALLER, burn("2"))
        assert not await spool.append(CALLER, burn("3"))
        await forget(spool)
        assert spool.records == 0


async def test_figures_stay_right_after_every_kind_of_end(spool_of: MakeSpool) -> None:
    spool = spool_of()
    await spool.append(CALLER, burn("1"))
    with files_of_at_most(400):
        await spool.append(CALLER, burn("2"))
    with files_of_at_most(10):
        await spool.append(CALLER, burn("3"))
    await spool.append(CALLER, burn("4"))
    assert spool.records == 2
    await forget(spool)
    assert (spool.records, spool._bytes) == (0, 0)


async def test_a_full_disk_refuses_and_heals(spool_of: MakeSpool, reports: Reports) -> None:
    spool = spool_of()
    assert await spool.append(CALLER, burn("1"))
    with files_of_at_most(400):
        assert not await spool.append(CALLER, burn("2"))
    assert await spool.append(CALLER, burn("3"))
    assert kept(spool) == ["1", "3"]
    assert reports.results == [Replayed.LOST]


async def test_a_cancelled_caller_does_not_take_its_record_back(spool_of: MakeSpool) -> None:
    spool = spool_of()
    task = asyncio.create_task(spool.append(CALLER, burn("1")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await spool.append(CALLER, burn("2"))
    assert kept(spool) == ["1", "2"]


async def test_nobody_adopts_the_folder_of_a_living_process(spool_of: MakeSpool) -> None:
    first, second = spool_of(), spool_of()
    await first.append(CALLER, burn("1"))
    await second.adopt()
    assert kept(second) == []
    assert kept(first) == ["1"]


async def test_what_a_dead_process_left_is_adopted_behind_what_is_there(
    spool_of: MakeSpool, tmp_path: Path, reports: Reports
) -> None:
    dead = Spool(tmp_path, 10**6, 10**6, reports)
    await dead.append(CALLER, burn("1"))
    await dead.append(CALLER, Release("t", TOKEN_HELD, "2"))
    spool = spool_of()
    await spool.append(CALLER, burn("0"))
    await dead.close()
    await spool.adopt()
    assert spool.records == 3
    assert kept(spool) == ["0", "1", "2"]
    assert os.listdir(tmp_path) == [spool._folder.name]


async def test_what_cannot_be_booked_is_kept_and_can_be_tried_again(
    spool_of: MakeSpool, tmp_path: Path, reports: Reports
) -> None:
    spool = spool_of()
    raw = encode(Record(CALLER, burn("dead"), 1))
    assert await spool.bury(raw, "ACCOUNT_NOT_FOUND")
    assert reports.results == [Replayed.DEAD]
    (segment,) = (tmp_path / DEAD_FOLDER).rglob("*.log")
    assert read_segment(segment).records == (raw,)
    await spool.adopt()
    assert spool.records == 0
    again = tmp_path / "again"
    again.mkdir()
    segment.rename(again / "000000000001.log")
    await spool.adopt()
    assert kept(spool) == ["dead"]


async def test_the_dead_are_bounded_too(spool_of: MakeSpool) -> None:
    spool = spool_of(bytes_max=1_000)
    buried = [await spool.bury(b"x" * 200, "why") for _ in range(6)]
    assert buried == [True] * 4 + [False] * 2


async def test_what_was_confirmed_survives_kill_9_in_the_middle_of_a_write(
    spool_of: MakeSpool, tmp_path: Path
) -> None:
    """Ended at a moment of no choosing, five times; every confirmed record is there once."""
    confirmed: list[str] = []
    for _ in range(5):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.control.spooling_process", str(tmp_path)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        for _ in range(300):
            confirmed.append((await process.stdout.readline()).decode().strip())
        process.kill()
        rest, _ = await process.communicate()
        confirmed += rest.decode().split("\n")[:-1]
        spool = spool_of()
        await spool.adopt()
        found = kept(spool)
        assert len(found) == len(set(found))
        assert set(confirmed) <= set(found)
        await forget(spool)
        confirmed.clear()
