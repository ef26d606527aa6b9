"""The texts of the scripts, as a process has them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from holdfast_server.engine import scripts
from tests.support.descriptors import no_descriptors

NAMES = sorted(
    file.name.removesuffix(".lua")
    for file in (resources.files("holdfast_server.engine") / "lua").iterdir()
    if file.name.endswith(".lua") and file.name != "library.lua"
)


@pytest.mark.parametrize("clock", scripts.Clock)
@pytest.mark.parametrize("name", NAMES)
def test_no_script_takes_a_descriptor_when_it_is_first_run(name: str, clock: scripts.Clock) -> None:
    """F61: a worker that has none left decides what it is asked."""
    for known in (scripts.load, scripts.constants, scripts.beyond_memory):
        known.cache_clear()
    with no_descriptors():
        with pytest.raises(OSError, match="Too many open files"):
            Path(__file__).read_bytes()
        script = scripts.load(name, clock)
        beyond = scripts.beyond_memory(script)
    assert script.text
    assert beyond.called != script.called


def test_a_script_that_there_is_none_of() -> None:
    with pytest.raises(KeyError):
        scripts.load("no_such_script")
