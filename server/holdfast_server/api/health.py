"""The standard health service, with a bound on watches."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from grpc_health.v1.health import aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from holdfast_server.api.status import code_of, trailing_metadata
from holdfast_server.errors import HoldfastError, Reason

#: Open watches in one process. They need no credentials, so they must cost little.
WATCHES_MAX = 100
#: What a further watcher is told to wait.
WATCH_RETRY_MS = 30_000

#: The name under which the health of the whole server is asked for.
OVERALL = ""


class Health(aio.HealthServicer):  # type: ignore[misc]  # the library ships no types
    """Answers NOT_SERVING until the server is ready, and for good once it leaves."""

    def __init__(self, services: Sequence[str]) -> None:
        """`services` are full names; the whole server is answered for beside them."""
        super().__init__()
        self._names = (OVERALL, *services)
        self._watches = 0
        self._server_status = dict.fromkeys(self._names, HealthCheckResponse.NOT_SERVING)

    async def set_ready(self, is_ready: bool) -> None:
        """Says of every service whether it serves."""
        status = HealthCheckResponse.SERVING if is_ready else HealthCheckResponse.NOT_SERVING
        for name in self._names:
            await self.set(name, status)

    async def Watch(
        self,
        request: HealthCheckRequest,
        context: grpc.aio.ServicerContext[HealthCheckRequest, HealthCheckResponse],
    ) -> None:
        """Streams the status of one service while it changes."""
        if self._watches >= WATCHES_MAX:
            refusal = HoldfastError(
                Reason.OVERLOADED,
                "The server has as many watches as it may hold; use Check.",
                retry_after_ms=WATCH_RETRY_MS,
            )
            await context.abort(code_of(refusal), refusal.message, trailing_metadata(refusal))
        self._watches += 1
        try:
            await super().Watch(request, context)
        finally:
            self._watches -= 1
