"""What the tests of control share: an engine that does as told, a gate around it, and patience."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from holdfast_server.control.gate import Gate
from holdfast_server.control.kill import KillSwitch
from holdfast_server.control.passage import Passage
from holdfast_server.control.replay import Replayer
from holdfast_server.control.spool import Spool
from holdfast_server.control.spool_files import read_segment, segments_of
from holdfast_server.control.spool_record import Record, Spooled, decode
from holdfast_server.domain.operation import (
    AccountTerms,
    BookUnenforced,
    Burn,
    Caller,
    Commit,
    CreateAccount,
    ExpireDue,
    Extend,
    GetBalance,
    Grant,
    GrantSource,
    GrantTerms,
    Line,
    Mode,
    Operation,
    Refund,
    Release,
    Reserve,
    Revoke,
    UpdateAccount,
)
from holdfast_server.domain.policy import (
    Policy,
    PolicySet,
    Scope,
    ScopeKind,
    StoreUnavailable,
    Subject,
)
from holdfast_server.domain.reply import (
    Applied,
    BalanceReply,
    BookReply,
    BurnReply,
    CommitReply,
    Decision,
    ExtendReply,
    HoldState,
    Outcome,
    ReleaseReply,
    ReserveReply,
)
from holdfast_server.domain.submit import Answer, Asked
from holdfast_server.domain.token import HoldToken, TokenKind, TokenSigner
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.telemetry.names import Alert, Cause, Replayed
from holdfast_server.telemetry.recorder import Recorder
from tests.support.asking import ask

CALLER = Caller("service", "a" * 32, "b" * 16)
SIGNER = TokenSigner({1: b"k" * 32}, 1)
NOW_MS = 1_700_000_000_000
LINES = (Line("ai", 100), Line("video", 5))

#: Where an engine put what it decided.
PLACED = Applied("1-1-9", 1, 1, 9)
GRANTED = Decision(Outcome.GRANTED, Mode.ENFORCE)
TOKEN_HELD = SIGNER.issue("t", HoldToken(TokenKind.HELD, "org", "org.user", b"h" * 16))
TOKEN_BYPASSED = SIGNER.issue(
    "t", HoldToken(TokenKind.BYPASSED, "org.user", "org.user", b"b" * 16, "chat", LINES)
)
TOKEN_OFF = SIGNER.issue("t", HoldToken(TokenKind.OFF, "org", "org.user", b"o" * 16, "chat", LINES))


@dataclass
class Reports(Recorder):
    """Remembers what the tests ask about."""

    passed: list[tuple[str, Cause]] = field(default_factory=list)
    results: list[Replayed] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    config_versions: list[int] = field(default_factory=list)
    kills: list[bool] = field(default_factory=list)

    def bypassed(self, method: str, cause: Cause) -> None:
        self.passed.append((method, cause))

    def replayed(self, result: Replayed) -> None:
        self.results.append(result)

    def alert(self, alert: Alert) -> None:
        self.alerts.append(alert)

    def config(self, version: int) -> None:
        self.config_versions.append(version)

    def killed(self, on: bool) -> None:
        self.kills.append(on)


@dataclass
class Engine:
    """Grants everything, and remembers what it was asked; or answers everything with `error`."""

    error: HoldfastError | None = None
    #: Answers by the key of an operation, before anything else.
    answers: dict[str, Answer] = field(default_factory=dict)
    #: Called with what is asked, before it is answered.
    watch: Callable[[Sequence[Operation]], None] = lambda _: None
    asked: list[Operation] = field(default_factory=list)
    callers: list[Caller] = field(default_factory=list)

    async def submit(self, caller: Caller, operations: Sequence[Operation]) -> list[Answer]:
        await asyncio.sleep(0)
        self.watch(operations)
        self.asked += operations
        self.callers += [caller] * len(operations)
        return [self._answer(operation) for operation in operations]

    async def attempt(self, asked: Sequence[Asked]) -> list[Answer | None]:
        return [answer for each in asked for answer in await self.submit(each[0], [each[1]])]

    def _answer(self, operation: Operation) -> Answer:
        key = getattr(operation, "key", "")
        return self.answers.get(key) or self.error or granted(operation)


_GRANTED: dict[type, Answer] = {
    Reserve: ReserveReply(GRANTED, PLACED, TOKEN_HELD),
    Burn: BurnReply(GRANTED, PLACED),
    Commit: CommitReply(GRANTED, PLACED, HoldState.COMMITTED),
    Release: ReleaseReply(GRANTED, PLACED),
    Extend: ExtendReply(GRANTED, PLACED),
    BookUnenforced: BookReply(PLACED),
}


def granted(operation: Operation) -> Answer:
    """What an engine with enough credits answers; what the gate never touches gets a balance."""
    return _GRANTED.get(type(operation), BalanceReply("org.user", (), (), 0, NOW_MS))


def unavailable(reason: Reason = Reason.STORE_UNAVAILABLE) -> HoldfastError:
    """The engine's answer when it has nobody to ask."""
    return HoldfastError(reason, "The store is away.")


@dataclass
class Rules:
    """Enforcement from a list of policies; also the directory of a store that knows one tree of
    the tenant t.
    """

    policies: Sequence[Policy] = ()
    roots: dict[str, str] = field(default_factory=dict)

    def mode(
        self, tenant: str, account: str, root: str, credit_types: Sequence[str], feature: str
    ) -> Mode:
        subject = Subject(tenant, account, root, feature)
        return PolicySet(self.policies).mode(subject, credit_types, NOW_MS)

    def idempotency_window_ms(self, tenant: str) -> int:
        return PolicySet(self.policies).idempotency_window_ms(tenant, NOW_MS)

    def knows_credit_type(self, tenant: str, credit_type: str) -> bool:
        return True

    def store_unavailable(
        self, tenant: str, account: str, credit_type: str, feature: str
    ) -> StoreUnavailable:
        subject = Subject(tenant, account, account, feature)
        return PolicySet(self.policies).store_unavailable(subject, credit_type, NOW_MS)

    def known(self, tenant: str, account: str) -> str | None:
        return self.roots.get(account) if tenant == "t" else None


class MakeStage(Protocol):
    """What the fixture `stage_of` gives: every call makes a stage in a folder of its own."""

    def __call__(
        self, engine: Engine = ..., rules: Rules = ..., *, spool_records_max: int = ...
    ) -> Stage: ...


@dataclass
class Stage:
    """A gate with everything around it."""

    folder: Path
    engine: Engine = field(default_factory=Engine)
    rules: Rules = field(default_factory=Rules)
    reports: Reports = field(default_factory=Reports)
    spool_bytes_max: int = 1_000_000
    spool_records_max: int = 1_000
    now_ms: int = NOW_MS
    #: Whether operations are tried at once first.
    attempted: bool = False

    def __post_init__(self) -> None:
        self.kill = KillSwitch(False, self.folder / "KILL", self.folder, self.reports)
        self.spool = Spool(
            self.folder / "spool", self.spool_bytes_max, self.spool_records_max, self.reports
        )
        self.gate = Gate(self.engine, self.kill, self.passage())
        self.replayer = Replayer(self.spool, self.engine, self.kill, SIGNER, self.reports)

    def passage(self) -> Passage:
        return Passage(
            self.rules, self.rules, SIGNER, self.spool, self.reports, lambda: self.now_ms
        )

    def turn_on(self) -> None:
        (self.folder / "KILL").touch()
        self.kill.look()

    def turn_off(self) -> None:
        (self.folder / "KILL").unlink()
        self.kill.look()

    async def one(self, operation: Operation) -> Answer:
        """The answer to a single operation."""
        return await ask(self.gate, CALLER, operation, attempted=self.attempted)

    def spooled(self) -> list[Spooled]:
        """What waits to be booked, in order."""
        return [record.operation for record in records_of(self.spool)]


def records_of(spool: Spool) -> list[Record]:
    """Everything that waits in a spool, in order."""
    paths = segments_of(spool._folder)
    records = [decode(raw) for path in paths for raw in read_segment(path).records]
    assert None not in records
    return [record for record in records if record is not None]


def reserve(key: str = "k", **changes: object) -> Reserve:
    """A Reserve of both credit types."""
    fields: dict[str, object] = {"account": "org.user", "lines": LINES, "feature": "chat"}
    # The fields vary from test to test.
    return Reserve(tenant="t", key=key, ttl_ms=60_000, **{**fields, **changes})  # type: ignore[arg-type]


def burn(key: str = "k", **changes: object) -> Burn:
    """A Burn of both credit types."""
    fields: dict[str, object] = {"account": "org.user", "lines": LINES, "feature": "chat"}
    return Burn(tenant="t", key=key, **{**fields, **changes})  # type: ignore[arg-type]


def outcome_of(answer: Answer) -> Outcome | Reason:
    """What was decided, or why nothing was."""
    if isinstance(answer, HoldfastError):
        return answer.reason
    decision = getattr(answer, "decision", GRANTED)
    assert isinstance(decision, Decision)
    return decision.outcome


async def until_async(
    look: Callable[[], Coroutine[None, None, None]],
    condition: Callable[[], bool],
    seconds: float = 10.0,
) -> None:
    """Looks again and again until a condition holds; fails when it does not in time."""
    deadline = time.monotonic() + seconds
    await look()
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)
        await look()


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Waits for a condition; fails when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


TENANT = Scope(ScopeKind.TENANT, "t")
MODES = {mode: [Policy(TENANT, mode)] for mode in Mode}
#: Every operation that spends without naming a hold.
SPENDING: tuple[Operation, ...] = (reserve("s1"), burn("s2"))
#: Every operation that the gate has nothing to say about.
OTHERS: tuple[Operation, ...] = (
    GetBalance("t", "org.user"),
    Refund("t", "1-1-1", "f1"),
    CreateAccount("t", "new", AccountTerms(), "a1"),
    UpdateAccount("t", "org", AccountTerms(), frozenset({"labels"}), "a2"),
    Grant("t", "org", GrantTerms("ai", 5, GrantSource.PURCHASE), "g1"),
    Revoke("t", "org", "0" * 32, "g2"),
    BookUnenforced("t", "org", LINES, "b1"),
    ExpireDue("t", "org"),
)
