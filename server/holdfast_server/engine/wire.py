"""How a script call goes over the wire to the hot store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from holdfast_server.domain.bounds import PARTITIONS_MAX
from holdfast_server.engine.scripts import Script

Argument = str | bytes | int
#: Keys of a script call. Those that go together in call after call are a tuple, packed only once.
Groups = Sequence[Sequence[str]]


def pack_call(script: Script, keys: Groups, arguments: Sequence[Argument]) -> bytes:
    """A script call as it goes over the wire. The driver takes ten times as long for so many keys,
    which are ASCII.
    """
    count = sum(map(len, keys))
    words = (script.command, script.called, str(count))
    groups = [_remembered(each) if isinstance(each, tuple) else _packed(each) for each in keys]
    size = len(words) + count + len(arguments)
    parts = [f"*{size}\r\n{_packed(words)}{''.join(groups)}".encode("ascii")]
    for argument in arguments:
        raw = argument if isinstance(argument, bytes) else str(argument).encode()
        parts += (b"$%d\r\n" % len(raw), raw, b"\r\n")
    return b"".join(parts)


def _packed(words: Iterable[str]) -> str:
    return "".join([f"${len(word)}\r\n{word}\r\n" for word in words])


#: The same, as it was packed before.
_remembered = lru_cache(maxsize=PARTITIONS_MAX)(_packed)
