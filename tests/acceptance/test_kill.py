"""The kill switch where it matters: every process, no stores, across restarts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from holdfast import Client, GrantSource, Outcome
from holdfast_server import embedded
from holdfast_server.embedded import Server
from holdfast_server.embedded.process import free_port
from tests.support.server import (
    RunningService,
    call,
    call_json,
    environment,
    eventually,
    serving,
    standing_still,
    started,
)

#: What is promised: so long after `kill on` no process denies anything.
EFFECT_SECONDS_MAX = 5.0


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    """A Valkey and a Postgres that only this test uses and may stop."""
    with (
        embedded.start_valkey(tmp_path / "valkey") as valkey,
        embedded.start_postgres(tmp_path / "postgres") as postgres,
    ):
        yield valkey, postgres


def states(service: RunningService) -> list[bool]:
    """What each process of the host has applied."""
    return [bool(each["on"]) for each in call_json(["kill", "status"], service.environment)]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kill_needs_no_store_and_survives_restarts(
    stores: tuple[Server, Server], tmp_path: Path
) -> None:
    valkey, postgres = stores
    variables = environment(valkey.url, postgres.url, tmp_path / "state")
    variables["HOLDFAST_PORT"] = str(free_port())
    with serving(variables) as service, Client(service.target) as client:
        client.create_credit_type("credits")
        client.create_account("a")
        client.grant("a", 10, source=GrantSource.SUPPORT)
        assert client.burn("a", 11).decision.outcome is Outcome.DENIED
        with standing_still(valkey, postgres):
            asked_at = time.monotonic()
            done = call(["kill", "on", "--reason", "stores are away"], service.environment)
            assert done.returncode == 0, done.stderr
            assert states(service) == [True] * len(service.processes)
            passed = client.reserve("a", 11)
            assert passed.decision.outcome is Outcome.BYPASSED
            assert time.monotonic() - asked_at < EFFECT_SECONDS_MAX
            assert client.commit(passed.hold_id, 11).decision.outcome is Outcome.BYPASSED
            # A worker that is killed comes back with the switch on, although no store answers.
            os.kill(service.processes["worker-0"], signal.SIGKILL)
            eventually(
                lambda: states(service) == [True] * len(service.processes), "the worker is back"
            )
            assert client.burn("a", 12).decision.outcome is Outcome.BYPASSED
        assert service.stop() == 0
    with ExitStack() as services:
        # A whole service starts where it has started before, although no store answers.
        with standing_still(valkey, postgres):
            service = services.enter_context(started(variables))
            client = services.enter_context(Client(service.target))
            assert all(states(service))
            assert client.burn("a", 13).decision.outcome is Outcome.BYPASSED
        done = call(["kill", "off"], service.environment)
        assert done.returncode == 0, done.stderr
        assert not any(states(service))
        assert client.burn("a", 11).decision.outcome is Outcome.DENIED

        def booked() -> bool:
            (credit,) = client.balance("a").credits
            return credit.buckets.unenforced == 11 + 12 + 13

        eventually(booked, "what passed is booked")
        assert service.stop() == 0


def test_environment_cannot_be_turned_off_by_command(
    holdfast_server: RunningService, tmp_path: Path
) -> None:
    """`kill off` must not claim more than it did."""
    variables = {**holdfast_server.environment, "HOLDFAST_KILL": "1"}
    variables |= {"HOLDFAST_PORT": "0", "HOLDFAST_STATE_DIR": str(tmp_path / "state")}
    with serving(variables) as service:
        done = call(["kill", "off"], service.environment)
        assert done.returncode == 1
        assert "unset that" in done.stderr
        assert all(states(service))


def test_kill_without_any_process_is_found_by_the_next_one(tmp_path: Path) -> None:
    variables = {"HOLDFAST_STATE_DIR": str(tmp_path), "HOLDFAST_POSTGRES_URL": "not a URL"}
    done = call(["kill", "on", "--reason", "nothing runs"], variables)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "KILL").exists()
    assert call(["kill", "off"], variables).returncode == 0
    assert not (tmp_path / "KILL").exists()


#: Becomes a user that the machine has no name and no home for, as containers give one.
KILL_BY_NOBODY_KNOWN = """
import os, pwd, sys
from holdfast_server.cli import kill, main
os.setuid(4_242_424)
sys.exit(main(sys.argv[1:]))
"""


def test_a_folder_that_is_nobodys_is_named(tmp_path: Path) -> None:
    """Else a switch that was turned on for nobody looks like one that works."""
    variables = {"HOLDFAST_STATE_DIR": str(tmp_path)}
    for command, switch in (("status", "off"), ("on", "ON"), ("status", "ON"), ("off", "off")):
        reason = ["--reason", "incident"] if command == "on" else []
        done = call(["kill", command, *reason, "--json"], variables)
        assert (done.returncode, done.stdout) == (0, "")
        assert f"No process runs on {tmp_path}: give --state-dir" in done.stderr
        assert f"find the switch {switch}" in done.stderr


@pytest.mark.parametrize("action", [["on", "--reason", "no name"], ["status"]])
def test_kill_needs_neither_name_nor_home_of_its_user(tmp_path: Path, action: list[str]) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may become a user that nobody knows")
    tmp_path.chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-c", KILL_BY_NOBODY_KNOWN, "kill", *action],
        # Where the test's own folder lies, that user may not pass through.
        cwd=tmp_path,
        env={"HOLDFAST_STATE_DIR": ".", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "KILL").exists() == ("on" in action)
    if "on" in action:
        assert json.loads((tmp_path / "KILL").read_text())["by"] == "4242424"
