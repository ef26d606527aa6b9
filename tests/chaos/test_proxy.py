"""The proxy does to connections what it says, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from holdfast_server.chaos.proxy import LOOPBACK, Proxy
from tests.support.waiting import until

#: So long nothing may arrive where nothing shall: long beside loopback, short for a test.
SILENCE_S = 0.1

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """A server that answers what it is told, and remembers it."""

    def __init__(self) -> None:
        self.heard = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1_000):
                self.heard += data
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[Proxy, Echo]]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, LOOPBACK, 0)
    async with server, Proxy(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy, echo
        server.close()


@asynccontextmanager
async def line(proxy: Proxy) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection(LOOPBACK, proxy.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def say(line: Line, text: bytes = b"hello") -> bytes:
    """What comes back; empty when the line is broken."""
    reader, writer = line
    writer.write(text)
    try:
        return await reader.read(1_000)
    except OSError:
        return b""


async def is_silent(line: Line) -> bool:
    """Whether nothing comes back, though the line is not broken either."""
    try:
        async with asyncio.timeout(SILENCE_S):
            await say(line)
    except TimeoutError:
        return True
    return False


async def test_everything_passes_while_nothing_is_broken() -> None:
    async with proxied() as (proxy, _), line(proxy) as one:
        assert await say(one) == b"hello"
        assert await say(one, b"again") == b"again"


async def test_cut_breaks_open_and_new_connections_until_healed() -> None:
    async with proxied() as (proxy, _), line(proxy) as one:
        await say(one)
        proxy.cut()
        assert await say(one) == b""
        async with line(proxy) as other:
            assert await say(other) == b""
        proxy.heal()
        async with line(proxy) as third:
            assert await say(third) == b"hello"


async def test_blackhole_swallows_and_delivers_late() -> None:
    async with proxied() as (proxy, echo), line(proxy) as one:
        await say(one)
        proxy.blackhole()
        assert await is_silent(one)
        assert echo.heard == b"hello"
        proxy.heal()
        assert await one[0].read(1_000) == b"hello"


async def test_half_open_does_what_is_asked_without_an_answer() -> None:
    async with proxied() as (proxy, echo), line(proxy) as one:
        proxy.half_open("replies")
        assert await is_silent(one)
        assert echo.heard == b"hello"
        proxy.heal()
        assert await one[0].read(1_000) == b"hello"


async def test_drop_reply_loses_that_many_answers_to_that_question() -> None:
    async with proxied() as (proxy, echo):
        proxy.drop_reply(2, after=b"EVALSHA")
        async with line(proxy) as one:
            assert await say(one, b"PING") == b"PING"
            assert await say(one, b"EVALSHA") == b""
        async with line(proxy) as other:
            assert await say(other, b"EVALSHA") == b""
        async with line(proxy) as third:
            assert await say(third, b"EVALSHA") == b"EVALSHA"
        assert echo.heard.count(b"EVALSHA") == 3


@pytest.mark.parametrize("slow", ["delay", "throttle"])
async def test_slow_lines_deliver_everything_later(slow: str) -> None:
    async with proxied() as (proxy, _), line(proxy) as one:
        await say(one)
        if slow == "delay":
            proxy.delay(SILENCE_S)
        else:
            proxy.throttle(10)
        assert await is_silent(one)
        assert await one[0].read(1_000) == b"hello"


async def test_rst_breaks_open_connections_only() -> None:
    async with proxied() as (proxy, _), line(proxy) as one:
        await say(one)
        proxy.rst()
        assert await say(one) == b""
        async with line(proxy) as other:
            assert await say(other) == b"hello"
        await until(lambda: proxy.connections == 0)


async def test_a_server_that_is_away_breaks_the_line() -> None:
    async with proxied() as (closed, _):
        pass
    async with Proxy(1) as proxy, line(proxy) as one:
        assert await say(one) == b""
    assert closed.connections == 0


def test_a_url_leads_through_the_proxy_with_its_credentials() -> None:
    class Placed(Proxy):
        port = 5

    assert Placed(1).url("redis://:secret@10.0.0.1:6379/0") == "redis://:secret@127.0.0.1:5/0"
    assert Placed(1).url("postgresql://h/db?x=1") == "postgresql://127.0.0.1:5/db?x=1"
