"""What the comments of the protos say, where nothing else makes it so."""

from __future__ import annotations

from holdfast.v1 import ledger_service_pb2 as ledger
from holdfast_server.errors import Reason
from tests.api.world import World
from tests.support.wire import refused


async def test_an_explanation_of_nothing_is_told_what_it_lacks(world: World) -> None:
    request = ledger.ExplainRequest(tenant=world.tenant)
    refusal = await refused(world.client.ledger.Explain(request), Reason.FIELD_INVALID)
    assert refusal.metadata == {"field": "subject"}
