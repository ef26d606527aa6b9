"""Each benchmark in its smallest size: it ends, and what it says is complete and adds up."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast import AsyncClient, Denied, GrantSource, HoldfastError
from holdfast_server.bench.benches import BENCHES, steps
from holdfast_server.bench.cpu import Meter
from holdfast_server.bench.memory import kind_of
from holdfast_server.bench.report import Found
from holdfast_server.bench.returning import Returning
from holdfast_server.bench.rounds import Done, Round, alternate
from holdfast_server.bench.stage import Options
from holdfast_server.bench.traffic import CREDIT_TYPE, RESERVED, Traffic
from holdfast_server.cli.local import LocalService, run_locally
from holdfast_server.engine.keys import Keys
from tests.support.server import PATIENCE_S, RunningService, run, without_ours

SMALL = ("--accounts", "20", "--operations", "400", "--rounds", "1", "--batch", "50")


@pytest.mark.parametrize("name", BENCHES)
def test_a_benchmark_says_what_it_found(name: str) -> None:
    ended = run(["bench", name, "--json", *SMALL], without_ours())
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["bench"] == name
    assert found["measure"] > 0
    assert found["floor"] > 0
    ratio = found["measure"] / found["floor"]
    assert found["ratio"] == pytest.approx(ratio, rel=0.05, abs=0.001)
    assert "valkey" in found["cpu_us"]
    assert found["cores"] >= 1


def test_a_benchmark_leaves_the_service_alone_that_the_environment_names(tmp_path: Path) -> None:
    """Where one runs for real, a shell may have its variables; some benchmarks empty the store."""
    real = {
        "HOLDFAST_REDIS_URL": "redis://127.0.0.1:1/0",
        "HOLDFAST_POSTGRES_URL": "postgresql://127.0.0.1:1/holdfast",
        "HOLDFAST_STATE_DIR": str(tmp_path / "state"),
        "HOLDFAST_KILL": "1",
    }
    ended = run(["bench", "session", "--json", *SMALL], {**without_ours(), **real})
    assert ended.returncode == 0, ended.stderr
    assert not list(tmp_path.iterdir())


def test_callers_go_on_with_what_is_back_while_trees_come_back() -> None:
    more = ("--accounts", "300", "--in-flight", "8", "--rounds", "2")
    ended = run(["bench", "hydrate", "--json", *more], without_ours())
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("partitions are fenced") >= 2, "the store lost nothing"
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["accounts"] == 300
    assert found["measure"] == pytest.approx(300 / found["seconds"], rel=0.05)
    assert 0 < found["first_answer_s"] < found["seconds"]
    assert 0 < found["used"] <= 300
    assert found["back_calls"] > 0
    assert 0 < found["back_p50_ms"] <= found["back_p99_ms"]


def test_a_profile_names_processes_functions_and_commands() -> None:
    ended = run(["bench", "batch", "--json", "--profile", *SMALL], without_ours())
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1])["bench"] == "batch"
    rows = {line.split()[0] for line in ended.stderr.splitlines() if line.strip()}
    assert {"client", "worker", "valkey"} <= rows, ended.stderr
    assert "fcall" in ended.stderr
    assert "unlink" not in ended.stderr, "removing the stores is no part of the benchmark"


def test_every_key_of_an_account_is_part_of_its_memory() -> None:
    keys = Keys(4)
    names = [
        *keys.tree_keys(0, 1, "tenant", "account"),
        keys.whereabouts("tenant", "account"),
        keys.hot(0, 1, "tenant", "account")[0],
        keys.due(0, 1),
    ]
    assert {kind_of(name.encode()) for name in names} == {"accounts"}


def test_a_benchmark_says_how_far_it_is() -> None:
    options = Options(12_000, 400, 3, 8, 50, 0)
    assert steps("session", options) == 8
    assert steps("engine", options) == 16
    assert steps("flush", options) == 9
    assert steps("memory", options) == 36
    assert steps("growth", options) == 8 * (2 * 3 + 3 + 5)
    assert steps("hydrate", options) == 36 + 6


@pytest.mark.parametrize("workers_only", [False, True])
def test_what_waits_stops_no_holds_where_nobody_flushes(
    workers_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million accounts with their grants are more entries than may wait for a flusher."""
    for name in os.environ.keys() - without_ours().keys():
        monkeypatch.delenv(name)

    async def limit_of(service: LocalService) -> int:
        return service.settings.outbox_entries_hard

    limit = run_locally({}, limit_of, workers_only=workers_only)
    assert (limit >= 2 * 4_000_000) is workers_only


def test_people_get_a_table() -> None:
    ended = run(["bench", "session", "--in-flight", "1", *SMALL], without_ours())
    assert ended.returncode == 0, ended.stderr
    assert "p50 of one call" in ended.stdout
    assert "store_p50_ms" in ended.stdout
    assert "CPU us per operation" in ended.stdout


def test_people_get_a_line_for_each_population() -> None:
    ended = run(["bench", "growth", *SMALL], without_ours())
    assert ended.returncode == 0, ended.stderr
    lines = [line.split() for line in ended.stdout.splitlines()]
    headings = ["accounts", "grants", "levels", "us", "multiple", "bare_us_of_as_many_keys"]
    smallest = lines[lines.index(headings) + 1]
    assert smallest[:3] == ["20", "3", "1"]
    assert float(smallest[-1]) > 0


async def test_rounds_alternate_and_the_first_of_each_does_not_count() -> None:
    order: list[str] = []

    async def measure() -> Done:
        order.append("measure")
        return Done(len(order))

    async def floor() -> Done:
        order.append("floor")
        return Done(len(order))

    measured, floors = await alternate(Meter({}), measure, floor, 2, lambda: order.append("|"))
    assert order == ["measure", "|", "floor", "|"] * 3
    assert [each.done.operations for each in measured] == [5, 9]
    assert [each.done.operations for each in floors] == [7, 11]


async def short_of_credits(client: AsyncClient, account: str) -> None:
    """Makes an account that has credits for one hold."""
    await client.create_credit_type(CREDIT_TYPE)
    await client.create_account(account)
    await client.grant(account, RESERVED, source=GrantSource.PURCHASE)


async def test_what_is_not_done_is_not_counted(holdfast_server: RunningService) -> None:
    async with AsyncClient(holdfast_server.target) as client:
        await short_of_credits(client, "bench-short")
        traffic = Traffic(client, ["bench-short"])
        with pytest.raises(Denied):
            await traffic.batches(2, 4)
        with pytest.raises(Denied):
            await traffic.pairs(1, 4)
        with pytest.raises(HoldfastError, match="HOLD_NOT_FOUND"):
            await traffic.settle_batch(["no hold"])


async def test_a_call_that_fails_while_trees_come_back_ends_the_benchmark(
    holdfast_server: RunningService,
) -> None:
    """Without it the times of calls would lack the worst, or nothing would come to wait for."""

    async def none() -> int:
        return 0

    async with AsyncClient(holdfast_server.target) as client:
        await short_of_credits(client, "bench-back")
        with pytest.raises(Denied):
            async with asyncio.timeout(PATIENCE_S):
                await Returning([client], ["bench-back"], none).run(1)


def test_figures_are_per_operation() -> None:
    found = Round(Done(1_000, [0.003, 0.001, 0.002]), 0.5, {"server": 0.02})
    assert found.rate == 2_000
    assert found.cpu_us == {"server": 20.0}
    assert (found.percentile_ms(0), found.percentile_ms(50), found.percentile_ms(100)) == (1, 2, 3)


def test_a_ratio_is_the_measure_over_the_floor() -> None:
    found = Found("x", "operations/s", 300.0, 200.0, {}, {}, {"batch": 5})
    assert found.as_json()["ratio"] == 1.5
    assert found.as_json()["batch"] == 5


def test_too_little_to_do_for_a_clock_of_ticks_has_no_ratio() -> None:
    assert Found("x", "server CPU us per call", 300.0, 0.0, {}, {}).as_json()["ratio"] is None
    least = ("--accounts", "1", "--operations", "2", "--rounds", "1", "--in-flight", "1")
    ended = run(["bench", "unary", *least], without_ours())
    assert ended.returncode == 0, ended.stderr
    assert "server CPU us per call" in ended.stdout


def test_what_a_child_has_used_stays_with_its_parent() -> None:
    """Postgres has a process for each connection, and Valkey one that rewrites its log."""
    work = "import time\nwhile time.process_time() < 0.2: pass"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}])"
    program = f"{child}; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        meter = Meter({"store": parent.pid})
        assert parent.stdout is not None
        parent.stdout.readline()
        assert meter.read()["store"] >= 0.2


def test_this_process_is_the_client() -> None:
    used = Meter({}).read()
    assert used["client"] > 0
