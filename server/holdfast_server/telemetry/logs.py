"""Log lines: one event, one line, at most 1 KiB, as JSON or as text; a few a second of one kind.

A line says which process wrote it, since several write to one stream, and carries the trace id of
the request it is about. Whatever a caller sent is escaped, so that no text can forge a line or its
fields, and what looks like a secret is taken out. Facts are given as `extra={"facts": {...}}`, not
written into the message.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections import Counter
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

from holdfast_server.telemetry.tracing import NO_TRACE, TraceContext

#: Bytes of one line, its end included.
LINE_BYTES_MAX = 1_024
#: Characters of the message and of each fact; the end of a traceback says most, so that is kept.
MESSAGE_CHARACTERS_MAX = 400
FACT_CHARACTERS_MAX = 120
TRACEBACK_CHARACTERS_MAX = 300
#: Facts of one line.
FACTS_MAX = 8

#: Lines a second that one place in the code may write, unless they are errors.
LINES_PER_SECOND_MAX = 10

#: The place in a trace of what is being done now; set by the API for each call.
current_place: ContextVar[TraceContext] = ContextVar("current_place", default=NO_TRACE)

_SECRETS = (
    (re.compile(r"://[^\s\"]*@"), "://***@"),
    (re.compile(r"(?i)(bearer\s+)[^\s\"]+"), r"\1***"),
    (re.compile(r"(?i)((?:password|secret|token)\s*[=:]\s*)[^\s\"&,;]+"), r"\1***"),
)


def configure(level: str, style: str, role: str, stream: TextIO | None = None) -> None:
    """Sends every log line of this process to `stream` (default: stderr), "json" or "text".

    `role` is what the process does: "supervisor", "worker", "flusher" or "sweeper". Replaces what
    was configured before.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    # Some libraries give their own loggers a level, which would pass the root's.
    handler.setLevel(level.upper())
    handler.addFilter(Occasional())
    handler.setFormatter(JsonFormatter(role) if style == "json" else TextFormatter(role))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class Occasional(logging.Filter):
    """Lets a few lines a second pass from each place in the code; the next says how many were left
    out. Calls that fail are many, because a store is away or a caller has no credentials.

    Errors pass, each of them: a caller may have been told to look for one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._second = 0
        self._passed: Counter[tuple[str, int]] = Counter()
        self._left_out: Counter[tuple[str, int]] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        if record.levelno >= logging.ERROR:
            return True
        if int(record.created) != self._second:
            self._second = int(record.created)
            self._passed.clear()
        place = record.pathname, record.lineno
        if self._passed[place] >= LINES_PER_SECOND_MAX:
            self._left_out[place] += 1
            return False
        self._passed[place] += 1
        if left_out := self._left_out.pop(place, 0):
            record.facts = {"left_out": left_out, **getattr(record, "facts", {})}
        return True


class OfProcess(logging.Formatter):
    """Names the process: its role, and the number under which the fleet and the system know it."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role


class JsonFormatter(OfProcess):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record, self._role)
        line = json.dumps(fields)
        while len(line) >= LINE_BYTES_MAX:
            # The least telling part goes first: facts from the last, then the message.
            _shorten(fields)
            line = json.dumps(fields)
        return line


class TextFormatter(OfProcess):
    """Time, severity, process, message, and facts as `name=value`, for people."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record, self._role)
        process = f"{fields.pop('role')}[{fields.pop('pid')}]"
        head = f"{fields.pop('time')} {fields.pop('level'):7} {process:17}"
        head = f"{head} {_escaped(fields.pop('message'))}"
        facts = [f"{_quoted(name)}={_quoted(value)}" for name, value in fields.items()]
        line = " ".join([head, *facts])
        return line.encode()[: LINE_BYTES_MAX - 1].decode(errors="ignore")


def _fields(record: logging.LogRecord, role: str) -> dict[str, str]:
    fields = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "role": role,
        "pid": str(record.process),
        "message": without_secrets(record.getMessage())[:MESSAGE_CHARACTERS_MAX],
        "logger": record.name,
    }
    place = current_place.get()
    if place.trace_id:
        fields |= {"trace_id": place.trace_id, "span_id": place.span_id}
    if record.exc_info:
        fields["error"] = _traceback(record)
    facts = getattr(record, "facts", {})
    for name, value in list(facts.items())[:FACTS_MAX]:
        fields.setdefault(str(name), without_secrets(str(value))[:FACT_CHARACTERS_MAX])
    return fields


def without_secrets(text: str) -> str:
    """`text` without what looks like a password, token or credential in a URL."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _traceback(record: logging.LogRecord) -> str:
    formatted = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
    return without_secrets(formatted)[-TRACEBACK_CHARACTERS_MAX:]


def _shorten(fields: dict[str, str]) -> None:
    name = next(reversed(fields))
    if name in {"message", "logger"}:
        fields["message"] = fields["message"][: len(fields["message"]) // 2]
    else:
        del fields[name]


def _escaped(text: str) -> str:
    """`text` without anything that could begin a line or steer a terminal."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _quoted(text: str) -> str:
    plain = text.isprintable() and not set(text) & set(' "=')
    return text if plain and text else json.dumps(text)
