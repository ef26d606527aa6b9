"""The gRPC server of one process."""

from __future__ import annotations

import time
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from holdfast_server.api.auth.authenticator import Authenticator
from holdfast_server.api.auth.roles import ROLES
from holdfast_server.api.dispatch import Dispatcher
from holdfast_server.api.health import Health
from holdfast_server.api.methods import Service, bind
from holdfast_server.api.transport import Endpoint, listen, server_options


class ApiServer:
    """Listens, answers, and leaves without losing an answer."""

    def __init__(
        self,
        endpoint: Endpoint,
        services: Sequence[Service],
        authenticator: Authenticator,
        dispatcher: Dispatcher,
    ) -> None:
        """Raises ValueError for an endpoint that is not safe, or a method that lacks a role.

        MUST be built and started on the event loop it serves from, after a fork.
        """
        endpoint.check(is_open=authenticator.is_open)
        self._endpoint = endpoint
        self._dispatcher = dispatcher
        names = [service.descriptor.full_name for service in services]
        methods = [method for service in services for method in bind(service, ROLES)]
        self._server = grpc.aio.server(options=server_options(endpoint))
        self._server.add_generic_rpc_handlers(dispatcher.grpc_handlers(methods))
        self._health = Health(names)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if endpoint.reflection:
            _reflect(names, self._server)

    async def start(self) -> int:
        """Binds, serves, and answers the port; health stays NOT_SERVING until `set_ready`.

        Everything a call needs MUST be there before: a bound port that is not served lets callers
        hang. Raises RuntimeError when the address is taken.
        """
        port = listen(self._server, self._endpoint)
        await self._server.start()
        return port

    async def set_ready(self, is_ready: bool) -> None:
        """Says by the health service whether callers should be sent here."""
        await self._health.set_ready(is_ready)

    async def drain(self, grace_seconds: float) -> None:
        """Stops: health first, then no new calls, then waits for those that are at work."""
        until = time.monotonic() + grace_seconds
        await self._health.enter_graceful_shutdown()
        self._dispatcher.refuse_new_calls()
        await self._dispatcher.refuse_what_comes(grace_seconds)
        await self._server.stop(max(0.0, until - time.monotonic()))
        # Calls whose callers gave up are still at work.
        await self._dispatcher.wait_for_work(max(0.0, until - time.monotonic()))


def _reflect(names: Sequence[str], server: grpc.aio.Server) -> None:
    health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    reflection.enable_server_reflection((*names, health, reflection.SERVICE_NAME), server)
