"""`holdfast serve` as an operator meets it."""

from __future__ import annotations

from holdfast import Client
from tests.support.server import RunningService


def test_serves(holdfast_server: RunningService) -> None:
    with Client(holdfast_server.target) as client:
        client.create_credit_type("credits")
        client.create_account("serve-1")
        assert client.get_account("serve-1").root == "serve-1"
