"""The front of the hot path: finds the tree, resolves the mode, asks the batcher, reads answers.

Single is a batch of one. What the hot store alone cannot answer comes back as a `NeedsLedger`, for
whoever can ask the ledger (control/operations.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from holdfast_server.domain import operation as op
from holdfast_server.domain import reply as rp
from holdfast_server.domain.entry import transaction_id
from holdfast_server.domain.epoch import Acknowledged
from holdfast_server.domain.operation import Caller, Mode, Operation
from holdfast_server.domain.policy import Enforcement
from holdfast_server.domain.submit import Answer, among
from holdfast_server.domain.token import HoldToken, TokenKind, TokenSigner
from holdfast_server.domain.zones import offsets_of
from holdfast_server.engine import failures
from holdfast_server.engine.accounts import AccountReader, HoldCursor, HoldPage
from holdfast_server.engine.batcher import Batcher
from holdfast_server.engine.cold import Name
from holdfast_server.engine.facts import Facts
from holdfast_server.engine.fingerprint import first_difference
from holdfast_server.engine.item import Flag, Item, Raw
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.off import off
from holdfast_server.engine.request import Called, Cold, NeedsLedger, Request
from holdfast_server.engine.roots import Roots
from holdfast_server.engine.unpack import Place, unpack_failure, unpack_last_seq, unpack_reply
from holdfast_server.errors import HoldfastError, Reason

#: Operations by what they need: those that spend, those that settle a hold, and all that are
#: prepared without asking anybody.
_SPENDING = (op.Reserve, op.Burn)
_SETTLING = (op.Commit, op.Release, op.Extend)
_HOT = frozenset({*_SPENDING, *_SETTLING, op.GetBalance})

#: How the answer of an operation is flagged that was decided, now or before; as plain numbers.
_FRESH, _REPLAYED = Flag.FRESH.value, Flag.REPLAYED.value

KnownRoots = Mapping[Name, str | HoldfastError]

#: How often an operation is sent again whose tree was not in the store.
BRING_ATTEMPTS_MAX = 3
#: How often an update without an expected version is tried against concurrent updates.
UPDATE_ATTEMPTS_MAX = 5


@dataclass(frozen=True, slots=True)
class Parts:
    """What an engine is made of."""

    batcher: Batcher
    roots: Roots
    accounts: AccountReader
    keys: Keys
    signer: TokenSigner
    enforcement: Enforcement
    acknowledged: Acknowledged = field(default_factory=Acknowledged)


class Engine:
    """Decides operations in the hot store."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @property
    def partitions(self) -> int:
        """How many partitions the deployment has."""
        return self._parts.keys.partitions

    def partition_of(self, tenant: str, root: str) -> int:
        """Where a tree is decided."""
        return self._parts.keys.partition(tenant, root)

    async def decide(
        self, caller: Caller, requests: Sequence[Request]
    ) -> list[Answer | NeedsLedger]:
        """Answers every request, in order; see `Submitter.submit`."""
        names = self._unknown(requests)
        try:
            roots = await self._parts.roots.find(names) if names else {}
        except HoldfastError as error:
            return [error for _ in requests]
        answers = await self._submit([(caller, each) for each in requests], roots)
        return await self._again(caller, requests, await self._bring(caller, requests, answers))

    async def attempt(self, called: Sequence[Called]) -> list[Answer | NeedsLedger | None]:
        """See `Attempter.attempt`: what needs nobody else, nor a tree to be brought."""
        names = self._unknown([request for _, request in called])
        try:
            found = await self._parts.roots.directory.find(names) if names else {}
        except HoldfastError as error:
            return [error for _ in called]
        roots = {name: root for name, root in found.items() if root}
        cold = found.keys() - roots.keys()
        hot = [None if _is_cold(each[1].operation, cold) else each for each in called]
        answers = await among(hot, lambda some: self._submit(some, roots))
        return [None if isinstance(answer, Cold) else answer for answer in answers]

    async def _submit(
        self, called: Sequence[Called], roots: KnownRoots
    ) -> list[Answer | NeedsLedger | Cold]:
        prepared = [
            self._hot(caller, request, roots)
            if type(request.operation) in _HOT
            else await self._prepare(caller, request, roots)
            for caller, request in called
        ]
        items = [item for item in prepared if isinstance(item, Item)]
        raws = iter(await self._parts.batcher.submit(items) if items else ())
        return [
            self._read(item, next(raws)) if isinstance(item, Item) else item for item in prepared
        ]

    async def _bring(
        self,
        caller: Caller,
        requests: Sequence[Request],
        answers: list[Answer | NeedsLedger | Cold],
    ) -> list[Answer | NeedsLedger]:
        """Brings the trees that are not in the store, and sends again what is about them."""
        for _ in range(BRING_ATTEMPTS_MAX):
            cold = {i: each for i, each in enumerate(answers) if isinstance(each, Cold)}
            if not cold:
                break
            outcomes = await self._parts.roots.bring(each.name for each in cold.values())
            again: dict[int, Request] = {}
            for index, each in cold.items():
                found = each.after(outcomes[each.name], requests[index])
                if isinstance(found, Request):
                    again[index] = found
                else:
                    answers[index] = found
            sent = await self._submit([(caller, each) for each in again.values()], {})
            for index, answer in zip(again, sent, strict=True):
                answers[index] = answer
        return [failures.ledger_behind() if isinstance(each, Cold) else each for each in answers]

    def _unknown(self, requests: Sequence[Request]) -> list[Name]:
        """The accounts whose roots this process does not remember."""
        names = [
            (operation.tenant, name)
            for request in requests
            if (name := _asked_account(operation := request.operation))
        ]
        return self._parts.roots.directory.unknown(names)

    def _root_of(self, operation: Operation, roots: KnownRoots) -> str:
        if isinstance(operation, op.CreateAccount) and not operation.terms.parent:
            return operation.account
        if isinstance(operation, op.ExpireDue):
            return operation.root
        name = (operation.tenant, _asked_account(operation))
        root = self._parts.roots.directory.known(*name) or roots.get(name, name[1])
        if isinstance(root, HoldfastError):
            raise root
        return root

    def _hot(self, caller: Caller, request: Request, roots: KnownRoots) -> Item | Answer:
        """What is sent for an operation that needs nobody to be asked before."""
        operation = request.operation
        if isinstance(operation, _SETTLING):
            return self._settlement(caller, request, operation)
        try:
            root = self._root_of(operation, roots)
        except HoldfastError as error:
            return error
        if isinstance(operation, _SPENDING):
            return self._spending(caller, request, operation, root)
        facts = Facts(caller, checked=request.checked, absent_to=request.absent_to)
        return self._place(operation, facts, root)

    async def _prepare(self, caller: Caller, request: Request, roots: KnownRoots) -> Item | Answer:
        try:
            return await self._item(caller, request, roots)
        except HoldfastError as error:
            return error

    async def _item(self, caller: Caller, request: Request, roots: KnownRoots) -> Item | Answer:
        operation = request.operation
        facts = Facts(
            caller,
            refund=request.refund,
            spent_grant=request.spent_grant,
            checked=request.checked,
            absent_to=request.absent_to,
        )
        if isinstance(operation, op.Refund):
            assert request.refund is not None
            root = await self.root_of(operation.tenant, request.refund.account)
            return self._place(operation, facts, root)
        root = self._root_of(operation, roots)
        if isinstance(operation, op.CreateAccount):
            facts = dataclasses.replace(facts, root=root, offsets=offsets_of(operation.terms.zone))
            if operation.terms.parent:
                # A name is claimed for good, so not for a place where no account can stand.
                await self._claim(operation, root)
        if isinstance(operation, op.UpdateAccount):
            facts = await self._update_facts(operation, facts, root)
        return self._place(operation, facts, root)

    def _place(self, operation: Operation, facts: Facts, root: str) -> Item:
        return Item(operation, facts, root, self._parts.keys.partition(operation.tenant, root))

    def _settlement(
        self, caller: Caller, request: Request, operation: op.Commit | op.Release | op.Extend
    ) -> Item | Answer:
        token = self._parts.signer.read(operation.tenant, operation.hold)
        if token is None or token.kind is not TokenKind.HELD:
            return failures.failed(Reason.HOLD_NOT_FOUND, {})
        facts = Facts(
            caller,
            token=token,
            checked=request.checked,
            absent_to=request.absent_to,
            is_lost=request.is_lost,
        )
        return self._place(operation, facts, token.root)

    def _spending(
        self, caller: Caller, request: Request, operation: op.Reserve | op.Burn, root: str
    ) -> Item | Answer:
        names = [line.credit_type for line in operation.lines]
        mode = self._parts.enforcement.mode(
            operation.tenant, operation.account, root, names, operation.feature
        )
        if mode is Mode.OFF:
            return off(operation, root, self._parts.signer)
        facts = Facts(caller, mode, checked=request.checked, absent_to=request.absent_to)
        return self._place(operation, facts, root)

    async def _claim(self, operation: op.CreateAccount, root: str) -> None:
        tenant, parts = operation.tenant, self._parts
        await parts.roots.reading(
            tenant, root, lambda: parts.accounts.check_parent(operation, root)
        )
        hydration = parts.roots.hydration
        await parts.roots.directory.claim(tenant, operation.account, root, hydration)

    async def _update_facts(self, operation: op.UpdateAccount, facts: Facts, root: str) -> Facts:
        account = await self._account(operation.tenant, operation.account, root)
        changes = {name: getattr(operation.terms, name) for name in operation.fields}
        terms = dataclasses.replace(account.terms, **changes)
        version = operation.expected_version or account.version
        facts = dataclasses.replace(facts, root=root, offsets=offsets_of(terms.zone))
        return dataclasses.replace(
            facts, terms=terms, version=version, created_ms=account.created_at_ms
        )

    async def _account(self, tenant: str, account: str, root: str) -> rp.Account:
        parts = self._parts
        return await parts.roots.reading(
            tenant, root, lambda: parts.accounts.get(tenant, account, root)
        )

    def _read(self, item: Item, raw: Raw | HoldfastError) -> Answer | NeedsLedger | Cold:
        if isinstance(raw, HoldfastError):
            return raw
        if raw.flag in (_FRESH, _REPLAYED):
            return self._reply(item, raw, raw.flag == _REPLAYED)
        if raw.flag == Flag.FAILED:
            error = self._failed(item, raw)
            is_missing = error.reason is Reason.ACCOUNT_NOT_FOUND
            return Cold(_tree_of(item), error) if is_missing else error
        if raw.flag == Flag.REUSED:
            return failures.key_reused(first_difference(item.operation, raw.answer))
        if raw.flag == Flag.COLD:
            return Cold(_tree_of(item))
        needs = NeedsLedger(Flag(raw.flag), item.facts.token)
        return Cold(_tree_of(item), needs) if needs.flag is Flag.HOLD_MISSING else needs

    def _reply(self, item: Item, raw: Raw, replayed: bool) -> rp.Reply:
        self._learn(item)
        epoch = self._epoch_of(item, raw) if replayed else raw.epoch
        place = Place(item.partition, epoch, item.root, replayed)
        reply = unpack_reply(item.operation, raw.answer, place, self._parts.signer)
        applied = getattr(reply, "applied", None)
        if applied is not None:
            self._parts.acknowledged.note(item.partition, epoch, applied.seq)
        return reply

    def _epoch_of(self, item: Item, raw: Raw) -> int:
        """The epoch in which an operation was decided whose answer is repeated now."""
        seq = unpack_last_seq(raw.answer)
        return self._parts.keys.epochs.of(item.partition, seq, raw.epoch)

    def _failed(self, item: Item, raw: Raw) -> HoldfastError:
        reason, metadata = unpack_failure(raw.answer)
        if reason is Reason.ACCOUNT_NOT_FOUND:
            self._parts.roots.directory.forget(item.operation.tenant, metadata["account"])
        if "first_seq" in metadata:
            first_seq = int(metadata.pop("first_seq"))
            epoch = self._parts.keys.epochs.of(item.partition, first_seq, raw.epoch)
            metadata["transaction_id"] = transaction_id(item.partition, epoch, first_seq)
        return failures.failed(reason, metadata)

    def recorded_reply(self, operation: Operation, raw: bytes, place: Place) -> rp.Reply:
        """The reply that the ledger recorded for an operation, marked as replayed."""
        return unpack_reply(operation, raw, place, self._parts.signer)

    def _learn(self, item: Item) -> None:
        """Remembers the tree of an account that is now known to exist."""
        if account := getattr(item.operation, "account", ""):
            tenant, directory = item.operation.tenant, self._parts.roots.directory
            if directory.known(tenant, account) != item.root:
                directory.learn(tenant, account, item.root)

    async def _again(
        self, caller: Caller, requests: Sequence[Request], answers: list[Answer | NeedsLedger]
    ) -> list[Answer | NeedsLedger]:
        """Tries an update again that met another one, unless the caller named a version."""
        for index, request in enumerate(requests):
            if isinstance(request.operation, op.UpdateAccount):
                answers[index] = await self._updated(caller, request, answers[index])
        return answers

    async def _updated(
        self, caller: Caller, request: Request, answer: Answer | NeedsLedger
    ) -> Answer | NeedsLedger:
        for _ in range(1, UPDATE_ATTEMPTS_MAX):
            if not _met_another(request.operation, answer):
                break
            sent = await self._submit([(caller, request)], {})
            (answer,) = await self._bring(caller, [request], sent)
        return answer

    async def get_account(self, tenant: str, account: str) -> rp.Account:
        """An account as it is. Raises ACCOUNT_NOT_FOUND."""
        return await self._account(tenant, account, await self.root_of(tenant, account))

    async def list_holds(
        self,
        tenant: str,
        account: str,
        include_descendants: bool,
        limit: int,
        after: HoldCursor | None,
    ) -> tuple[list[rp.OpenHold], HoldCursor | None]:
        """Open holds by expiry, and where the next page begins. Raises ACCOUNT_NOT_FOUND."""
        root = await self.root_of(tenant, account)
        page = HoldPage(include_descendants, limit, after)
        return await self._parts.roots.reading(
            tenant, root, lambda: self._parts.accounts.holds(tenant, account, root, page)
        )

    def current_epoch(self, partition: int) -> int:
        """The epoch that a partition is in."""
        return self._parts.keys.epoch(partition)

    def was_lost(self, tenant: str, token: HoldToken) -> bool:
        """Whether a hold was placed in an epoch that ended before it: then nobody has its entry."""
        placed = token.placed
        if placed is None:
            return False
        ended = self._parts.keys.epochs.end(self.partition_of(tenant, token.root), placed.epoch)
        return ended is not None and placed.seq > ended

    async def current_seq(self, partition: int) -> int:
        """The sequence number of the newest entry of a partition."""
        return await self._parts.accounts.current_seq(partition)

    async def root_of(self, tenant: str, account: str) -> str:
        """The root of an account's tree; the account itself when nothing else is known."""
        return await self._parts.roots.root_of(tenant, account)


def _tree_of(item: Item) -> Name:
    return item.operation.tenant, item.root


def _asked_account(operation: Operation) -> str:
    """The account by which an operation's tree is found; empty where it names the tree itself."""
    if isinstance(operation, op.CreateAccount):
        return operation.terms.parent
    return getattr(operation, "account", "")


def _is_cold(operation: Operation, cold: Collection[Name]) -> bool:
    """Whether somebody else has to be asked before an operation is sent."""
    name = (operation.tenant, _asked_account(operation)) if cold else None
    return name in cold or type(operation) not in _HOT


def _met_another(operation: Operation, answer: object) -> bool:
    return (
        isinstance(operation, op.UpdateAccount)
        and not operation.expected_version
        and isinstance(answer, HoldfastError)
        and answer.reason is Reason.VERSION_CONFLICT
    )
