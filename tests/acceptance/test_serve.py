"""`holdfast serve` as an operator meets it: real processes, real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from holdfast import Client, GrantSource
from holdfast_server import embedded
from holdfast_server.chaos.stack import alive
from holdfast_server.embedded import Server
from holdfast_server.embedded.process import free_port
from tests.support.server import (
    PATIENCE_S,
    RunningService,
    call_json,
    command,
    environment,
    eventually,
    run,
    serving,
)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Server]:
    """A Valkey that only this test uses and may stop."""
    with embedded.start_valkey(tmp_path / "valkey") as server:
        yield server


@pytest.fixture
def variables(valkey: Server, postgres_url: str, tmp_path: Path) -> dict[str, str]:
    """Settings for a service of this test alone."""
    return environment(valkey.url, postgres_url, tmp_path / "state")


def workers(service: RunningService) -> dict[str, int]:
    """Process ids of the workers that say that they live, by the name of their socket."""
    states = call_json(["kill", "status"], service.environment)
    names = [str(state["process"]) for state in states if state["on"] is not None]
    return {name: int(name.rpartition("-")[2]) for name in names if name.startswith("worker-")}


def test_second_start_on_the_same_port_is_refused(holdfast_server: RunningService) -> None:
    port = holdfast_server.target.rpartition(":")[2]
    done = run(["serve"], {**holdfast_server.environment, "HOLDFAST_PORT": port})
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"holdfast: 127.0.0.1:{port} is in use by another process: "
        "stop that one or choose another --port"
    ]


def test_port_is_free_again_after_the_stop(variables: dict[str, str]) -> None:
    taken = {**variables, "HOLDFAST_PORT": str(free_port())}
    with serving(taken) as service:
        done = run(["serve"], taken)
        assert done.returncode == 1
        assert "is in use by another process" in done.stderr
        assert service.stop() == 0
    with serving(taken) as service:
        assert service.stop() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"HOLDFAST_REDIS_URL": ""}, "HOLDFAST_REDIS_URL is not set"),
        ({"HOLDFAST_DEVELOPMENT": "false"}, "HOLDFAST_TOKENS_FILE is ''"),
        (
            {"HOLDFAST_DEVELOPMENT": "false", "HOLDFAST_TOKENS_FILE": "/tokens"},
            "HOLDFAST_TLS_CERTIFICATE is ''",
        ),
        ({"HOLDFAST_HOST": "0.0.0.0"}, "HOLDFAST_HOST is '0.0.0.0'"),
        ({"HOLDFAST_PARTITIONS": "16"}, "this deployment has 256 partitions for good, not 16"),
    ],
)
def test_refuses_to_start_and_says_what_to_do(
    holdfast_server: RunningService, change: dict[str, str], message: str
) -> None:
    done = run(["serve"], {**holdfast_server.environment, **change})
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("certificate", ["", "junk", None])
def test_refuses_a_certificate_that_cannot_be_used(
    holdfast_server: RunningService, tmp_path: Path, certificate: str | None
) -> None:
    path = tmp_path / "tls"
    if certificate is not None:
        path.write_text(certificate)
    tls = {"HOLDFAST_TLS_CERTIFICATE": str(path), "HOLDFAST_TLS_KEY": str(path)}
    done = run(["serve"], {**holdfast_server.environment, **tls})
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"holdfast: HOLDFAST_TLS_CERTIFICATE is {path}, ")


def test_refuses_a_state_dir_that_it_cannot_write_to(
    holdfast_server: RunningService, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    change = {"HOLDFAST_STATE_DIR": str(tmp_path / "file" / "state")}
    done = run(["serve"], {**holdfast_server.environment, **change})
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("holdfast: HOLDFAST_STATE_DIR is ")


def test_refuses_credentials_that_cannot_be_used(
    holdfast_server: RunningService, tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text("junk")
    done = run(
        ["serve", "--tokens-file", str(tmp_path / "tokens")], dict(holdfast_server.environment)
    )
    assert done.returncode == 1
    assert f"HOLDFAST_TOKENS_FILE is {tmp_path / 'tokens'}, which cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


def test_refuses_a_schema_that_is_not_current(
    holdfast_server: RunningService, postgres_url: str
) -> None:
    done = run(["serve"], {**holdfast_server.environment, "HOLDFAST_POSTGRES_URL": postgres_url})
    assert done.returncode == 1
    assert "run `holdfast migrate`" in done.stderr


def test_refuses_stores_that_do_not_belong_together(
    holdfast_server: RunningService, migrated_postgres_url: str, tmp_path: Path
) -> None:
    change = {"HOLDFAST_POSTGRES_URL": migrated_postgres_url, "HOLDFAST_STATE_DIR": str(tmp_path)}
    done = run(["serve"], {**holdfast_server.environment, **change})
    assert done.returncode == 1
    assert "the hot store belongs to another ledger" in done.stderr


def test_refuses_a_hot_store_that_may_delete_balances(
    variables: dict[str, str], valkey: Server
) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        client.config_set("maxmemory-policy", "volatile-lru")
    assert run(["migrate"], variables).returncode == 0
    done = run(["serve"], variables)
    assert done.returncode == 1
    assert "maxmemory-policy volatile-lru: CONFIG SET maxmemory-policy noeviction" in done.stderr


def test_refuses_a_hot_store_that_lost_its_data(
    holdfast_server: RunningService, valkey: Server
) -> None:
    with Client(holdfast_server.target) as client:
        client.create_credit_type("credits")
        client.create_account("lost-1")
        client.grant("lost-1", 1, source=GrantSource.SUPPORT)
    done = run(["serve"], {**holdfast_server.environment, "HOLDFAST_REDIS_URL": valkey.url})
    assert done.returncode == 1
    assert "the hot store is empty but the ledger is not" in done.stderr


def test_sigterm_finishes_calls_in_flight(variables: dict[str, str], valkey: Server) -> None:
    with serving(variables) as service, Client(service.target) as client:
        client.create_credit_type("credits")
        client.create_account("a")
        client.grant("a", 100, source=GrantSource.SUPPORT)
        held: list[str] = []
        os.kill(valkey.pid, signal.SIGSTOP)
        call = threading.Thread(target=lambda: held.append(client.reserve("a", 10).hold_id))
        call.start()
        eventually(lambda: _established(valkey.port) and call.is_alive(), "the call waits")
        service.process.send_signal(signal.SIGTERM)
        # The supervisor has heard it once it welcomes nobody any more.
        eventually(lambda: _refuses(service.target), "new connections are refused")
        os.kill(valkey.pid, signal.SIGCONT)
        call.join(PATIENCE_S)
        assert held
        assert held[0]
        assert service.process.wait(PATIENCE_S) == 0
    assert not any(alive(each) for each in service.processes.values())


def test_killed_worker_is_restarted_and_service_goes_on(variables: dict[str, str]) -> None:
    with serving(variables) as service, Client(service.target) as client:
        client.create_credit_type("credits")
        client.create_account("a")
        client.grant("a", 100, source=GrantSource.SUPPORT)
        before = workers(service)
        os.kill(service.processes["worker-0"], signal.SIGKILL)
        for _ in range(10):
            assert client.burn("a", 1).decision.allowed
        after = eventually(
            lambda: _replaced(before, workers(service)), "another worker is in its place"
        )
        assert len(after) == len(before)
        assert service.stop() == 0


def test_streams_that_break_lose_and_double_nothing(variables: dict[str, str]) -> None:
    """The one worker is killed under callers that share a stream: each burn is applied once."""
    burns, callers = 600, 30
    alone = {**variables, "HOLDFAST_WORKERS": "1"}
    patience_ms = int(PATIENCE_S * 1_000)
    with serving(alone) as service, Client(service.target, timeout_ms=patience_ms) as client:
        client.create_credit_type("credits")
        client.create_account("a")
        client.grant("a", burns, source=GrantSource.SUPPORT)
        with ThreadPoolExecutor(callers) as pool:
            asked = [pool.submit(client.burn, "a", 1) for _ in range(burns)]
            eventually(lambda: sum(each.done() for each in asked) > burns // 10, "some are")
            os.kill(service.processes["worker-0"], signal.SIGKILL)
            assert all(each.result().decision.allowed for each in asked)
        (line,) = client.balance("a").credits
        assert (line.buckets.burned, line.buckets.available) == (burns, 0)
        assert service.stop() == 0


def test_children_end_with_their_parent(variables: dict[str, str]) -> None:
    chosen = {**variables, "HOLDFAST_PORT": str(free_port())}
    with serving(chosen) as service:
        service.process.kill()
        service.process.wait(PATIENCE_S)
        eventually(
            lambda: not any(alive(each) for each in service.processes.values()), "children end"
        )
    # Nothing is left that would keep the port.
    with serving(chosen) as service:
        assert service.stop() == 0


def test_log_lines_say_which_process_wrote_them(variables: dict[str, str], tmp_path: Path) -> None:
    """All processes of a service write to one stream."""
    assert run(["migrate"], variables).returncode == 0
    talkative = {**variables, "HOLDFAST_LOG_LEVEL": "debug", "HOLDFAST_LOG_FORMAT": "json"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command("serve", "--json"), env=talkative, stdout=subprocess.PIPE, stderr=log, text=True
        )
        with process:
            assert process.stdout is not None
            names = json.loads(process.stdout.readline())["processes"]
            process.terminate()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    expected = {(name.partition("-")[0], str(pid)) for name, pid in names.items()}
    assert {(line["role"], line["pid"]) for line in lines} == {
        ("supervisor", str(process.pid)),
        *expected,
    }


def test_metrics_page_shows_every_process(variables: dict[str, str]) -> None:
    port = str(free_port())
    with serving({**variables, "HOLDFAST_METRICS_PORT": port}) as service:
        page = eventually(lambda: _page_of_all(service), "all processes are on the page")
        assert service.metrics == f"http://127.0.0.1:{port}/metrics"
        assert 'holdfast_kill{process="worker-1"} 0.0' in page
        assert _get(f"http://127.0.0.1:{port}/ready") == ""
        with pytest.raises(urllib.error.HTTPError, match="404"):
            _get(f"http://127.0.0.1:{port}/other")
        second = {**variables, "HOLDFAST_METRICS_PORT": port, "HOLDFAST_PORT": "0"}
        done = run(["serve"], second)
        assert done.returncode == 1
        assert "choose another --metrics-port" in done.stderr


def _established(port: int) -> bool:
    """Whether somebody has sent the server on `port` what it has not read yet."""
    wanted = f":{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, _, state, queues = line.split()[1:5]
        if local.endswith(wanted) and state == "01" and int(queues.partition(":")[2], 16):
            return True
    return False


def _refuses(target: str) -> bool:
    port = int(target.rpartition(":")[2])
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return not any(
        line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in lines
    )


def _replaced(before: dict[str, int], now: dict[str, int]) -> dict[str, int] | None:
    return now if len(now) == len(before) and now != before else None


def _page_of_all(service: RunningService) -> str | None:
    page = _get(service.metrics)
    return page if all(f'process="{name}"' in page for name in service.processes) else None


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        return str(answer.read().decode())
