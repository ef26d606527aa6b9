"""A connection for calls that are answered by one string: nothing stands between the socket and
whoever waits.

The driver makes the connection, with all that takes: credentials, TLS, sentinels. What is asked and
answered on it passes here, because the driver's own way takes as much time in this process as the
rest of a lone call.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from redis.asyncio.connection import Connection
from redis.exceptions import ConnectionError, InvalidResponse, RedisError

_END: Final = b"\r\n"
#: How answers begin that are one string, and those that are an error, by what their length is.
_STRING, _LONG_ERROR, _ERROR = b"$", b"!", b"-"


class Line(asyncio.Protocol):
    """Asks one thing at a time. Whoever waits for an answer no more MUST close it."""

    def __init__(self, connection: Connection, answer_timeout_s: float) -> None:
        """`connection` is made, and is used by nobody else any more."""
        assert connection._writer is not None
        self._connection = connection
        self._transport: Any = connection._writer.transport
        self._transport.set_protocol(self)
        self._answer_timeout_s = answer_timeout_s
        self._answer: asyncio.Future[bytes] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._received = bytearray()
        self._is_broken = False

    @property
    def is_open(self) -> bool:
        """Whether it can be asked anything."""
        return not self._is_broken and not self._transport.is_closing()

    def ask(self, call: bytes) -> asyncio.Future[bytes]:
        """The answer to a call: a string, an error of the driver's, or TimeoutError."""
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        self._timer = loop.call_later(self._answer_timeout_s, self._break, TimeoutError())
        self._transport.write(call)
        return self._answer

    async def close(self) -> None:
        """Hangs up; what was asked fails."""
        self._break(ConnectionError("the line was closed"))
        await self._connection.disconnect(nowait=True)

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            answer = self._complete()
        except (RedisError, ValueError) as error:
            self._break(error)
            return
        if answer is not None:
            self._received.clear()
            self._settle(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._break(ConnectionError("the connection was lost"))

    def _break(self, why: Exception) -> None:
        self._is_broken = True
        self._settle(why)

    def _settle(self, found: bytes | Exception) -> None:
        answer, self._answer = self._answer, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if answer is None or answer.done():
            return
        if isinstance(found, bytes):
            answer.set_result(found)
        else:
            answer.set_exception(found)

    def _complete(self) -> bytes | Exception | None:
        """What was answered; None while there is more to come. Raises where it is no answer."""
        if self._answer is None:
            raise InvalidResponse("nobody had asked")
        received = self._received
        head = received.find(_END)
        if head < 0:
            return None
        kind, said = bytes(received[:1]), bytes(received[1:head])
        if kind == _ERROR:
            return self._error(said)
        if kind not in (_STRING, _LONG_ERROR):
            raise InvalidResponse("the answer is no string")
        start, missing = head + len(_END), head + 2 * len(_END) + int(said) - len(received)
        if missing > 0:
            return None
        if missing < 0:
            raise InvalidResponse("there is more than one answer")
        text = bytes(received[start : -len(_END)])
        return text if kind == _STRING else self._error(text)

    def _error(self, text: bytes) -> Exception:
        parser: Any = self._connection._parser
        error: Exception = parser.parse_error(text.decode(errors="replace"))
        return error
