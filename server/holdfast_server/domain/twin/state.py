"""What is known about accounts, grants, holds and limits between two operations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from holdfast_server.domain.bounds import AMOUNT_MAX
from holdfast_server.domain.operation import AccountStatus, AccountTerms, Limit, Mode
from holdfast_server.domain.reply import BUCKETS, Buckets

#: The sources of a draw that is not a grant.
DEBT = "debt"
UNENFORCED = "unenforced"


@dataclass(slots=True)
class Grant:
    """A grant that still has something; `remaining` is not available while it is pending."""

    grant_id: str
    remaining: int
    priority: int
    #: 0 means never.
    expires_ms: int
    #: 0 for credits given away, 1 for credits paid for: free burns first.
    paid: int
    effective_ms: int
    repay: bool = True
    held: int = 0
    revoked: bool = False

    def burn_order(self) -> tuple[int, float, int, int, str]:
        """Smaller burns first (semantics section 2)."""
        return (
            self.priority,
            self.expires_ms or float("inf"),
            self.paid,
            self.effective_ms,
            self.grant_id,
        )

    def expired(self, now_ms: int) -> bool:
        """Whether its time is over."""
        return 0 < self.expires_ms <= now_ms


@dataclass(slots=True)
class Credit:
    """One credit type of one account."""

    version: int = 0
    buckets: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BUCKETS, 0))
    #: In burn order.
    grants: list[Grant] = field(default_factory=list)
    #: Not effective yet.
    pending: list[Grant] = field(default_factory=list)
    #: What was available when the last grant came, less what expired or was revoked since.
    topped: int = 0
    #: The parts of debt and unenforced that open holds pledge: nobody owes them yet, so that no
    #: grant
    #: repays them and no refund takes them back.
    pledged: dict[str, int] = field(default_factory=lambda: {DEBT: 0, UNENFORCED: 0})

    def settled(self, source: str) -> int:
        """The debt or unenforced use of work that was done."""
        return self.buckets[source] - self.pledged[source]

    def room(self) -> int:
        """How much the left side of the equation can grow and stay an exact integer."""
        promised = sum(grant.remaining for grant in self.pending)
        left = self.buckets["granted"] + self.buckets[DEBT] + self.buckets[UNENFORCED]
        return AMOUNT_MAX - left - promised

    def figures(self) -> Buckets:
        """The buckets as a value."""
        return Buckets(**self.buckets)

    def find(self, grant_id: str) -> Grant | None:
        """The effective grant of that id."""
        return next((grant for grant in self.grants if grant.grant_id == grant_id), None)

    def insert(self, grant: Grant) -> None:
        """Puts a grant where the burn order wants it."""
        self.grants.append(grant)
        self.grants.sort(key=Grant.burn_order)

    def forget(self, grant: Grant) -> None:
        """Drops a grant that has nothing left."""
        if grant.remaining == 0 and grant.held == 0:
            self.grants = [other for other in self.grants if other is not grant]


@dataclass(slots=True)
class Counter:
    """A limit and what was counted: per window or slice, or as the level of a burst bucket."""

    limit: Limit
    #: No other count of its account ever has this number: what was counted is given back only to
    #: the count that has it, whatever limit has the same id by then.
    number: int
    used: dict[int, int] = field(default_factory=dict)
    #: Burst only: amount times `window_ms` still in the bucket, as of `level_ms`.
    level: int = 0
    level_ms: int = 0


@dataclass(slots=True)
class AccountState:
    """An account, its credits and its counters."""

    account: str
    parent: str
    terms: AccountTerms
    created_ms: int
    #: (from_ms, offset_ms) pairs of the account's zone, rising; empty for UTC.
    offsets: tuple[tuple[int, int], ...] = ()
    version: int = 1
    credits: dict[str, Credit] = field(default_factory=dict)
    counters: list[Counter] = field(default_factory=list)
    open_holds: int = 0
    #: The last entry that a refund has to know of: of a refund, or of a grant that was revoked.
    last_refund_seq: int = 0
    #: Levels below this account that it ever had; never lowered, so a move may be refused too
    #: early, never too late.
    height: int = 0

    @property
    def status(self) -> AccountStatus:
        """What the account may do by itself."""
        return self.terms.status

    def credit(self, credit_type: str) -> Credit:
        """The credit type's state, empty at first."""
        return self.credits.setdefault(credit_type, Credit())

    def overdraft_room(self, credit_type: str) -> int:
        """How much more debt a Reserve may take on here."""
        limit = self.terms.overdraft_limits.get(credit_type, 0)
        debt = self.credits[credit_type].buckets[DEBT] if credit_type in self.credits else 0
        return max(0, limit - debt)


@dataclass(slots=True)
class Draw:
    """A part of a hold: from a grant of an account, or booked as debt or unenforced."""

    account: str
    #: A grant id, `DEBT` or `UNENFORCED`.
    source: str
    amount: int


@dataclass(slots=True)
class HoldLine:
    """What a hold holds of one credit type, in the order in which it was drawn."""

    credit_type: str
    requested: int
    draws: list[Draw]
    captured: int = 0

    @property
    def held(self) -> int:
        """The total of its draws."""
        return sum(draw.amount for draw in self.draws)

    def part(self, source: str) -> int:
        """The total of its draws from one source."""
        return sum(draw.amount for draw in self.draws if draw.source == source)


@dataclass(slots=True)
class Count:
    """What a hold counted under one limit: to be given back to that window."""

    account: str
    #: The number of the counter.
    counter: int
    window: int
    amount: int
    #: Empty when a request was counted.
    credit_type: str


@dataclass(slots=True)
class HoldRecord:
    """An open hold."""

    hold: str
    account: str
    feature: str
    mode: Mode
    placed_ms: int
    expires_ms: int
    lines: list[HoldLine]
    counts: list[Count]

    def line(self, credit_type: str) -> HoldLine | None:
        """The line of that credit type."""
        return next((line for line in self.lines if line.credit_type == credit_type), None)


@dataclass(slots=True)
class Tree:
    """A root account and all below it, with their open holds: what one decision may touch."""

    tenant: str
    root: str
    accounts: dict[str, AccountState] = field(default_factory=dict)
    holds: dict[str, HoldRecord] = field(default_factory=dict)

    def path(self, account: str) -> list[AccountState]:
        """The account and those above it, the root last; empty when it does not exist."""
        return list(self._climb(account))

    def _climb(self, account: str) -> Iterator[AccountState]:
        while account in self.accounts:
            state = self.accounts[account]
            yield state
            account = state.parent
