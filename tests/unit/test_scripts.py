"""The texts of the scripts, as a process has them."""

from __future__ import annotations

import re
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


def test_whatever_a_decision_takes_from_a_module_is_there() -> None:
    text = scripts.load("apply").text
    declared = re.findall(r"^local (claims_.+)$", text, re.MULTILINE)
    assigned = re.findall(r"^(?:function (\w+)|([\w, ]+) =)", text, re.MULTILINE)
    names = {name for pair in assigned for name in "".join(pair).split(", ")}
    assert set(declared[0].split(", ")) - names == set()


def test_words_in_comments_and_texts_are_no_names() -> None:
    text = scripts.load("apply").text
    assert "-- KEYS: for each partition its 6 keys (lib/partition.lua)" in text
    assert '{ [1] = "OPEN", [2] = "COMMITTED"' in text
