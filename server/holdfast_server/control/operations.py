"""Decides operations with both stores: the engine first, the ledger where the engine alone cannot.

The ledger is asked for idempotency keys that are too old to prove themselves, for holds and grants
that the hot store no longer knows, and for what a Refund may give back.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard

from holdfast_server.control.ended_holds import ended
from holdfast_server.control.refunds import plan_refund
from holdfast_server.control.stale_balance import stale_balance
from holdfast_server.domain import operation as op
from holdfast_server.domain import reply as rp
from holdfast_server.domain.entry import parse_transaction_id
from holdfast_server.domain.operation import Caller, Operation
from holdfast_server.domain.submit import Answer, Asked, among
from holdfast_server.domain.token import HoldToken
from holdfast_server.domain.twin.grants import RefundPlan
from holdfast_server.engine import failures
from holdfast_server.engine.engine import Engine
from holdfast_server.engine.facts import key_of, method_of
from holdfast_server.engine.fingerprint import fingerprint, first_difference, key_time_ms
from holdfast_server.engine.item import Flag
from holdfast_server.engine.pack import PROTECTED
from holdfast_server.engine.request import Called, NeedsLedger, Request
from holdfast_server.engine.unpack import Place
from holdfast_server.engine.watermark import Watermarks
from holdfast_server.errors import HoldfastError, Reason, new_reference
from holdfast_server.ledger.records import RecordedOperation
from holdfast_server.ledger.store import Ledger

#: How long to wait for an entry that the ledger does not have yet, before looking for it there:
#: less than a client gives a call, so that it hears why.
CATCH_UP_WAIT_S = 1.5
#: How often an operation is sent again after the ledger was asked.
ATTEMPTS_MAX = 5

#: Operations of one batch that ask the ledger at one time: as many as it has connections.
ASK_AT_ONCE_MAX = 8

#: A time-ordered key of this age is new without asking the ledger. The script has the last word.
PROVEN_AGE_MS_MAX = 120_000

Found = Mapping[tuple[str, str], RecordedOperation]

#: The hot store does not answer. For a question that changes nothing, a lost answer is no answer.
_AWAY = frozenset({Reason.STORE_UNAVAILABLE, Reason.RESULT_UNKNOWN, Reason.FENCED})

_LOG = logging.getLogger(__name__)


class CreditTypes(Protocol):
    """Knows which credit types a tenant has."""

    def knows_credit_type(self, tenant: str, credit_type: str) -> bool:
        """Whether it is known here to be defined; asks nobody."""
        ...

    async def ensure_credit_type(self, tenant: str, credit_type: str) -> bool:
        """Whether it is defined; asks the ledger before it says no."""
        ...


@dataclass(frozen=True, slots=True)
class Operations:
    """A `Submitter` over the engine and the ledger."""

    engine: Engine
    ledger: Ledger
    watermarks: Watermarks
    credit_types: CreditTypes

    async def submit(self, caller: Caller, operations: Sequence[Operation]) -> list[Answer]:
        """See `Submitter.submit`."""
        requests = await self._requests(operations)
        if len(operations) > 1:
            requests = await self._looked_up(requests)
        answers = await self._decide(caller, requests)
        await self._look_up(caller, operations, answers)
        for index, answer in enumerate(answers):
            if isinstance(answer, NeedsLedger):
                answers[index] = await self._with_ledger(caller, operations[index], answer)
            elif _store_is_away(answer) and isinstance(asked := operations[index], op.GetBalance):
                answers[index] = await self._stale_balance(asked, answer)
        return answers  # type: ignore[return-value]  # no NeedsLedger is left

    async def attempt(self, asked: Sequence[Asked]) -> list[Answer | None]:
        """See `Attempter.attempt`."""
        now_ms = time.time_ns() // 1_000_000
        found = await among([self._at_once(each, now_ms) for each in asked], self.engine.attempt)
        answers = [None if isinstance(each, NeedsLedger) else each for each in found]
        for index, answer in enumerate(answers):
            balance = asked[index].operation
            if _store_is_away(answer) and isinstance(balance, op.GetBalance):
                answers[index] = await self._stale_balance(balance, answer)
        return answers

    def _at_once(self, asked: Asked, now_ms: int) -> Called | None:
        """What is sent for an operation about which nobody has to be asked before or after."""
        operation = asked.operation
        request = None if _must_look_up(operation, now_ms) else self._ready(operation)
        return None if request is None else (asked.caller, request)

    # -- the engine ----------------------------------------------------------------------------

    async def _requests(self, operations: Sequence[Operation]) -> list[Request | Answer]:
        """What is sent for each operation. Whatever asks the ledger does so at the same time."""
        ready = [self._ready(each) for each in operations]
        pairs = zip(operations, ready, strict=True)
        asking = [operation for operation, request in pairs if request is None]
        asked = iter(await self._asked(asking) if asking else ())
        return [request or next(asked) for request in ready]

    async def _asked(self, operations: Sequence[Operation]) -> list[Request | Answer]:
        places = asyncio.Semaphore(ASK_AT_ONCE_MAX)

        async def ask(operation: Operation) -> Request | Answer:
            async with places:
                return await self._request(operation)

        return list(await asyncio.gather(*map(ask, operations)))

    def _ready(self, operation: Operation) -> Request | None:
        """What is sent for an operation about which nobody has to be asked before."""
        knows = self.credit_types.knows_credit_type
        if isinstance(operation, op.Refund):
            return None
        for name in op.credit_types_of(operation):
            if not knows(operation.tenant, name):
                return None
        return Request(operation)

    async def _request(self, operation: Operation) -> Request | Answer:
        try:
            await self._check_credit_types(operation)
            if not isinstance(operation, op.Refund):
                return Request(operation)
            return await self._refund_request(operation)
        except HoldfastError as error:
            return error

    async def _looked_up(self, requests: Sequence[Request | Answer]) -> list[Request | Answer]:
        """Asks the ledger for all keys of a batch that cannot prove themselves, before it is sent.

        A batch is decided in the order given, so none of it may have to wait for the ledger while
        what follows goes on. While the ledger is away, the hot store may still know the keys.
        """
        now_ms = time.time_ns() // 1_000_000
        asked = [
            index
            for index, each in enumerate(requests)
            if isinstance(each, Request) and _must_look_up(each.operation, now_ms)
        ]
        found = list(requests)
        if asked:
            try:
                checked = await self._all_checked([requests[index] for index in asked])
            except HoldfastError:
                return found
            for index, each in zip(asked, checked, strict=True):
                found[index] = each
        return found

    async def _look_up(
        self, caller: Caller, operations: Sequence[Operation], answers: list[Answer | NeedsLedger]
    ) -> None:
        """Asks the ledger at once for all keys of a batch that the hot store does not vouch for,
        and sends again what is new: for minutes after a recovery, that is whatever has a key.
        """
        asked = [
            index
            for index, each in enumerate(answers)
            if isinstance(each, NeedsLedger) and each.flag is Flag.LOOK_UP
        ]
        if not asked:
            return
        requests = await self._requests([operations[index] for index in asked])
        again: list[Answer | NeedsLedger]
        try:
            again = await self._decide(caller, await self._all_checked(requests))
        except HoldfastError as error:
            again = [error for _ in asked]
        for index, answer in zip(asked, again, strict=True):
            answers[index] = answer

    async def _all_checked(self, requests: Sequence[Request | Answer]) -> list[Request | Answer]:
        """The same requests, said to be new where the ledger does not know their keys, or what it
        knows. Raises LEDGER_UNAVAILABLE.
        """
        asked = [each for each in requests if isinstance(each, Request)]
        tenants = {each.operation.tenant for each in asked}
        known = {tenant: await self._found(tenant, asked) for tenant in tenants}
        return [
            await self._checked(each, known[each.operation.tenant])
            if isinstance(each, Request)
            else each
            for each in requests
        ]

    async def _found(self, tenant: str, asked: Sequence[Request]) -> Found:
        names = [_key_name(each.operation) for each in asked if each.operation.tenant == tenant]
        return await self.ledger.find_operations(tenant, names)

    async def _checked(self, request: Request, found: Found) -> Request | Answer:
        recorded = found.get(_key_name(request.operation))
        if recorded is None:
            return dataclasses.replace(request, checked=True)
        return await self._recorded_answer(request.operation, recorded)

    async def _refund_request(self, operation: op.Refund) -> Request | Answer:
        try:
            return Request(operation, refund=await self._refund_plan(operation))
        except HoldfastError as error:
            # What left too little may be this very refund, sent before under the same key.
            recorded = None
            if error.reason is Reason.REFUND_EXCEEDS_BURNED:
                recorded = await self._recorded(operation)
            return recorded or error

    async def _decide(
        self, caller: Caller, requests: Sequence[Request | Answer]
    ) -> list[Answer | NeedsLedger]:
        """Sends what can be sent, in one go, and puts the answers where they belong."""
        good = [request for request in requests if isinstance(request, Request)]
        decided = iter(await self.engine.decide(caller, good) if good else ())
        return [next(decided) if isinstance(request, Request) else request for request in requests]

    async def _check_credit_types(self, operation: Operation) -> None:
        for name in op.credit_types_of(operation):
            if not await self.credit_types.ensure_credit_type(operation.tenant, name):
                message = f"the credit type {name} is not defined; create it first"
                raise HoldfastError(Reason.CREDIT_TYPE_NOT_FOUND, message, credit_type=name)

    # -- what only the ledger knows ------------------------------------------------------------

    async def _with_ledger(
        self, caller: Caller, operation: Operation, needs: NeedsLedger
    ) -> Answer:
        """Asks the ledger and, where it does not know the answer, sends the operation again."""
        answer: Answer | NeedsLedger = needs
        try:
            for _ in range(ATTEMPTS_MAX):
                if not isinstance(answer, NeedsLedger):
                    return answer
                answer = await self._once(caller, operation, answer)
        except HoldfastError as error:
            return error
        message = "the account is refunded by too many at once; retry with the same key"
        return HoldfastError(
            Reason.LEDGER_UNAVAILABLE, message, retry_after_ms=int(CATCH_UP_WAIT_S * 1_000)
        )

    async def _once(
        self, caller: Caller, operation: Operation, needs: NeedsLedger
    ) -> Answer | NeedsLedger:
        if needs.flag is Flag.HOLD_MISSING:
            assert needs.token is not None
            return await self._missing_hold(caller, operation, needs.token)
        if needs.flag is Flag.GRANT_GONE:
            assert isinstance(operation, op.Revoke)
            return await self._spent_grant(caller, operation)
        if needs.flag is Flag.LOOK_UP and (recorded := await self._recorded(operation)):
            return recorded
        request = await self._request(operation)
        if isinstance(request, Request):
            request = dataclasses.replace(request, checked=True)
        return (await self._decide(caller, [request]))[0]

    async def _recorded(self, operation: Operation) -> Answer | None:
        """What the ledger says about an idempotency key."""
        found = await self.ledger.find_operation(operation.tenant, *_key_name(operation))
        return None if found is None else await self._recorded_answer(operation, found)

    async def _recorded_answer(self, operation: Operation, found: RecordedOperation) -> Answer:
        if found.fingerprint != fingerprint(operation):
            return failures.key_reused(first_difference(operation, found.fingerprint))
        account = getattr(operation, "account", "")
        root = await self.engine.root_of(operation.tenant, account) if account else ""
        place = Place(found.partition, found.epoch, root, replayed=True)
        return self.engine.recorded_reply(operation, found.answer, place)

    async def _missing_hold(
        self, caller: Caller, operation: Operation, token: HoldToken
    ) -> Answer | NeedsLedger:
        """Why a hold that the hot store does not know cannot be settled; if it was lost, it can."""
        hold = token.hold.hex()
        found = await self.ledger.find_hold(operation.tenant, hold)
        if found is None or found.state is rp.HoldState.OPEN:
            await self._catch_up(self.engine.partition_of(operation.tenant, token.root))
            found = await self.ledger.find_hold(operation.tenant, hold)
        if found is None and isinstance(operation, op.Commit):
            return await self._lost_hold(caller, operation, token)
        if found is None:
            return failures.failed(Reason.HOLD_NOT_FOUND, {})
        if found.state is rp.HoldState.OPEN:
            reference = new_reference()
            facts = {"hold": hold, "reference": reference}
            _LOG.critical(
                "a hold is open in the ledger and unknown to the hot store", extra={"facts": facts}
            )
            return failures.internal(reference)
        error = ended(operation, found)
        if isinstance(operation, op.Commit) and error.reason is Reason.HOLD_EXPIRED:
            await self.ledger.note_late_use(found, operation)
        return error

    async def _lost_hold(
        self, caller: Caller, operation: op.Commit, token: HoldToken
    ) -> Answer | NeedsLedger:
        """A Commit of a hold that was lost with the hot store is booked by what its token says."""
        if not self.engine.was_lost(operation.tenant, token):
            return failures.failed(Reason.HOLD_NOT_FOUND, {})
        if recorded := await self._recorded(operation):
            return recorded
        request = Request(operation, checked=True, is_lost=True)
        return (await self._decide(caller, [request]))[0]

    async def _spent_grant(self, caller: Caller, operation: op.Revoke) -> Answer | NeedsLedger:
        """A grant that is spent is revoked, too: what a refund gives back of it is taken."""
        tenant, account, grant_id = operation.tenant, operation.account, operation.grant_id
        credit_type = await self.ledger.find_grant(tenant, account, grant_id)
        if credit_type is None:
            root = await self.engine.root_of(tenant, account)
            await self._catch_up(self.engine.partition_of(tenant, root))
            credit_type = await self.ledger.find_grant(tenant, account, grant_id)
        if credit_type is None:
            return failures.failed(Reason.GRANT_NOT_FOUND, {"grant_id": grant_id})
        request = Request(operation, checked=True, spent_grant=credit_type)
        return (await self._decide(caller, [request]))[0]

    async def _catch_up(self, partition: int) -> None:
        """Waits until the ledger has what the hot store has now."""
        epoch = self.engine.current_epoch(partition)
        seq = await self.engine.current_seq(partition)
        if seq and not await self.watermarks.wait(partition, epoch, seq, CATCH_UP_WAIT_S):
            message = "the ledger is behind; retry with the same key in a moment"
            wait_ms = int(CATCH_UP_WAIT_S * 1_000)
            raise HoldfastError(Reason.LEDGER_UNAVAILABLE, message, retry_after_ms=wait_ms)

    async def _refund_plan(self, operation: op.Refund) -> RefundPlan:
        place = parse_transaction_id(operation.transaction_id)
        if place is not None and place[0] < self.engine.partitions:
            seq = await self.engine.current_seq(place[0])
            if 0 < place[2] <= seq:
                await self._catch_up(place[0])
                burned = await self.ledger.burned_by(operation.tenant, operation.transaction_id)
                if burned is not None:
                    return plan_refund(operation, burned)
        message = "no such transaction burned credits; use the id that Commit or Burn answered"
        name = operation.transaction_id
        raise HoldfastError(Reason.TRANSACTION_NOT_FOUND, message, transaction_id=name)

    async def _stale_balance(self, operation: op.GetBalance, answer: HoldfastError) -> Answer:
        """The ledger's figure while the hot store is away, or the store's error."""
        try:
            found = await stale_balance(self.ledger, operation.tenant, operation.account)
        except HoldfastError:
            return answer
        return found or answer


def _key_name(operation: Operation) -> tuple[str, str]:
    """Method and idempotency key."""
    return method_of(operation), key_of(operation)


def _must_look_up(operation: Operation, now_ms: int) -> bool:
    """Whether a key is so old, or so plain, that only the ledger can say that it is new."""
    if type(operation) not in PROTECTED:
        return False
    age_ms = now_ms - key_time_ms(key_of(operation))
    return not -PROVEN_AGE_MS_MAX <= age_ms <= PROVEN_AGE_MS_MAX


def _store_is_away(answer: object) -> TypeGuard[HoldfastError]:
    return isinstance(answer, HoldfastError) and answer.reason in _AWAY
