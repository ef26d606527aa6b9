"""`holdfast up`, `demo` and `replay`: what somebody tries first."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from holdfast_server.chaos.stack import alive, children
from holdfast_server.cli import INTERRUPTED
from holdfast_server.embedded.launch import STOP_SIGNAL
from holdfast_server.embedded.process import free_port
from tests.support.server import (
    PATIENCE_S,
    RunningService,
    command,
    eventually,
    run,
    without_ours,
)

#: Redis or Valkey, and Postgres.
STORES = 2

#: What the closing object of a demo must have.
REPORT_FIELDS = {"ok", "requests", "operations", "granted", "denied", "lost", "duplicates", "chain"}

#: Of another service, which nothing may be done to. It cannot be reached either.
ELSEWHERE = {
    "HOLDFAST_REDIS_URL": "redis://127.0.0.1:1/0",
    "HOLDFAST_POSTGRES_URL": "postgresql://127.0.0.1:1/holdfast",
    "HOLDFAST_STATE_DIR": "/nowhere",
}


@contextmanager
def up(data: Path, port: int) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """`holdfast up` until the block ends, and the lines that it printed."""
    arguments = ["--data", str(data), "--port", str(port), "--metrics-port", "0"]
    process = subprocess.Popen(
        command("up", *arguments), env=without_ours(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        yield process, lines
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
        process.stdout.close()


def shown_commands(lines: list[str]) -> list[str]:
    """The commands among the lines: each stands below a comment and ends at an empty line."""
    blocks = re.split(r"\n\n", "".join(lines))
    return [block.partition("\n")[2] for block in blocks if block.startswith("# ")]


def call_by_reflection(grpcurl: str) -> dict[str, object]:
    """Does what a `grpcurl` command says, by nothing but what the server says of itself."""
    plaintext, data, body, target, path = shlex.split(grpcurl)[1:]
    assert (plaintext, data) == ("-plaintext", "-d")
    service, method = path.split("/")
    with grpc.insecure_channel(target) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        found = pool.FindServiceByName(service).FindMethodByName(method)
        request = json_format.Parse(body, GetMessageClass(found.input_type)())
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        ask = channel.unary_unary(f"/{service}/{method}")
        answer = ask(request.SerializeToString())
        message = GetMessageClass(found.output_type).FromString(answer)
    return json_format.MessageToDict(message)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_up_prints_three_commands_that_work(tmp_path: Path) -> None:
    port = free_port()
    with up(tmp_path / "data", port) as (process, lines):
        assert lines[0].startswith(f"Holdfast serves 127.0.0.1:{port},")
        balance, python, grpcurl = shown_commands(lines)
        first = subprocess.run(balance, shell=True, capture_output=True, text=True, check=True)
        assert re.search(r"^credits +1000 ", first.stdout, re.MULTILINE)
        second = subprocess.run(python, shell=True, capture_output=True, text=True, check=True)
        assert second.stdout == "920\n"
        assert call_by_reflection(grpcurl)["account"] == "demo"
        started = children(process.pid)
        assert started
    assert not any(map(alive, started))
    # The data stays, and the grant is not given again.
    with up(tmp_path / "data", port) as (_, lines):
        third = subprocess.run(
            shown_commands(lines)[1], shell=True, capture_output=True, text=True, check=True
        )
        assert third.stdout == "840\n"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_demo_ends_with_a_report_and_leaves_nothing() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # Where Postgres runs as another user, that one must be able to pass through.
        Path(folder).chmod(0o711)
        variables = {**without_ours(), **ELSEWHERE, "TMPDIR": folder}
        done = run(["demo", "--requests", "300", "--json"], variables)
        assert not list(Path(folder).iterdir())
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    report = json.loads(line)
    assert report.keys() >= REPORT_FIELDS
    assert report["ok"] is True
    assert report["requests"] == 300
    assert report["lost"] == report["duplicates"] == 0


def test_replay_of_a_running_service(holdfast_server: RunningService, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = [f"2024-05-10 00:00:00.{n:03}000,{300 + n},{40 + n}" for n in range(60)]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    target = ["--target", holdfast_server.target]
    done = run(["replay", str(trace), *target, "--json"], holdfast_server.environment)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["ok"], report["requests"]) == (True, 60)


def test_replay_names_the_line_that_it_cannot_read(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\nsoon,1,2\n")
    done = run(["replay", str(trace)], without_ours())
    assert done.returncode == 1
    assert done.stderr == (
        f"holdfast: {trace}: line 2: expected a timestamp and two token counts\n"
    )


@contextmanager
def heeded(number: signal.Signals) -> Iterator[None]:
    """Processes that are started in this block heed a signal, also where this one was told not to,
    as in the background of a script.
    """
    before = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("arguments", [["demo"], ["chaos", "--seconds", "5"]])
def test_what_is_stopped_while_it_starts_leaves_nothing(
    arguments: list[str], number: signal.Signals
) -> None:
    with heeded(signal.SIGINT), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)
        variables = {**without_ours(), "TMPDIR": name}
        with subprocess.Popen(command(*arguments), env=variables) as process:
            eventually(lambda: list(folder.glob("*/**/valkey.conf")), "a store is started")
            started = children(process.pid)
            process.send_signal(number)
            assert process.wait(PATIENCE_S) == INTERRUPTED
        assert not any(map(alive, started))
        assert not list(folder.iterdir())


def is_told_to_end(server: int) -> bool:
    """Whether the signal with which we end stores waits for one, since it stands still."""
    status = Path(f"/proc/{server}/status").read_text()
    (pending,) = re.findall(r"^ShdPnd:\s*(\w+)$", status, re.MULTILINE)
    return bool(int(pending, 16) >> (STOP_SIGNAL - 1) & 1)


@contextmanager
def standing_still(process_id: int) -> Iterator[int]:
    """A process that does nothing in this block, not even end."""
    os.kill(process_id, signal.SIGSTOP)
    try:
        yield process_id
    finally:
        if alive(process_id):
            os.kill(process_id, signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_stopped_twice_leaves_nothing(number: signal.Signals) -> None:
    """The second time while a store is slow to end, and nothing of ours runs any more."""
    with heeded(signal.SIGINT), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)
        demo = command("demo", "--drain-grace-ms", "0")
        with subprocess.Popen(demo, env={**without_ours(), "TMPDIR": name}) as process:
            try:
                eventually(lambda: len(children(process.pid)) > STORES, "the service is started")
                started = children(process.pid)
                (file,) = folder.glob("*/**/postmaster.pid")
                with standing_still(int(file.read_text().split()[0])) as postgres:
                    process.send_signal(number)
                    eventually(lambda: is_told_to_end(postgres), "Postgres is told to end")
                    process.send_signal(number)
                    assert process.wait(PATIENCE_S) == INTERRUPTED
            finally:
                process.kill()
        assert not any(map(alive, started))
        assert not list(folder.iterdir())
