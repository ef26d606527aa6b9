"""The connection for calls: what it makes of bytes, and what becomes of one that broke."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Connection
from redis.exceptions import ConnectionError, InvalidResponse, ReadOnlyError, ResponseError

from holdfast_server.domain import operation as op
from holdfast_server.domain.reply import BalanceReply
from holdfast_server.engine.line import Line
from tests.support.pair import Real
from tests.support.waiting import until


class Wire:
    """The driver's connection and its transport, with nobody at the other end."""

    def __init__(self) -> None:
        self._writer = SimpleNamespace(transport=self)
        self.is_breaking = False
        self._parser = Connection()._parser
        self.sent = b""
        self.is_closed = False

    def set_protocol(self, line: Line) -> None:
        """It is told what to do directly."""

    def is_closing(self) -> bool:
        """The line hears of it a moment later."""
        return self.is_breaking

    def write(self, data: bytes) -> None:
        self.sent += data

    async def disconnect(self, *, nowait: bool) -> None:
        self.is_closed = nowait


def line_of(wire: Wire, timeout_s: float = 60.0) -> Line:
    connection: Any = wire
    return Line(connection, timeout_s)


@pytest.mark.parametrize("text", [b"", b"hello", b"\r\n$3\r\n"])
async def test_an_answer_in_any_two_pieces_is_one_answer(text: bytes) -> None:
    line, said = line_of(Wire()), b"$%d\r\n%s\r\n" % (len(text), text)
    for cut in range(len(said) + 1):
        answer = line.ask(b"call")
        for piece in (said[:cut], said[cut:]):
            if piece:
                line.data_received(piece)
        assert await answer == text
    assert line.is_open


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (b"-READONLY no\r\n", ReadOnlyError),
        (b"!11\r\nREADONLY no\r\n", ReadOnlyError),
        (b"-ERR Function not found\r\n", ResponseError),
    ],
)
async def test_an_error_is_that_of_the_driver(said: bytes, kind: type[Exception]) -> None:
    line = line_of(Wire())
    answer = line.ask(b"call")
    line.data_received(said)
    with pytest.raises(kind):
        await answer
    assert line.is_open


@pytest.mark.parametrize("said", [b":1\r\n", b"$2\r\nab\r\n$2\r\nab\r\n", b"$x\r\n", b"\r\n"])
async def test_what_is_no_answer_ends_the_line(said: bytes) -> None:
    line = line_of(Wire())
    answer = line.ask(b"call")
    line.data_received(said)
    with pytest.raises((InvalidResponse, ValueError)):
        await answer
    assert not line.is_open


async def test_what_nobody_asked_for_ends_the_line() -> None:
    line = line_of(Wire())
    line.data_received(b"$2\r\nab\r\n")
    assert not line.is_open


async def test_who_waits_hears_of_the_end() -> None:
    late, lost, wire = line_of(Wire(), 0.0), line_of(Wire()), Wire()
    closed = line_of(wire)
    answers = [late.ask(b"call"), lost.ask(b"call"), closed.ask(b"call")]
    lost.connection_lost(None)
    await closed.close()
    found = await asyncio.gather(*answers, return_exceptions=True)
    assert [type(each) for each in found] == [TimeoutError, ConnectionError, ConnectionError]
    assert not any(each.is_open for each in (late, lost, closed))
    assert wire.is_closed


async def test_one_that_breaks_is_not_asked() -> None:
    wire = Wire()
    line = line_of(wire)
    wire.is_breaking = True
    assert not line.is_open


async def test_lines_are_kept_and_one_that_was_cut_is_replaced(real: Real) -> None:
    question = op.GetBalance("t", "a")
    # The first call may find that the store does not know the script, which ends its line.
    await real.decide([op.CreateAccount("t", "a", op.AccountTerms(), "1")])
    await real.decide([question])
    (line,) = real.store._lines
    await real.decide([question])
    assert real.store._lines == [line]
    await real.store.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await until(lambda: not line.is_open)
    (answer,) = await real.decide([question])
    assert isinstance(answer, BalanceReply)
    assert line not in real.store._lines
