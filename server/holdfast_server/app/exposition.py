"""The metrics page: the figures of every process of this service, and whether it is ready.

Each process answers on its admin socket with its page in the Prometheus text format; the
supervisor asks all of them, marks each sample with the process it came from, and serves the whole
over HTTP. The figures are not summed: a sum would fall when one process is restarted, which
Prometheus would take for a reset of all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from holdfast_server.app.problem import Problem
from holdfast_server.control.admin_socket import ask

log = logging.getLogger(__name__)

#: Bytes of a request's head that are read before the connection is closed.
REQUEST_HEAD_BYTES_MAX = 8_192
#: Time for one request: a scrape should not outlive its interval.
ANSWER_SECONDS_MAX = 5.0

#: The label that says which process a sample is of: "worker-0", "flusher", …
PROCESS_LABEL = "process"


class _Pages(Collector):
    """Metric families as a registry would collect them."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def merge_pages(pages: Mapping[str, str]) -> bytes:
    """One page out of the pages of several processes, by process name."""
    merged: dict[str, Metric] = {}
    for process, page in pages.items():
        for family in text_string_to_metric_families(page):
            into = merged.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            for sample in family.samples:
                labels = {**sample.labels, PROCESS_LABEL: process}
                into.samples.append(sample._replace(labels=labels))
    return generate_latest(_Pages(merged.values()))


@dataclass(frozen=True, slots=True)
class Source:
    """What the HTTP server shows: a page of metrics, and whether callers are welcome."""

    metrics: Callable[[], Awaitable[bytes]]
    ready: Callable[[], bool]


async def serve_http(host: str, port: int, source: Source) -> asyncio.Server:
    """Serves `GET /metrics`, and `GET /ready` with 200 or 503."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                writer.write(await _response(reader, source))
                await writer.drain()

    try:
        return await asyncio.start_server(answer, host, port, limit=REQUEST_HEAD_BYTES_MAX)
    # A name that no resolver takes is a UnicodeError.
    except (OSError, UnicodeError) as error:
        raise Problem(
            f"the metrics page cannot have {host}:{port}: choose another --metrics-port, or 0, "
            "or another --metrics-host"
        ) from error


async def collect_pages(sockets: Mapping[str, Path]) -> bytes:
    """The pages of the processes behind `sockets`, merged.

    A process that does not answer is left out: it must not hide the others.
    """
    pages = await asyncio.gather(*(_page(path) for path in sockets.values()))
    found = {name: page for name, page in zip(sockets, pages, strict=True) if page is not None}
    return merge_pages(found)


async def _response(reader: asyncio.StreamReader, source: Source) -> bytes:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return _http("400 Bad Request")
    method, _, rest = head.partition(b" ")
    if method != b"GET":
        return _http("405 Method Not Allowed")
    match rest.partition(b" ")[0].partition(b"?")[0]:
        case b"/metrics":
            return _http("200 OK", await source.metrics(), CONTENT_TYPE_LATEST)
        case b"/ready":
            return _http("200 OK") if source.ready() else _http("503 Service Unavailable")
        case _:
            return _http("404 Not Found")


def _http(status: str, body: bytes = b"", content_type: str = "text/plain") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


async def _page(path: Path) -> str | None:
    try:
        answer = await ask(path, {"command": "metrics"})
        return str(answer["text"])
    except (OSError, TimeoutError, ValueError, KeyError):
        log.warning("a process did not give its metrics", extra={"facts": {"socket": path.name}})
        return None
