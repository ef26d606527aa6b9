"""A whole Holdfast as it runs in production: real processes, started by the real command."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from holdfast_server.chaos.stack import family, send
from holdfast_server.cli import main
from holdfast_server.embedded import Server

Found = TypeVar("Found")

#: How long anything may take on a machine that does other things as well.
PATIENCE_S = 30.0
POLL_INTERVAL_S = 0.02


@dataclass
class RunningService:
    """`holdfast serve` and its stores."""

    process: subprocess.Popen[str]
    target: str
    redis_url: str
    postgres_url: str
    state_dir: Path
    #: Process ids by name, as they were at the start: "worker-0", "flusher", "sweeper".
    processes: Mapping[str, int]
    #: URL of the metrics page, or empty.
    metrics: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def stop(self) -> int:
        """Asks it to end, waits, and answers its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


def without_ours() -> dict[str, str]:
    """The environment of the tests without settings of ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}


def environment(redis_url: str, postgres_url: str, state_dir: Path) -> dict[str, str]:
    """Variables for a service in development mode on free ports, and nothing of ours beside."""
    return {
        **without_ours(),
        "HOLDFAST_REDIS_URL": redis_url,
        "HOLDFAST_POSTGRES_URL": postgres_url,
        "HOLDFAST_STATE_DIR": str(state_dir),
        "HOLDFAST_DEVELOPMENT": "true",
        "HOLDFAST_PORT": "0",
        "HOLDFAST_METRICS_PORT": "0",
        "HOLDFAST_WORKERS": "2",
        "HOLDFAST_LOG_LEVEL": "warning",
    }


def command(*arguments: str) -> list[str]:
    """The command `holdfast`, run by this interpreter."""
    return [sys.executable, "-m", "holdfast_server", *arguments]


def run(arguments: Sequence[str], variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(
        command(*arguments),
        env=dict(variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * 2,
        check=False,
    )


def call(
    arguments: Sequence[str], variables: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """The same in this process, for commands that only ask a service: a fifth of the time."""
    output, errors = io.StringIO(), io.StringIO()
    with (
        patch.dict(os.environ, variables, clear=True),
        redirect_stdout(output),
        redirect_stderr(errors),
    ):
        status = main(list(arguments))
    return subprocess.CompletedProcess(arguments, status, output.getvalue(), errors.getvalue())


def call_json(arguments: Sequence[str], variables: Mapping[str, str]) -> list[dict[str, Any]]:
    """Calls a command with `--json`; the objects that it printed. Fails unless it succeeds."""
    done = call([*arguments, "--json"], variables)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def serving(variables: Mapping[str, str], *arguments: str) -> Iterator[RunningService]:
    """`holdfast serve` until the block ends; its schema is brought up to date before."""
    migrated = run(["migrate"], variables)
    assert migrated.returncode == 0, migrated.stderr
    with started(variables, *arguments) as service:
        yield service


@contextmanager
def started(variables: Mapping[str, str], *arguments: str) -> Iterator[RunningService]:
    """`holdfast serve` until the block ends, and nothing before."""
    process = subprocess.Popen(
        command("serve", "--json", *arguments),
        env=dict(variables),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield _announced(process, variables)
    finally:
        _end(process)


def _announced(process: subprocess.Popen[str], variables: Mapping[str, str]) -> RunningService:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"serve ended with status {process.wait(PATIENCE_S)} before it was ready"
    fields = json.loads(line)
    return RunningService(
        process=process,
        target=fields["target"],
        redis_url=variables["HOLDFAST_REDIS_URL"],
        postgres_url=variables["HOLDFAST_POSTGRES_URL"],
        state_dir=Path(variables["HOLDFAST_STATE_DIR"]),
        processes=fields["processes"],
        metrics=fields["metrics"],
        environment={**variables, "HOLDFAST_TARGET": fields["target"]},
    )


def _end(process: subprocess.Popen[str]) -> None:
    with process:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def standing_still(*servers: Server) -> Iterator[None]:
    """Servers that do nothing while the block lasts, as if the network swallowed everything."""
    processes = [each for server in servers for each in family(server.pid)]
    for each in processes:
        send(each, signal.SIGSTOP)
    try:
        yield
    finally:
        for each in processes:
            send(each, signal.SIGCONT)


def eventually(look: Callable[[], Found | None], what: str, seconds: float = PATIENCE_S) -> Found:
    """What `look` finds, asked again and again until it is something that counts as true."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(POLL_INTERVAL_S)
    return found
