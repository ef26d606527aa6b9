"""libfaketime, where it is installed: other processes with other clocks."""

from __future__ import annotations

from pathlib import Path

import pytest

_PLACES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
#: What to preload.
LIBRARY = str(_PLACES[0]) if _PLACES else ""

needs_faketime = pytest.mark.skipif(
    not LIBRARY, reason="libfaketime is not installed (package libfaketime)"
)
