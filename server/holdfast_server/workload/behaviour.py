"""What a request does with its hold: chosen by chance, the same for the same seed. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from holdfast_server.workload.population import CREDITS, PREMIUM
from holdfast_server.workload.trace import TraceRow

#: What a token read and a token written cost, in the smallest unit.
CONTEXT_TOKEN_COST = 1
GENERATED_TOKEN_COST = 4
#: How long writing a token takes here; the real thing takes some ten thousand times as long.
TOKEN_WORK_S = 0.000_1
#: No request works longer than this, whatever its tokens.
WORK_S_MAX = 0.5
#: A hold that nobody will settle lives this long, so that it expires while the traffic runs.
SHORT_TTL_MS = (1_000, 2_000)
#: A commit comes this long after its hold has expired.
LATENESS_S = 0.3
#: How many requests need a premium model, too.
PREMIUM_SHARE = 0.05
#: Captures of a stream before its final commit.
CAPTURES_MAX = 3


class Course(Enum):
    """How a request goes."""

    #: Reserve, work, commit the actual.
    WORKS = auto()
    #: The same through the client's context manager.
    BLOCK = auto()
    #: Captures parts while it works.
    STREAMS = auto()
    #: Burns in one step.
    BURNS = auto()
    #: Releases.
    FAILS = auto()
    #: Never comes back; the hold expires.
    DIES = auto()
    #: Comes back after its hold has expired.
    LATE = auto()
    #: Refunded afterwards; the refund is sent twice.
    REFUNDED = auto()
    #: Sends everything twice, as after a lost answer.
    REPEATS = auto()


#: How often a request goes each way, in percent.
PERCENT_OF: Mapping[Course, int] = {
    Course.WORKS: 59,
    Course.BLOCK: 12,
    Course.STREAMS: 8,
    Course.BURNS: 6,
    Course.FAILS: 7,
    Course.DIES: 4,
    Course.LATE: 1,
    Course.REFUNDED: 1,
    Course.REPEATS: 2,
}


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it will go. Amounts per credit type, in the smallest unit."""

    number: int
    account: str
    course: Course
    estimate: dict[str, int]
    actual: dict[str, int]
    work_s: float
    captures: int
    ttl_ms: int


def plan_request(number: int, row: TraceRow, accounts: list[str], seed: int) -> Request:
    """The course of a trace's row. Some accounts ask far more often than others, as users do."""
    source = random.Random(f"{seed}/{number}")
    account = accounts[int(len(accounts) * source.random() ** 1.5)]
    (course,) = source.choices(list(PERCENT_OF), list(PERCENT_OF.values()))
    used = max(
        1, row.context_tokens * CONTEXT_TOKEN_COST + row.generated_tokens * GENERATED_TOKEN_COST
    )
    # Nobody knows beforehand how much a model will write: estimates are high, some too low.
    guessed = max(1, round(used * source.triangular(0.7, 2.5, 1.3)))
    premium = source.random() < PREMIUM_SHARE
    return Request(
        number,
        account,
        course,
        {CREDITS: guessed} | ({PREMIUM: 1} if premium else {}),
        {CREDITS: used} | ({PREMIUM: 1} if premium else {}),
        min(WORK_S_MAX, row.generated_tokens * TOKEN_WORK_S),
        source.randint(1, CAPTURES_MAX),
        source.randint(*SHORT_TTL_MS),
    )
