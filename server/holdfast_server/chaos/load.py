"""Callers that never give in: they reserve, settle and ask again, and write down every attempt."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from holdfast import AsyncClient, Durability, GrantSource, HoldfastError, new_key
from holdfast_server.chaos.history import Attempt, Attempts, Status, short_hash

CREDITS: Final = "chaos"
PREMIUM: Final = "chaos-premium"
#: How long one attempt may take, with all that the client sends again by itself.
TIMEOUT_MS: Final = 4_000
#: Pause of a caller between two attempts and between two courses: modest load.
RETRY_PAUSE_S: Final = 0.1
PAUSE_S: Final = (0.0, 0.04)
#: A caller asks so often until it knows the answer, except for those that give up.
ATTEMPTS_MAX: Final = 200
PATIENT_SHARE: Final = 0.8
#: How often an answered question is asked again, and how many ask it at the same time in a storm.
AGAIN_SHARE: Final = 0.1
STORM: Final = 3
#: Holds live long enough for their work, and short enough that a run ends.
TTL_MS: Final = 6_000
SHORT_TTL_MS: Final = 1_000
AMOUNT_MAX: Final = 200
#: What an account is given now and then.
GRANT: Final = 2_000

#: The field of a line that says what an operation moved, as the audit counts it.
_COUNTED: Final[Mapping[str, str]] = {
    "Reserve": "held",
    "Commit": "burned",
    "Burn": "burned",
    "Release": "returned",
    "Refund": "refunded",
}

Ask = Callable[[AsyncClient], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Question:
    """One operation, to be asked as often as it takes."""

    op: str
    key: str
    fingerprint: str
    ask: Ask
    #: The hold that it settles, and whether for good.
    hold: str = ""
    final: bool = False
    #: What it gives.
    amount: int = 0


@dataclass
class Caller:
    """One caller. The same seed chooses the same courses, however they end."""

    name: str
    clients: Sequence[AsyncClient]
    accounts: Sequence[str]
    attempts: Attempts
    source: random.Random
    ttl_ms: int = TTL_MS

    async def run(self, stopping: asyncio.Event) -> None:
        """Goes one course after the other; ends after the one that is under way."""
        courses: Mapping[Callable[[], Awaitable[object]], int] = {
            self._works: 50,
            self._captures: 10,
            self._fails: 10,
            self._burns: 10,
            self._dies: 5,
            self._storms: 7,
            self._refunds: 3,
            self._is_given: 5,
        }
        while not stopping.is_set():
            (course,) = self.source.choices(list(courses), list(courses.values()))
            await course()
            await asyncio.sleep(self.source.uniform(*PAUSE_S))

    # --- Courses --------------------------------------------------------------------------------

    async def _works(self) -> None:
        if hold := await self._placed():
            await self.answer(self._commit(hold, self._amount()))

    async def _captures(self) -> None:
        if hold := await self._placed():
            await self.answer(self._commit(hold, 1 + self._amount() // 4, final=False))
            await self.answer(self._commit(hold, self._amount()))

    async def _fails(self) -> None:
        if hold := await self._placed():
            await self.answer(self._release(hold))

    async def _dies(self) -> None:
        await self._placed(SHORT_TTL_MS)

    async def _burns(self) -> None:
        await self.answer(self._burn())

    async def _refunds(self) -> None:
        receipt = await self.answer(self._burn())
        if receipt is not None and receipt.applied.seq:
            name, key = receipt.applied.transaction_id, new_key()

            async def ask(client: AsyncClient) -> Any:
                return await client.refund(name, reason_code="chaos", key=key)

            await self.answer(Question("Refund", key, short_hash(name), ask))

    async def _storms(self) -> None:
        """Several ask the same at the same time, over different connections."""
        question = self._reserve(self.ttl_ms)
        answers = await self._together(question)
        if answers and answers[0].hold_id:
            await self._together(self._commit(answers[0].hold_id, self._amount()))

    async def _together(self, question: Question) -> list[Any]:
        answers = await asyncio.gather(*(self.answer(question) for _ in range(STORM)))
        return [each for each in answers if each is not None]

    async def _is_given(self) -> None:
        await self.answer(self.grant(self.source.choice(self.accounts), GRANT))

    async def _placed(self, ttl_ms: int = 0) -> str:
        result = await self.answer(self._reserve(ttl_ms or self.ttl_ms))
        return result.hold_id if result is not None else ""

    # --- Questions ------------------------------------------------------------------------------

    def _amount(self) -> int:
        return self.source.randint(1, AMOUNT_MAX)

    def _lines(self) -> dict[str, int]:
        lines = {CREDITS: self._amount()}
        return lines | {PREMIUM: 1} if self.source.random() < AGAIN_SHARE else lines

    def _reserve(self, ttl_ms: int) -> Question:
        account, lines, key = self.source.choice(self.accounts), self._lines(), new_key()

        async def ask(client: AsyncClient) -> Any:
            return await client.reserve(account, lines, ttl_ms=ttl_ms, feature="chaos", key=key)

        return Question("Reserve", key, short_hash(account, lines, ttl_ms), ask)

    def _commit(self, hold: str, amount: int, *, final: bool = True) -> Question:
        key = new_key()

        async def ask(client: AsyncClient) -> Any:
            return await client.commit(hold, {CREDITS: amount}, final=final, key=key)

        asked = short_hash(hold, amount, final)
        return Question("Commit", key, asked, ask, short_hash(hold), final)

    def _release(self, hold: str) -> Question:
        key = new_key()

        async def ask(client: AsyncClient) -> Any:
            return await client.release(hold, reason="chaos", key=key)

        return Question("Release", key, short_hash(hold), ask, short_hash(hold), True)

    def _burn(self) -> Question:
        account, lines, key = self.source.choice(self.accounts), self._lines(), new_key()

        async def ask(client: AsyncClient) -> Any:
            return await client.burn(account, lines, feature="chaos", key=key)

        return Question("Burn", key, short_hash(account, lines), ask)

    def grant(
        self,
        account: str,
        amount: int,
        credit_type: str = CREDITS,
        durability: Durability = Durability.UNSPECIFIED,
    ) -> Question:
        """Credits for an account."""
        key = new_key()

        async def ask(client: AsyncClient) -> Any:
            return await client.grant(
                account,
                amount,
                credit_type=credit_type,
                source=GrantSource.PURCHASE,
                key=key,
                durability=durability,
            )

        return Question("Grant", key, short_hash(account, amount, credit_type), ask, amount=amount)

    def create(self, account: str, parent: str) -> Question:
        """A new account."""
        key = new_key()

        async def ask(client: AsyncClient) -> Any:
            return await client.create_account(account, parent=parent, key=key)

        return Question("CreateAccount", key, short_hash(account, parent), ask)

    # --- Attempts -------------------------------------------------------------------------------

    async def answer(self, question: Question, *, patiently: bool = False) -> Any:
        """Asks until there is an answer, or gives up. Now and then asks again for the same."""
        patient = self.source.random() < PATIENT_SHARE or patiently
        again = self.source.random() < AGAIN_SHARE
        for _ in range(ATTEMPTS_MAX if patient else 1):
            result, retry = await self._attempt(question)
            if result is not None and again:
                await self._attempt(question)
            if result is not None or not retry:
                return result
            await asyncio.sleep(RETRY_PAUSE_S)
        return None

    async def _attempt(self, question: Question) -> tuple[Any, bool]:
        """The result of one attempt, or None and whether another one makes sense."""
        number = self.source.randrange(len(self.clients))
        process, invoked_s = f"{self.name}/{number}", time.monotonic()
        try:
            result = await question.ask(self.clients[number])
        except HoldfastError as error:
            status = Status.INFO if error.result_unknown else Status.FAIL
            self.attempts.add(
                Attempt(
                    question.op,
                    question.key,
                    question.fingerprint,
                    process,
                    invoked_s,
                    time.monotonic(),
                    status,
                    error.reason,
                    hold=question.hold,
                    final=question.final,
                )
            )
            return None, status is Status.INFO or error.retry_after_ms is not None
        self.attempts.add(_answered(question, process, invoked_s, result))
        return result, False


def _answered(question: Question, process: str, invoked_s: float, result: Any) -> Attempt:
    applied, decision = result.applied, getattr(result, "decision", None)
    placed, figures = getattr(result, "hold_id", ""), _figures(question.op, result)
    return Attempt(
        question.op,
        question.key,
        question.fingerprint,
        process,
        invoked_s,
        time.monotonic(),
        Status.OK,
        decision.outcome.name if decision else "",
        applied.transaction_id,
        applied.partition,
        applied.seq,
        applied.epoch,
        applied.durability.name,
        applied.replayed,
        short_hash(placed, figures, decision and decision.reason),
        sum(figures) or question.amount,
        question.hold or (short_hash(placed) if placed else ""),
        question.final,
        decision.mode.name if decision else "",
    )


def _figures(op: str, result: Any) -> list[int]:
    """What an operation moved, line by line: the same in every answer."""
    name = _COUNTED.get(op)
    return [getattr(line, name) for line in result.lines] if name else []
