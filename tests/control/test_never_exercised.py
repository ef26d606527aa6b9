"""Finding 9: a kill switch fails in the combination in which nobody ever turned it on."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast_server.domain.operation import Caller, Extend, Operation, Release
from holdfast_server.domain.submit import Answer, Submitter
from tests.control.support import CALLER, MakeStage, granted, unavailable
from tests.control.test_gate import EVERY_OPERATION, _with_key


class NaiveGate:
    """A kill switch as it is first written: it lets pass what asks for credits, by its lines."""

    async def submit(self, caller: Caller, operations: Sequence[Operation]) -> list[Answer]:
        """Asks nobody, whatever it is asked."""
        return [self._passed(operation) for operation in operations]

    def _passed(self, operation: Operation) -> Answer:
        lines = operation.lines  # type: ignore[union-attr]  # Only what is settled has none.
        return granted(operation) if lines else unavailable()


async def unanswered(gate: Submitter) -> set[type[Operation]]:
    """The kinds of operation that end in an exception, tried one by one."""
    failed: set[type[Operation]] = set()
    for operation in EVERY_OPERATION:
        try:
            await gate.submit(CALLER, [_with_key(operation, "alone")])
        except AttributeError:
            failed.add(type(operation))
    return failed


async def test_trying_everything_finds_a_switch_that_was_never_tried(stage_of: MakeStage) -> None:
    """Reserves pass in both; the naive one falls over the first hold that ends."""
    stage = stage_of()
    stage.turn_on()
    assert await unanswered(stage.gate) == set()
    assert {Release, Extend} <= await unanswered(NaiveGate())
