"""Judges limits on an account and everything above it, counts use, and warns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from holdfast_server.domain.operation import LimitEnforcement, LimitUnit, LimitWindow
from holdfast_server.domain.reply import LimitUse, Warning, WarningKind
from holdfast_server.domain.twin import windows
from holdfast_server.domain.twin.state import AccountState, Count, Counter

#: At which part of what was granted to warn, in percent.
BALANCE_WARN_PERCENTS = (80, 95)


def settle_counters(path: list[AccountState], now_ms: int) -> None:
    """Brings every counter on the path to the present."""
    for state in path:
        for counter in state.counters:
            windows.settle_counter(counter, state.offsets, now_ms)


def matching(
    path: list[AccountState], feature: str, credit_type: str
) -> Iterator[tuple[AccountState, Counter]]:
    """The counters that count this feature and credit type (empty: the request itself)."""
    for state in path:
        for counter in state.counters:
            if windows.applies(counter.limit, feature, credit_type):
                yield state, counter


def exceeded(
    path: list[AccountState], feature: str, credit_type: str, amount: int
) -> Iterator[tuple[AccountState, Counter]]:
    """The hard limits that `amount` more would pass, after `settle_counters`."""
    for state, counter in matching(path, feature, credit_type):
        if counter.limit.enforcement is LimitEnforcement.HARD and amount > windows.remaining_of(
            counter
        ):
            yield state, counter


def remaining(path: list[AccountState], feature: str, credit_type: str, amount: int) -> int:
    """How much of `amount` every hard limit lets pass, after `settle_counters`."""
    for _, counter in matching(path, feature, credit_type):
        if counter.limit.enforcement is LimitEnforcement.HARD:
            amount = min(amount, windows.remaining_of(counter))
    return amount


def use_of(state: AccountState, counter: Counter, now_ms: int) -> LimitUse:
    """How much of a limit is used, after `settle_counters`."""
    resets = windows.resets_at_ms(counter, state.offsets, now_ms)
    return LimitUse(
        state.account,
        counter.limit.limit_id,
        counter.limit.maximum,
        windows.used_of(counter),
        resets,
    )


def count_use(
    path: list[AccountState], feature: str, credit_type: str, amount: int, now_ms: int
) -> tuple[list[Count], list[Warning]]:
    """Counts `amount` in every matching limit; answers what was counted where, and warnings."""
    counts: list[Count] = []
    warnings: list[Warning] = []
    for state, counter in matching(path, feature, credit_type):
        before = windows.used_of(counter)
        window = windows.window_at(counter.limit, state.offsets, now_ms)
        counted = windows.count(counter, window, amount)
        counts.append(Count(state.account, counter.number, window, counted, credit_type))
        warnings.extend(_limit_warnings(state, counter, before, windows.used_of(counter)))
    return counts, warnings


def give_back(
    accounts: dict[str, AccountState],
    counts: list[Count],
    credit_type: str,
    amount: int,
    now_ms: int,
) -> None:
    """Gives up to `amount` of one credit type (empty: the request) back to the windows it was
    counted in.
    """
    for count in counts:
        if count.credit_type != credit_type:
            continue
        part = min(amount, count.amount)
        count.amount -= part
        state = accounts.get(count.account)
        counter = _counter(state, count.counter)
        if state is not None and counter is not None:
            windows.settle_counter(counter, state.offsets, now_ms)
            windows.give_back(counter, count.window, part, now_ms)


def available_before(
    path: list[AccountState], credit_types: Iterable[str]
) -> dict[tuple[str, str], int]:
    """What is available on a path before something is drawn."""
    return {
        (state.account, name): state.credits[name].buckets["available"]
        for name in credit_types
        for state in path
        if name in state.credits
    }


def passed_balances(
    path: list[AccountState], before: dict[tuple[str, str], int], credit_types: Iterable[str]
) -> Iterator[Warning]:
    """Warns of what was drawn since `available_before`."""
    for name in credit_types:
        for state in path:
            was = before.get((state.account, name))
            if was is not None:
                now = state.credits[name].buckets["available"]
                yield from balance_warnings(state, name, was, now)


def balance_warnings(
    state: AccountState, credit_type: str, before: int, after: int
) -> Iterator[Warning]:
    """Warns when what is left of the credits that the last grant found passes a threshold."""
    topped = state.credits[credit_type].topped if credit_type in state.credits else 0
    if topped > 0:
        for percent in BALANCE_WARN_PERCENTS:
            if _crossed(topped, percent, topped - before, topped - after):
                yield Warning(
                    WarningKind.BALANCE_THRESHOLD, state.account, "", credit_type, percent
                )


def merge(old: list[Counter], new: list[Counter]) -> list[Counter]:
    """Keeps what was counted under a limit that still counts the same over the same window."""
    kept = {counter.limit.limit_id: counter for counter in old}
    for counter in new:
        before = kept.get(counter.limit.limit_id)
        if before is not None and _identity(before) == _identity(counter):
            counter.number, counter.used = before.number, before.used
            counter.level, counter.level_ms = before.level, before.level_ms
    return new


def _identity(counter: Counter) -> tuple[LimitUnit, LimitWindow, int, str, str]:
    limit = counter.limit
    return limit.unit, limit.window, limit.window_ms, limit.credit_type, limit.feature


def _counter(state: AccountState | None, number: int) -> Counter | None:
    if state is None:
        return None
    return next((counter for counter in state.counters if counter.number == number), None)


def _limit_warnings(
    state: AccountState, counter: Counter, before: int, after: int
) -> Iterator[Warning]:
    limit = counter.limit
    for percent in limit.warn_percents:
        if _crossed(limit.maximum, percent, before, after):
            yield Warning(
                WarningKind.LIMIT_THRESHOLD,
                state.account,
                limit.limit_id,
                limit.credit_type,
                percent,
            )
    if limit.enforcement is LimitEnforcement.SOFT and after > limit.maximum:
        yield Warning(
            WarningKind.SOFT_LIMIT_EXCEEDED, state.account, limit.limit_id, limit.credit_type, 100
        )


def _crossed(whole: int, percent: int, before: int, after: int) -> bool:
    """Whether use passed `percent` of `whole`, in arithmetic that stays exact in doubles."""
    threshold = (whole // 100) * percent + -(-(whole % 100) * percent // 100)
    return before < threshold <= after
