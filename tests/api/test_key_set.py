"""Where the keys of a token issuer come from, and how long they count."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from holdfast_server.api.auth import signed_tokens
from holdfast_server.api.auth.key_set import (
    FRESH_SECONDS,
    KEY_SET_BYTES_MAX,
    KEYS_MAX,
    RETRY_SECONDS,
    STALE_SECONDS_MAX,
    KeySet,
    make_fetch,
    parse_keys,
)
from holdfast_server.errors import HoldfastError, Reason
from tests.api.issuer import Clock, TokenText, key_set, rsa_key, verifier, write_key_set
from tests.api.world import eventually

#: How an answer of an issuer begins.
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("location", ["http://issuer.example/keys", "ftp://x/y", "data:,{}"])
def test_key_sets_are_not_fetched_from_unsafe_places(location: str) -> None:
    with pytest.raises(ValueError, match="https"):
        make_fetch(location)


class Fetches:
    """A key set that changes, and counts how often it is asked for."""

    def __init__(self, **keys: object) -> None:
        self.content = json.dumps(key_set(**keys)).encode()  # type: ignore[arg-type]
        self.count = 0
        self.is_answered = asyncio.Event()
        self.is_answered.set()

    async def wait_for(self, count: int) -> None:
        """Returns once it was asked so often."""

        async def is_asked() -> bool:
            return self.count >= count

        await eventually(is_asked)

    async def __call__(self) -> bytes:
        self.count += 1
        await self.is_answered.wait()
        if not self.content:
            raise OSError("the issuer is away")
        return self.content


async def test_an_unknown_key_id_is_looked_up_once_in_a_while() -> None:
    clock, fetches = Clock(0), Fetches(first=rsa_key())
    keys = KeySet(fetches, clock)
    await keys.load()
    clock.now = RETRY_SECONDS
    for _ in range(100):
        assert await keys.find("unknown") is None
    assert fetches.count == 2
    clock.now += RETRY_SECONDS
    fetches.content = json.dumps(key_set(second=rsa_key(1))).encode()
    assert await keys.find("second") is not None
    assert await keys.find("first") is None


async def test_keys_outlive_their_issuer_for_a_day() -> None:
    clock, fetches = Clock(0), Fetches(first=rsa_key())
    keys = KeySet(fetches, clock)
    await keys.load()
    fetches.content = b""
    clock.now = FRESH_SECONDS
    assert await keys.find("first") is not None
    await fetches.wait_for(2)
    clock.now = STALE_SECONDS_MAX
    assert await keys.find("first") is None
    assert fetches.count == 3


@pytest.mark.parametrize(
    "nonsense",
    [b"no HTTP", OK + b"Transfer-Encoding: chunked\r\n\r\nno size", OK + b"\r\n" + b"[" * 100_000],
)
async def test_an_issuer_that_answers_nonsense_is_as_good_as_away(nonsense: bytes) -> None:
    answers = [nonsense, nonsense, OK + b"\r\n" + json.dumps(key_set(first=rsa_key())).encode()]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.pop())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as issuer:
        clock, port = Clock(0), issuer.sockets[0].getsockname()[1]
        keys = KeySet(make_fetch(f"http://127.0.0.1:{port}/"), clock)
        await keys.load()
        clock.now = RETRY_SECONDS
        assert await keys.find("unknown") is None
        assert await keys.find("first") is not None
        with pytest.raises((OSError, ValueError)):
            await keys.load()


async def test_a_slow_issuer_is_asked_once_and_holds_up_only_unknown_keys() -> None:
    clock, fetches = Clock(0), Fetches(first=rsa_key())
    keys = KeySet(fetches, clock)
    await keys.load()
    clock.now = FRESH_SECONDS
    fetches.is_answered.clear()
    for _ in range(10):
        assert await keys.find("first") is not None
    fetches.content = json.dumps(key_set(second=rsa_key(1))).encode()
    waiting = [asyncio.ensure_future(keys.find("second")) for _ in range(10)]
    await fetches.wait_for(2)
    assert not any(each.done() for each in waiting)
    fetches.is_answered.set()
    assert all(await asyncio.gather(*waiting))
    assert fetches.count == 2


async def test_a_token_of_a_removed_key_is_refused_although_it_was_known() -> None:
    clock, fetches = Clock(0), Fetches(first=rsa_key())
    keys = KeySet(fetches, clock)
    await keys.load()
    tokens = verifier(keys, Clock())
    text = TokenText().signed()
    assert tokens.remembered(text) is None
    assert (await tokens.verify(text)).subject == "service-1"
    assert tokens.remembered(text) is not None
    fetches.content = json.dumps(key_set(second=rsa_key(1))).encode()
    clock.now = FRESH_SECONDS
    await keys.find("second")
    assert tokens.remembered(text) is None
    with pytest.raises(HoldfastError) as caught:
        await tokens.verify(text)
    assert caught.value.reason is Reason.TOKEN_INVALID


async def test_as_many_tokens_are_remembered_as_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signed_tokens, "REMEMBERED_MAX", 2)
    keys = KeySet(Fetches(first=rsa_key()), Clock(0))
    await keys.load()
    tokens = verifier(keys, Clock())
    texts = [TokenText().with_claims(jti=str(number)).signed() for number in range(3)]
    for text in texts:
        await tokens.verify(text)
    assert [tokens.remembered(text) is not None for text in texts] == [False, True, True]
    # One that is verified again is the newest.
    for text in (texts[1], texts[0]):
        await tokens.verify(text)
    assert [tokens.remembered(text) is not None for text in texts] == [True, True, False]


async def test_a_key_set_is_bounded(tmp_path: Path) -> None:
    path = write_key_set(tmp_path / "keys", first=rsa_key())
    fetch, content = make_fetch(str(path)), path.read_text()
    path.write_text(content.ljust(KEY_SET_BYTES_MAX))
    assert parse_keys(await fetch()).keys() == {"first", "elliptic"}
    path.write_text(content.ljust(KEY_SET_BYTES_MAX + 1))
    with pytest.raises(ValueError, match="bytes"):
        await fetch()
    key = key_set()["keys"][0]
    assert len(parse_keys(json.dumps({"keys": [key] * KEYS_MAX}).encode())) == 1
    with pytest.raises(ValueError, match="at most"):
        parse_keys(json.dumps({"keys": [key] * (KEYS_MAX + 1)}).encode())
