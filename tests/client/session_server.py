"""A server that knows Session only, and misbehaves on demand. It applies each key once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc import aio

from holdfast.v1 import balance_service_pb2 as pb
from holdfast.v1 import types_pb2

#: The largest message that a server reads by default.
MESSAGE_BYTES_MAX = 1_048_576
#: What to do with a message that came; the default answers it.
Behaviour = Callable[["SessionServer", Any, pb.SessionRequest], Awaitable[None]]


async def answer(server: SessionServer, context: Any, message: pb.SessionRequest) -> None:
    """Applies and answers all of a message."""
    await context.write(server.apply(message))


class SessionServer:
    """Remembers what came. `plan` has the behaviour for each of the next messages."""

    def __init__(self) -> None:
        self.address = ""
        self.streams = 0
        self.messages: list[pb.SessionRequest] = []
        #: How often each key was applied, and how often it came.
        self.applied: dict[str, int] = {}
        self.came: dict[str, int] = {}
        self.plan: list[Behaviour] = []
        self.metadata: list[dict[str, Any]] = []

    def apply(self, message: pb.SessionRequest, *, closing: bool = False) -> pb.SessionResponse:
        """The answers to a message; a key that came before is not applied again."""
        response = pb.SessionResponse(closing=closing)
        for item in message.items:
            key = item.reserve.idempotency_key
            self.applied.setdefault(key, 1)
            granted = types_pb2.Decision(outcome=types_pb2.OUTCOME_GRANTED)
            result = pb.ReserveResponse(decision=granted, hold_id=f"hold of {key}")
            response.results.add(id=item.id, reserve=result)
        return response

    async def session(self, _: object, context: Any) -> None:
        self.streams += 1
        self.metadata.append(dict(context.invocation_metadata()))
        while (message := await context.read()) is not aio.EOF:
            self.messages.append(message)
            for item in message.items:
                key = item.reserve.idempotency_key
                self.came[key] = self.came.get(key, 0) + 1
            behaviour = self.plan.pop(0) if self.plan else answer
            await behaviour(self, context, message)


@asynccontextmanager
async def session_server(port: int = 0) -> AsyncIterator[SessionServer]:
    """The server, until the block ends; on a port of its own choosing by default."""
    options = [("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)]
    stand_in, server = SessionServer(), aio.server(options=options)
    behaviour: Any = stand_in.session
    handler = grpc.stream_stream_rpc_method_handler(
        behaviour,
        pb.SessionRequest.FromString,
        # Bytes go as they are: a server may also write what is no message.
        lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
    )
    service = grpc.method_handlers_generic_handler(
        "holdfast.v1.BalanceService", {"Session": handler}
    )
    server.add_generic_rpc_handlers((service,))
    stand_in.address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    await server.start()
    try:
        yield stand_in
    finally:
        await server.stop(None)
