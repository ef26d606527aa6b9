"""Who makes the requests: organisations, their teams and users, with mixed grants, limits and debt.

A user's own credits are few, so that most requests also draw from the pools of the team and the
organisation above; some organisations are kept short, so that requests are denied, too.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from holdfast import GrantSource, Limit, LimitEnforcement, LimitUnit, LimitWindow

#: The unit of every request, and the second unit of requests that need a premium model.
CREDITS = "ai"
PREMIUM = "premium"

TEAMS_PER_ORGANISATION = 4
USERS_PER_TEAM = 8
#: Users per request of the trace: thousands for a trace of tens of thousands.
REQUESTS_PER_USER = 12
#: At least this many organisations, so that several partitions and branches are at work.
ORGANISATIONS_MIN = 4
#: At most this many: setting them up takes time that says nothing about the hot path.
ORGANISATIONS_MAX = 200

#: One organisation in so many is kept short of credits.
SHORT_EVERY = 8
#: How many teams may overdraw, users have a promotion that ends soon, and users are frozen.
OVERDRAFT_SHARE = 0.2
PROMOTION_SHARE = 0.5
FROZEN_SHARE = 0.01
#: How many users have a burst and a daily limit, and how many a sliding one.
BURST_SHARE = 0.1
SLIDING_SHARE = 0.05

#: How long promotions live that end while the traffic runs, and those that do not.
SOON_MS = (4_000, 20_000)
LATER_MS = 30 * 86_400_000

#: How much an average request costs, which is what pools are sized by.
REQUEST_COST = 2_200


@dataclass(frozen=True, slots=True)
class GrantPlan:
    """Credits to give. `lifetime_ms` 0: for ever; `delay_ms`: not before."""

    amount: int
    source: GrantSource
    priority: int
    credit_type: str = CREDITS
    lifetime_ms: int = 0
    delay_ms: int = 0
    #: In cents; 0 for credits given away.
    cost: int = 0


@dataclass(frozen=True, slots=True)
class AccountPlan:
    """An account to create, after its parent."""

    account: str
    parent: str
    grants: tuple[GrantPlan, ...]
    limits: tuple[Limit, ...] = ()
    overdraft: int = 0
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class Population:
    """Accounts by level, users last: no account of a level needs another of the same."""

    levels: tuple[tuple[AccountPlan, ...], ...]

    @property
    def users(self) -> tuple[AccountPlan, ...]:
        """Those who make requests."""
        return self.levels[-1]

    @property
    def accounts(self) -> list[str]:
        """Every account's id."""
        return [plan.account for level in self.levels for plan in level]


def plan_population(prefix: str, requests: int, seed: int) -> Population:
    """A population for so many requests. Ids begin with `prefix`; the same seed plans the same."""
    source = random.Random(seed)
    users = max(1, requests // REQUESTS_PER_USER)
    wanted = users // (TEAMS_PER_ORGANISATION * USERS_PER_TEAM)
    count = min(ORGANISATIONS_MAX, max(ORGANISATIONS_MIN, wanted))
    per_user = requests * REQUEST_COST // (count * TEAMS_PER_ORGANISATION * USERS_PER_TEAM)
    organisations: list[AccountPlan] = []
    teams: list[AccountPlan] = []
    members: list[AccountPlan] = []
    for number in range(count):
        short = number % SHORT_EVERY == SHORT_EVERY - 1
        organisation = f"{prefix}-org{number}"
        organisations.append(_organisation(organisation, per_user, short))
        for team_number in range(TEAMS_PER_ORGANISATION):
            team = f"{organisation}-team{team_number}"
            teams.append(_team(team, organisation, per_user, short, source))
            names = [f"{team}-user{user}" for user in range(USERS_PER_TEAM)]
            members.extend(_user(name, team, per_user, source) for name in names)
    return Population((tuple(organisations), tuple(teams), tuple(members)))


def _organisation(account: str, per_user: int, short: bool) -> AccountPlan:
    pool = per_user * TEAMS_PER_ORGANISATION * USERS_PER_TEAM // (10 if short else 1)
    bought = GrantPlan(pool, GrantSource.PURCHASE, 20, cost=max(1, pool // 100))
    premium = GrantPlan(
        max(1, pool // 50), GrantSource.PURCHASE, 20, PREMIUM, cost=max(1, pool // 20)
    )
    return AccountPlan(account, "", (bought, premium))


def _team(
    account: str, parent: str, per_user: int, short: bool, source: random.Random
) -> AccountPlan:
    pool = max(1, per_user * USERS_PER_TEAM // (20 if short else 3))
    plan = GrantPlan(pool, GrantSource.PLAN, 10, lifetime_ms=LATER_MS)
    later = GrantPlan(max(1, pool // 4), GrantSource.ROLLOVER, 5, delay_ms=source.randint(*SOON_MS))
    overdraft = pool // 10 if source.random() < OVERDRAFT_SHARE else 0
    return AccountPlan(account, parent, (plan, later), overdraft=overdraft)


def _user(account: str, parent: str, per_user: int, source: random.Random) -> AccountPlan:
    share = max(1, per_user // 4)
    soon = GrantPlan(share, GrantSource.PROMOTION, 0, lifetime_ms=source.randint(*SOON_MS))
    kept = GrantPlan(share, GrantSource.PLAN, 5, lifetime_ms=LATER_MS)
    grants = (soon, kept) if source.random() < PROMOTION_SHARE else (kept,)
    frozen = source.random() < FROZEN_SHARE
    return AccountPlan(account, parent, grants, _limits(source), frozen=frozen)


def _limits(source: random.Random) -> tuple[Limit, ...]:
    """For some users: a hard limit that few of them reach, a soft one that many do."""
    chance = source.random()
    if chance < BURST_SHARE:
        return (
            Limit("burst", LimitUnit.REQUESTS, LimitWindow.BURST, 20, window_ms=10_000),
            Limit(
                "day",
                LimitUnit.AMOUNT,
                LimitWindow.CALENDAR_DAY,
                REQUEST_COST * 10,
                LimitEnforcement.SOFT,
                credit_type=CREDITS,
            ),
        )
    if chance < BURST_SHARE + SLIDING_SHARE:
        return (Limit("window", LimitUnit.REQUESTS, LimitWindow.SLIDING, 10, window_ms=30_000),)
    return ()
