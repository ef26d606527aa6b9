"""What a partition cannot get past."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast_server.engine.outbox import OutboxEntry
from holdfast_server.ledger.prepare import Fault


@dataclass(frozen=True, slots=True)
class Obstacle:
    """An entry in the outbox that cannot be recorded, and why. One that is gone has no bytes."""

    raw: OutboxEntry
    fault: Fault
    explanation: str
