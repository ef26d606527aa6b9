"""Limits: which window an instant lies in, what is used of it, and when it frees."""

from __future__ import annotations

from holdfast_server.domain.bounds import AMOUNT_MAX, SLIDING_SLICES
from holdfast_server.domain.operation import Limit, LimitUnit, LimitWindow
from holdfast_server.domain.twin.state import Counter

DAY_MS = 86_400_000


def applies(limit: Limit, feature: str, credit_type: str) -> bool:
    """Whether a limit counts a request for this feature, or this credit type (empty: the request
    itself).
    """
    if limit.feature not in ("", feature):
        return False
    if limit.unit is LimitUnit.REQUESTS:
        return credit_type == ""
    return credit_type != "" and limit.credit_type == credit_type


def offset_at(offsets: tuple[tuple[int, int], ...], instant_ms: int) -> int:
    """How far local time is ahead of UTC at an instant."""
    offset = 0
    for from_ms, offset_ms in offsets:
        if from_ms <= instant_ms:
            offset = offset_ms
    return offset


def month_of_day(day: int) -> int:
    """The month, counted from year 0, of a day counted from 1970-01-01 (proleptic Gregorian)."""
    shifted = day + 719_468
    era, day_of_era = divmod(shifted, 146_097)
    year_of_era = (
        day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096
    ) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    march_month = (5 * day_of_year + 2) // 153
    return (year_of_era + era * 400) * 12 + march_month + 2


def first_day_of_month(month: int) -> int:
    """The first day of a month as `month_of_day` counts it."""
    year, march_month = divmod(month - 2, 12)
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * march_month + 2) // 5
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * 146_097 + day_of_era - 719_468


def slice_ms(limit: Limit) -> int:
    """The length of one slice of a sliding window: a tenth, rounded up. With the one that now lies
    in aside, ten of them cover all of it.
    """
    return -(-limit.window_ms // SLIDING_SLICES)


def window_at(limit: Limit, offsets: tuple[tuple[int, int], ...], now_ms: int) -> int:
    """The number of the window or slice of an instant; for a burst bucket the instant itself."""
    if limit.window is LimitWindow.BURST:
        return now_ms
    if limit.window is LimitWindow.SLIDING:
        return now_ms // slice_ms(limit)
    day = (now_ms + offset_at(offsets, now_ms)) // DAY_MS
    return day if limit.window is LimitWindow.CALENDAR_DAY else month_of_day(day)


def calendar_end_ms(limit: Limit, offsets: tuple[tuple[int, int], ...], now_ms: int) -> int:
    """When the calendar window that `now_ms` lies in ends, by the offset that holds then."""
    window = window_at(limit, offsets, now_ms)
    day = window + 1 if limit.window is LimitWindow.CALENDAR_DAY else first_day_of_month(window + 1)
    local_ms = day * DAY_MS
    ends_ms = local_ms - offset_at(offsets, now_ms)
    # A zone may skip its midnight: then the day ends with the change.
    for from_ms, offset_ms in offsets:
        if now_ms < from_ms <= ends_ms:
            ends_ms = max(from_ms, local_ms - offset_ms)
    return ends_ms


def settle_counter(counter: Counter, offsets: tuple[tuple[int, int], ...], now_ms: int) -> None:
    """Forgets what has left the window."""
    limit = counter.limit
    if limit.window is LimitWindow.BURST:
        drained = (now_ms - counter.level_ms) * limit.maximum
        counter.level = max(0, counter.level - drained)
        counter.level_ms = now_ms
        return
    window = window_at(limit, offsets, now_ms)
    oldest = window - SLIDING_SLICES if limit.window is LimitWindow.SLIDING else window
    counter.used = {number: used for number, used in counter.used.items() if number >= oldest}


def used_of(counter: Counter) -> int:
    """What is used, after `settle_counter`. A burst bucket counts a part of a unit as one."""
    if counter.limit.window is LimitWindow.BURST:
        return -(-counter.level // counter.limit.window_ms)
    return min(AMOUNT_MAX, sum(counter.used.values()))


def remaining_of(counter: Counter) -> int:
    """What still fits, after `settle_counter`."""
    return max(0, counter.limit.maximum - used_of(counter))


def count(counter: Counter, window: int, amount: int) -> int:
    """Counts an amount in a window, after `settle_counter`; answers how much of it may be given
    back one day.
    """
    if counter.limit.window is LimitWindow.BURST:
        # Use beyond a second window is forgotten: one commit beyond all measure does not deny
        # for ever.
        limit, before = counter.limit, counter.level
        most = min(AMOUNT_MAX, 2 * limit.maximum * limit.window_ms)
        counter.level = max(before, min(most, before + amount * limit.window_ms))
        return (counter.level - before) // limit.window_ms
    counter.used[window] = min(AMOUNT_MAX, counter.used.get(window, 0) + amount)
    return amount


def give_back(counter: Counter, window: int, amount: int, now_ms: int) -> None:
    """Takes an amount back from the window it was counted in, if that is still remembered.

    From a burst bucket only what cannot have drained since it was counted.
    """
    limit = counter.limit
    if limit.window is LimitWindow.BURST:
        left = min(AMOUNT_MAX, amount * limit.window_ms) - (now_ms - window) * limit.maximum
        counter.level = max(0, counter.level - max(0, left))
    elif window in counter.used:
        counter.used[window] = max(0, counter.used[window] - amount)


def resets_at_ms(counter: Counter, offsets: tuple[tuple[int, int], ...], now_ms: int) -> int:
    """When all of the present use will have left, after `settle_counter`."""
    limit = counter.limit
    if limit.window is LimitWindow.BURST:
        return now_ms + -(-counter.level // limit.maximum)
    if limit.window is LimitWindow.SLIDING:
        newest = max((number for number, used in counter.used.items() if used), default=None)
        return now_ms if newest is None else (newest + SLIDING_SLICES + 1) * slice_ms(limit)
    return calendar_end_ms(limit, offsets, now_ms)


def retry_after_ms(
    counter: Counter, offsets: tuple[tuple[int, int], ...], now_ms: int, amount: int
) -> int:
    """After how long `amount` could fit; 0 when it never does."""
    limit = counter.limit
    if amount > limit.maximum:
        return 0
    if limit.window is LimitWindow.BURST:
        excess = counter.level - (limit.maximum - amount) * limit.window_ms
        return -(-excess // limit.maximum)
    if limit.window is LimitWindow.SLIDING:
        return _sliding_retry_ms(counter, now_ms, amount)
    return calendar_end_ms(limit, offsets, now_ms) - now_ms


def _sliding_retry_ms(counter: Counter, now_ms: int, amount: int) -> int:
    used = used_of(counter)
    for number in sorted(counter.used):
        used -= counter.used[number]
        if used + amount <= counter.limit.maximum:
            return (number + SLIDING_SLICES + 1) * slice_ms(counter.limit) - now_ms
    return 0
