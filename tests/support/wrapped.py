"""Valkey started by a shell that first changes something: a limit, a clock."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from holdfast_server.embedded.valkey import find_valkey

#: A file may have so many blocks of 512 bytes: the store's log, which begins with the engine's
#: functions, is full after some hundred writes.
BLOCKS_MAX = 400
#: A process that goes beyond it is refused, as on a full disk, and not ended.
FULL_DISK = f"trap '' XFSZ\nulimit -f {BLOCKS_MAX}"


@contextmanager
def wrapped(monkeypatch: pytest.MonkeyPatch, before: str) -> Iterator[None]:
    """In this block, servers are started by a shell that first does what `before` says."""
    binary = find_valkey()
    with TemporaryDirectory(prefix="holdfast-wrapper-") as name, monkeypatch.context() as patch:
        wrapper = Path(name) / "valkey-server"
        wrapper.write_text(f'#!/bin/sh\n{before}\nexec {shlex.quote(str(binary))} "$@"\n')
        wrapper.chmod(0o755)
        patch.setenv("PATH", f"{name}{os.pathsep}{os.environ['PATH']}")
        yield
