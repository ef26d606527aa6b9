"""What an answer warns of is an event, too: callers may pass over what they were granted with."""

from __future__ import annotations

import dataclasses
import logging

import pytest

from holdfast_server.api.auth.principal import DEVELOPMENT
from holdfast_server.api.call import Call, charged
from holdfast_server.api.submission import Submission
from holdfast_server.domain import operation as op
from holdfast_server.domain import reply as rp
from holdfast_server.domain.submit import Answer
from holdfast_server.telemetry.metrics import Metrics
from holdfast_server.telemetry.tracing import Span
from tests.api.recording import Recording

BURN = op.Burn("shop", "ada", (op.Line("ai", 5),), "k")
CROSSED = rp.Warning(rp.WarningKind.LIMIT_THRESHOLD, "team", "daily", "ai", 80)
EXCEEDED = rp.Warning(rp.WarningKind.SOFT_LIMIT_EXCEEDED, "team", "monthly", "ai", 100)
ANSWER = rp.BurnReply(
    rp.Decision(rp.Outcome.GRANTED, op.Mode.ENFORCE), rp.Applied(), (), (CROSSED, EXCEEDED)
)
CALL = Call(DEVELOPMENT, Span(), charged)


async def answered(answer: rp.BurnReply, metrics: Metrics) -> None:
    async def behave(_: op.Operation) -> Answer:
        return answer

    submission = Submission(Recording(behave), metrics)
    await submission.many(CALL, [CALL.caller], [BURN])


async def test_warnings_are_counted_and_a_crossing_is_told_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    metrics = Metrics({"service.name": "test"})
    try:
        await answered(ANSWER, metrics)
        replayed = dataclasses.replace(ANSWER.applied, replayed=True)
        await answered(dataclasses.replace(ANSWER, applied=replayed), metrics)
        page = metrics.page().decode()
    finally:
        metrics.close()
    assert 'holdfast_warnings_total{kind="LIMIT_THRESHOLD"} 1' in page
    assert 'holdfast_warnings_total{kind="SOFT_LIMIT_EXCEEDED"} 1' in page
    (record,) = caplog.records
    facts = vars(record)["facts"]
    told = {"tenant": "shop", "account": "team", "limit": "daily", "credit_type": "ai"}
    assert facts.items() >= {**told, "percent": 80}.items()
