"""Profiles of whole processes, for benchmarks: where their time goes, function by function."""

from __future__ import annotations

import cProfile
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

#: Names a folder: every process below writes its profile there when it ends. No setting, since
#: nobody should run a service so.
FOLDER_VARIABLE: Final = "HOLDFAST_BENCH_PROFILES"
SUFFIX: Final = ".prof"


@contextmanager
def profiled(role: str) -> Iterator[None]:
    """Profiles the block where a folder is named; it then takes about twice as long."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        yield
        return
    profile = cProfile.Profile()
    profile.enable()
    try:
        yield
    finally:
        profile.disable()
        profile.dump_stats(Path(folder) / f"{role}-{os.getpid()}{SUFFIX}")
