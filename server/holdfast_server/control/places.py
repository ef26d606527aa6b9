"""Where checkpoints are kept, outside of the database: a file, an object store, or a webhook.

| place | what happens |
| --- | --- |
| `file:///PATH` | a line is appended, and on the disk before it counts |
| `https://…/{number}.json` | PUT, each checkpoint as an object of its own |
| `https://…` without `{number}` | PUT, always the same object: it holds every partition |
| `webhook+https://…` | POST |

What got no answer is sent again as it was, so a place may see a checkpoint more than once.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

from holdfast_server.control.outgoing import Network, RequestFailed, check_url, send
from holdfast_server.control.spool_files import write_all
from holdfast_server.domain.checkpoint import Checkpoint

#: Stands in a URL for the checkpoint's number, in so many digits: names then sort like numbers.
NUMBER: Final = "{number}"
NUMBER_DIGITS: Final = 12

_WEBHOOK: Final = "webhook+"


class Place(Protocol):
    """Takes checkpoints."""

    @property
    def keeps_newest_only(self) -> bool:
        """Whether a checkpoint replaces the one before."""

    async def deliver(self, checkpoint: Checkpoint) -> None:
        """Returns once it is kept. Raises RequestFailed and AddressForbidden."""


def open_place(url: str, network: Network) -> Place:
    """The place that a URL names. Raises AddressForbidden, or ValueError for what is none."""
    if url.startswith("file:"):
        parts = urlsplit(url)
        if parts.netloc or not parts.path.startswith("/"):
            raise ValueError("a file is named by its whole path: file:///PATH")
        return FilePlace(Path(unquote(parts.path)))
    address = url.removeprefix(_WEBHOOK)
    check_url(address.replace(NUMBER, "1"), network)
    return HttpPlace("POST" if url.startswith(_WEBHOOK) else "PUT", address, network)


class FilePlace:
    """Appends to a file."""

    keeps_newest_only = False

    def __init__(self, path: Path) -> None:
        self._path = path

    async def deliver(self, checkpoint: Checkpoint) -> None:
        """See `Place.deliver`."""
        try:
            await asyncio.to_thread(_append, self._path, checkpoint.line.encode())
        except OSError as error:
            raise RequestFailed(f"{self._path} cannot be written: {error.strerror}") from error


class HttpPlace:
    """Sends to a URL."""

    def __init__(self, method: str, url: str, network: Network) -> None:
        self._method, self._url, self._network = method, url, network
        self.keeps_newest_only = method == "PUT" and NUMBER not in url

    async def deliver(self, checkpoint: Checkpoint) -> None:
        """See `Place.deliver`."""
        url = self._url.replace(NUMBER, f"{checkpoint.number:0{NUMBER_DIGITS}}")
        headers = {
            "content-type": "application/json",
            # By this a receiver sees that it has this one already.
            "webhook-id": f"checkpoint-{checkpoint.number}",
        }
        body = checkpoint.line.encode() + b"\n"
        await send(self._method, url, body, headers, self._network)


def _append(path: Path, line: bytes) -> None:
    """Appends a line; after one that was cut short, on a line of its own."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o640)
    with open(descriptor, "r+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        start = b"" if size == 0 or file.read(1) == b"\n" else b"\n"
        write_all(file, start + line + b"\n")
        os.fsync(descriptor)
