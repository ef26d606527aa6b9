"""A tree as figures, so that what the hot store has and what the ledger says can be compared.

Both stores describe a tree in the same flat way: a name for each figure, and the figure. A figure
that a side does not have is 0. So whatever either side lacks, or has too much, is a difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from holdfast_server.domain.reply import BUCKETS

#: How many buckets, from the first, are on the left side of the equation.
SOURCES: Final = 3

#: Of an account or credit: how often it has changed. Of an account: how many holds it has open.
VERSION: Final = "version"
OPEN_HOLDS: Final = "open holds"
#: Of a grant: what is left and what is held of it. Of a hold: what it holds, and that it is open.
REMAINING: Final = "remaining"
HELD: Final = "held"
OPEN: Final = "open"


class Figure(NamedTuple):
    """What a number says: of which account and credit type, of which grant or hold, and what.

    `credit_type` is empty for what is not about credits; `part` is "grant ID", "hold ID", or empty.
    """

    account: str
    credit_type: str
    part: str
    name: str

    @property
    def what(self) -> str:
        """For people: "available", or "grant ID remaining"."""
        return f"{self.part} {self.name}".lstrip()


Figures = Mapping[Figure, int]


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure that is not the same in both stores.

    `version` is that of the account's credits, as the hot store has it.
    """

    figure: Figure
    hot: int
    ledger: int
    version: int = 0


def grant_part(grant_id: str) -> str:
    """The part of a credit that is one grant, by its 32 hexadecimal digits."""
    return f"grant {grant_id}"


def hold_part(hold: str) -> str:
    """The part of a credit that one hold holds, by its 32 hexadecimal digits."""
    return f"hold {hold}"


def differences(hot: Figures, ledger: Figures) -> list[Difference]:
    """Every figure that is not the same, in order."""
    return [
        Difference(figure, hot.get(figure, 0), ledger.get(figure, 0), _version(figure, hot))
        for figure in sorted(hot.keys() | ledger.keys())
        if hot.get(figure, 0) != ledger.get(figure, 0)
    ]


def newest_only(figures: Figures) -> Figures:
    """Versions and buckets of credits: what the newest entry of each says by itself."""
    return {
        figure: value for figure, value in figures.items() if figure.credit_type and not figure.part
    }


def contradictions(hot: Figures) -> list[Difference]:
    """What cannot be, whatever the ledger says: I2, I3, I4, and that grants add up.

    `ledger` of such a difference is what the hot store's other figures make of the figure.
    """
    return [
        replace(each, version=_version(each.figure, hot))
        for each in _implied(hot)
        if each.hot != each.ledger
    ]


def _version(figure: Figure, hot: Figures) -> int:
    return hot.get(Figure(figure.account, figure.credit_type, "", VERSION), 0)


def _implied(hot: Figures) -> Iterator[Difference]:
    held, remaining = _sum_of("hold", HELD, hot), _sum_of("grant", REMAINING, hot)
    for account, credit_type in sorted({figure[:2] for figure in hot if figure.credit_type}):
        place = account, credit_type
        amounts = [hot.get(Figure(*place, "", name), 0) for name in BUCKETS]
        of = dict(zip(BUCKETS, amounts, strict=True))
        sums = sum(amounts[:SOURCES]), sum(amounts[SOURCES:])
        yield Difference(Figure(*place, "sum of buckets", "sources"), *sums)
        yield Difference(Figure(*place, "sum of holds", HELD), of["held"], held[place])
        grants = Figure(*place, "sum of grants", "available")
        yield Difference(grants, of["available"], remaining[place])
        for name, amount in of.items():
            yield Difference(Figure(*place, "at least 0", name), amount, max(0, amount))


def _sum_of(kind: str, name: str, hot: Figures) -> Counter[tuple[str, str]]:
    """The sums of one figure over all grants or holds, by account and credit type."""
    sums = Counter[tuple[str, str]]()
    for figure, value in hot.items():
        if figure.name == name and figure.part.startswith(f"{kind} "):
            sums[figure.account, figure.credit_type] += value
    return sums
