"""The Lua scripts: read from package data, flattened, named by their SHA-1.

A line `--- @include name` is replaced by `lua/lib/name.lua` or `lua/operations/name.lua`. Each
included file becomes a function of its own, called at once, so that its locals stay its own, except
`layout`, `clock` and `fence`, whose names all others use. `clock` stands for the store's own clock;
only a test build takes the time as an argument.

Most scripts are run with EVALSHA, and the server executes all of their text each time. One with a
line `--- @each_call` becomes a library (`lua/library.lua`), called with FCALL: what stands above
that line is executed once and kept, since defining all that decisions need takes as long as two of
them.
"""

from __future__ import annotations

import hashlib
import re
from collections import ChainMap
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

#: Where the scripts are, and in which order files to include are looked for below it.
_FOLDER: Final = resources.files("holdfast_server.engine") / "lua"
_INCLUDE_FOLDERS: Final = ("lib", "operations")


def _texts(folder: Traversable) -> dict[str, str]:
    files = (each for each in folder.iterdir() if each.name.endswith(".lua"))
    return {file.name.removesuffix(".lua"): file.read_text("utf-8") for file in files}


#: All texts by the names of their files. They are read before anybody calls: a process that has run
#: out of descriptors opens no file, and must decide all the same.
_SCRIPTS: Final = _texts(_FOLDER)
_INCLUDED: Final = ChainMap(*(_texts(_FOLDER / name) for name in _INCLUDE_FOLDERS))

_INCLUDE = re.compile(r"^--- @include (\w+)$", re.MULTILINE)

#: Where the two parts of a library stand in `library.lua`, and what stands there for its name.
_PART = re.compile(r"^--- @(definitions|each_call)\n", re.MULTILINE)
_NAME = "LIBRARY_NAME"

#: Included without a block, because every later file uses their names.
_SHARED = frozenset({"layout", "clock", "fence"})


class Clock(Enum):
    """Whose clock a build of the scripts uses."""

    STORE = "clock_store"
    ARGUMENT = "clock_argument"


_TOKEN = re.compile(r"--[^\n]*|\"[^\"\n]*\"|[A-Za-z_]\w*")


_EACH_CALL = "--- @each_call\n"


@dataclass(frozen=True, slots=True)
class Script:
    """A flattened script, and how a server is told to run it. All is worked out once."""

    name: str
    text: str
    #: The command that runs it, and what that calls it by: its hash, or the name of a function.
    command: str
    called: str
    #: The command that makes a server know it.
    loading: tuple[str, ...]


@cache
def load(name: str, clock: Clock = Clock.STORE) -> Script:
    """The script of that name. Raises KeyError for an unknown name or include."""
    text = _INCLUDE.sub(lambda match: _included(match[1], clock), _SCRIPTS[name])
    text = _TOKEN.sub(_inlined, text)
    return _library(name, text) if _EACH_CALL in text else plain(name, text)


@cache
def beyond_memory(script: Script) -> Script:
    """The same, to be run where the store is out of memory. Its words are the same."""
    if script.command == "FCALL":
        return replace(script, called=f"{script.called}_beyond_memory")
    first_line, _, rest = script.text.partition("\n")
    return plain(script.name, f"{first_line} flags=allow-oom\n{rest}")


def plain(name: str, text: str) -> Script:
    """A script whose whole text is executed in each call."""
    return Script(name, text, "EVALSHA", _sha(text), ("SCRIPT", "LOAD", text))


def _library(name: str, text: str) -> Script:
    """A library. Its hash is in its name: processes of several versions can use one server."""
    _, _, body = text.partition("\n")
    definitions, _, each_call = body.partition(_EACH_CALL)
    parts = {"definitions": definitions, "each_call": each_call}
    text = _PART.sub(lambda match: parts[match[1]], _SCRIPTS["library"])
    called = f"holdfast_{_sha(text)}"
    text = text.replace(_NAME, called)
    return Script(name, text, "FCALL", called, ("FUNCTION", "LOAD", "REPLACE", text))


def _sha(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@cache
def constants() -> dict[str, str]:
    """Every name of `lib/constants.lua` with its value as Lua writes it."""
    found: dict[str, str] = {}
    for line in _INCLUDED["constants"].replace("=\n ", "=").splitlines():
        if line.startswith("local "):
            names, values = line.removeprefix("local ").split("=")
            pairs = zip(names.split(","), values.split(","), strict=True)
            found.update({name.strip(): value.strip() for name, value in pairs})
    return found


def _inlined(match: re.Match[str]) -> str:
    """The value of a constant's name; comments, strings and other names stay as they are."""
    return constants().get(match[0], match[0])


def _included(name: str, clock: Clock) -> str:
    text = _INCLUDED[clock.value if name == "clock" else name]
    if name in _SHARED:
        return text
    # A block would do, but a script runs anew in every call, and Lua searches a list for every
    # variable of a block that a function captures. What the enclosing function captured is at hand.
    return f"do local function fill()\n{text}end\nfill() end\n"
