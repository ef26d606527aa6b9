"""The Lua scripts: read from package data, flattened, named by their SHA-1.

A line `--- @include name` is replaced by `lua/lib/name.lua` or `lua/operations/name.lua`. Each
included file becomes a function of its own, called at once, so that its locals stay its own, except
`layout`, `clock` and `fence`, whose names all others use. `clock` stands for the store's own clock;
only a test build takes the time as an argument.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from importlib import resources

_INCLUDE = re.compile(r"^--- @include (\w+)$", re.MULTILINE)

#: Included without a block, because every later file uses their names.
_SHARED = frozenset({"layout", "clock", "fence"})


class Clock(Enum):
    """Whose clock a build of the scripts uses."""

    STORE = "clock_store"
    ARGUMENT = "clock_argument"


_TOKEN = re.compile(r"--[^\n]*|\"[^\"\n]*\"|[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Script:
    """A flattened script."""

    name: str
    text: str
    #: What EVALSHA calls it by. Worked out once: every call names it.
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", sha)


@cache
def load(name: str, clock: Clock = Clock.STORE) -> Script:
    """The script of that name. Raises `FileNotFoundError` for an unknown name or include."""
    text = _INCLUDE.sub(lambda match: _included(match[1], clock), _read(f"{name}.lua"))
    return Script(name, _TOKEN.sub(_inlined, text))


@cache
def beyond_memory(script: Script) -> Script:
    """The same, to be run where the store is out of memory: its first line alone differs."""
    return Script(script.name, script.text.replace("#!lua\n", "#!lua flags=allow-oom\n", 1))


@cache
def constants() -> dict[str, str]:
    """Every name of `lib/constants.lua` with its value as Lua writes it."""
    found: dict[str, str] = {}
    for line in _read("lib/constants.lua").replace("=\n ", "=").splitlines():
        if line.startswith("local "):
            names, values = line.removeprefix("local ").split("=")
            pairs = zip(names.split(","), values.split(","), strict=True)
            found.update({name.strip(): value.strip() for name, value in pairs})
    return found


def _inlined(match: re.Match[str]) -> str:
    """The value of a constant's name; comments, strings and other names stay as they are."""
    return constants().get(match[0], match[0])


def _included(name: str, clock: Clock) -> str:
    file = clock.value if name == "clock" else name
    text = _read_first(f"lib/{file}.lua", f"operations/{file}.lua")
    if name in _SHARED:
        return text
    # A block would do, but a script runs anew in every call, and Lua searches a list for every
    # variable of a block that a function captures. What the enclosing function captured is at hand.
    return f"do local function fill()\n{text}end\nfill() end\n"


def _read_first(*paths: str) -> str:
    for path in paths:
        file = resources.files("holdfast_server.engine.lua").joinpath(path)
        if file.is_file():
            return file.read_text()
    raise FileNotFoundError(paths[0])


def _read(path: str) -> str:
    return _read_first(path)
