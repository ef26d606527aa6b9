"""The floor of calls: a bare grpc.aio server that answers so many bytes, in a process of its own.

Run as `python -m holdfast_server.bench.echo BYTES`; prints its port and ends with its input.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc

PATH = "/echo/Call"


async def serve(answer_bytes: int) -> None:
    """Answers every call with the same bytes until standard input ends."""
    answer = bytes(answer_bytes)

    async def call(request: bytes, context: object) -> bytes:
        return answer

    behaviour: Any = call
    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(behaviour)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("echo", {"Call": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
