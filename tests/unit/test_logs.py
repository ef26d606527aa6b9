"""Log lines: bounded, without secrets, and nobody's text can forge one."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.telemetry import logs
from holdfast_server.telemetry.logs import current_place
from holdfast_server.telemetry.tracing import (
    TraceContext,
)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What goes to the log; the configuration of the test run is put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


log = logging.getLogger("holdfast.test")


def json_lines(stream: io.StringIO) -> list[dict[str, str]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_time_severity_message_facts_and_trace(written: io.StringIO) -> None:
    logs.configure("info", "json", "worker", written)
    token = current_place.set(TraceContext(TRACE, SPAN))
    log.debug("not shown")
    log.warning("it is %d", 5, extra={"facts": {"partition": 7}})
    current_place.reset(token)
    (line,) = json_lines(written)
    assert line["message"] == "it is 5"
    assert (line["level"], line["partition"], line["trace_id"]) == ("warning", "7", TRACE)
    assert line["time"].endswith("+00:00")


def test_a_line_says_which_process_wrote_it(written: io.StringIO) -> None:
    """Several write to one stream; a fact of the same name is not the process."""
    for style in ("json", "text"):
        logs.configure("info", style, "flusher", written)
        log.info("it is so", extra={"facts": {"role": "worker", "pid": 7}})
    of_json, of_text = written.getvalue().splitlines()
    fields = json.loads(of_json)
    assert (fields["role"], fields["pid"]) == ("flusher", str(os.getpid()))
    assert of_text.split()[1:3] == ["info", f"flusher[{os.getpid()}]"]
    assert "worker" not in of_json + of_text


FORGED = 'x\n{"level":"info","message":"forged"}\r\x1b[2J\u2028"'


@pytest.mark.parametrize("style", ["json", "text"])
def test_no_text_can_forge_a_line(written: io.StringIO, style: str) -> None:
    logs.configure("info", style, "worker", written)
    log.info("reason: %s", FORGED, extra={"facts": {"reason": FORGED, FORGED: "x"}})
    text = written.getvalue()
    assert text.count("\n") == 1
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text
    if style == "json":
        (line,) = json_lines(written)
        assert (line["level"], line["reason"]) == ("info", FORGED)


@pytest.mark.parametrize("style", ["json", "text"])
@given(text=st.text(max_size=3_000), facts=st.dictionaries(st.text(), st.text(), max_size=20))
def test_a_line_is_one_line_of_at_most_a_kibibyte(
    style: str, text: str, facts: dict[str, str]
) -> None:
    formatter = logs.JsonFormatter("worker") if style == "json" else logs.TextFormatter("worker")
    record = logging.LogRecord("n", logging.INFO, "p", 1, "%s", (text,), None)
    record.facts = facts
    line = formatter.format(record)
    assert len(line.encode()) < logs.LINE_BYTES_MAX
    assert "\n" not in line
    assert "\r" not in line
    if style == "json":
        assert json.loads(line)["level"] == "info"


@pytest.mark.parametrize("style", ["json", "text"])
def test_secrets_are_taken_out(written: io.StringIO, style: str) -> None:
    logs.configure("info", style, "worker", written)
    facts = {"header": "authorization: Bearer hunter2", "other": "token=hunter2"}
    try:
        raise ConnectionError("postgresql://user:hunter2@host/db?password=hunter2")
    except ConnectionError:
        log.exception("redis://:hunter2@host is away", extra={"facts": facts})
    assert "hunter2" not in written.getvalue()
    assert "ConnectionError" in written.getvalue()


def test_a_flood_of_one_kind_is_a_few_lines_and_a_number(written: io.StringIO) -> None:
    """A store that is away fails thousands of calls a second; each tells the log."""
    logs.configure("info", "json", "worker", written)

    def failed(second: int, level: int = logging.WARNING, line: int = 1) -> None:
        record = logging.LogRecord("n", level, "path.py", line, "away", (), None)
        record.created = second
        logging.getLogger().handle(record)

    for _ in range(1_000):
        failed(7)
    failed(7, line=2)
    failed(8, logging.ERROR)
    failed(8)
    failed(8)

    lines = json_lines(written)
    assert len(lines) == logs.LINES_PER_SECOND_MAX + 4
    assert [line["level"] for line in lines[-3:]] == ["error", "warning", "warning"]
    assert lines[-2]["left_out"] == str(1_000 - logs.LINES_PER_SECOND_MAX)
    assert "left_out" not in lines[-1]


def test_errors_are_written_each(written: io.StringIO) -> None:
    logs.configure("info", "json", "worker", written)
    for _ in range(5 * logs.LINES_PER_SECOND_MAX):
        log.error("a call failed")
    assert len(json_lines(written)) == 5 * logs.LINES_PER_SECOND_MAX
