"""An event loop that says when it has nothing to do."""

from __future__ import annotations

import asyncio
import socket

import pytest

from holdfast_server.engine.idle import BLIND_TURNS_MAX, IdleLoop, UntilIdle
from tests.support.idle import busy, run

pytestmark = pytest.mark.usefixtures("waits_for_ever")

TURNS = 20


def test_it_is_idle_behind_all_that_is_ready_to_run() -> None:
    async def test(loop: IdleLoop) -> None:
        done, said = list[int](), loop.create_future()
        loop.when_idle(lambda: said.set_result(list(done)))

        async def work() -> None:
            for turn in range(TURNS):
                await asyncio.sleep(0)
                done.append(turn)

        working = loop.create_task(work())
        assert await said == list(range(TURNS))
        await working

    run(test)


def test_it_is_idle_behind_all_that_connections_have() -> None:
    async def test(loop: IdleLoop) -> None:
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            found, said = loop.create_task(loop.sock_recv(here, 3)), loop.create_future()
            await asyncio.sleep(0)
            assert not found.done()
            there.send(b"new")
            loop.when_idle(lambda: said.set_result(found.done()))
            assert await said
            assert await found == b"new"

    run(test)


def test_a_busy_loop_looks_at_its_connections_all_the_same() -> None:
    async def test(loop: IdleLoop) -> None:
        here, there = socket.socketpair()
        with here, there, busy(loop):
            here.setblocking(False)
            for _ in range(TURNS):
                found = loop.create_task(loop.sock_recv(here, 3))
                await asyncio.sleep(0)
                there.send(b"new")
                # One turn to look, one for the task to go on in, and one for whoever waits for it.
                for _ in range(BLIND_TURNS_MAX + 3):
                    await asyncio.sleep(0)
                assert found.done()

    run(test)


def test_each_listener_is_told_once() -> None:
    async def test(loop: IdleLoop) -> None:
        told = list[str]()

        def listen() -> None:
            told.append("told")

        for _ in range(3):
            loop.when_idle(listen)
        for _ in range(TURNS):
            await asyncio.sleep(0.0001)
        assert told == ["told"]

    run(test)


def test_whoever_waits_goes_on_when_it_is_idle() -> None:
    async def test(_: IdleLoop) -> None:
        until_idle = UntilIdle()
        assert not until_idle.is_awaited
        waiting = asyncio.create_task(until_idle.wait())
        await asyncio.sleep(0)
        assert until_idle.is_awaited
        await waiting
        assert not until_idle.is_awaited

    run(test)


def test_or_when_it_is_told_to() -> None:
    async def test(loop: IdleLoop) -> None:
        until_idle = UntilIdle()
        with busy(loop):
            waiting = loop.create_task(until_idle.wait())
            for _ in range(TURNS):
                await asyncio.sleep(0)
            assert not waiting.done()
            until_idle.end()
            await waiting

    run(test)


def test_or_when_it_has_waited_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast_server.engine.idle.BUSY_SECONDS_MAX", 0.001)

    async def test(loop: IdleLoop) -> None:
        with busy(loop):
            await UntilIdle().wait()

    run(test)


async def test_any_other_loop_always_seems_to_be_idle() -> None:
    waiting = UntilIdle().wait()
    with pytest.raises(StopIteration):
        waiting.send(None)
