"""A process that decides, killed at exact points or with a clock that is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.domain import operation as op
from holdfast_server.engine.scripts import Clock
from tests.faults.burn_process import ACCOUNT, TTL_MS
from tests.faults.faketime import LIBRARY, needs_faketime
from tests.support.pair import Real, build
from tests.support.waiting import WAIT_SECONDS

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
BURNS = 6
#: Which burn is under way when the process dies.
DEADLY = 3
HOUR_MS = 3_600_000
#: How far two clocks of one machine may be apart, on a machine that does other things.
APART_MS_MAX = 60_000


@pytest.fixture
async def real(valkey_url: str) -> AsyncIterator[Real]:
    """An engine by the store's clock, and an account with credits."""
    built = build(valkey_url, clock=Clock.STORE)
    await built.decide([op.CreateAccount("t", ACCOUNT, op.AccountTerms(), "1")])
    terms = op.GrantTerms("ai", 100, op.GrantSource.PURCHASE)
    await built.decide([op.Grant("t", ACCOUNT, terms, "2")])
    yield built
    await built.store.close()


async def burned(real: Real) -> int:
    (balance,) = await real.decide([op.GetBalance("t", ACCOUNT)])
    return int(balance.credits[0].buckets.burned)


async def burn(url: str, variables: Mapping[str, str]) -> dict[str, Any] | None:
    """What the process said; None when it was killed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.burn_process", url, str(BURNS)),
        cwd=ROOT,
        env={**os.environ, "HOLDFAST_ENV": "test", **variables},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), WAIT_SECONDS)
    if process.returncode == -signal.SIGKILL:
        return None
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(output)
    return found


@pytest.mark.parametrize(
    ("point", "applied"), [("app.before_eval", DEADLY - 1), ("app.after_eval", DEADLY)]
)
async def test_killed_around_a_decision(
    real: Real, valkey_url: str, point: str, applied: int
) -> None:
    """F1, F2: killed before or after the script; the retry applies once, or finds the answer."""
    variables = {"HOLDFAST_FAILPOINTS": f"{point}=kill:{DEADLY}"}
    assert await burn(valkey_url, variables) is None
    assert await burned(real) == applied
    again = await burn(valkey_url, {})
    assert again is not None
    assert again["again"] == list(range(applied))
    assert await burned(real) == BURNS


@needs_faketime
@pytest.mark.parametrize("hours", [1, -1])
async def test_the_clock_of_the_application_is_wrong(
    real: Real, valkey_url: str, hours: int
) -> None:
    """F43: only the store's clock counts."""
    variables = {"LD_PRELOAD": LIBRARY, "FAKETIME": f"{hours:+}h", "DONT_FAKE_MONOTONIC": "1"}
    said = await burn(valkey_url, variables)
    now_ms = time.time_ns() // 1_000_000
    assert said is not None
    assert abs(said["now_ms"] - now_ms - hours * HOUR_MS) < APART_MS_MAX
    assert abs(said["expires_at_ms"] - now_ms - TTL_MS) < APART_MS_MAX
    assert await burned(real) == BURNS
