"""What random histories are made of."""

from __future__ import annotations

from hypothesis import strategies as st

from holdfast_server.domain import operation as op
from holdfast_server.domain.bounds import AMOUNT_MAX

#: account: parent. Five levels below `org`, and a second tree.
TREE = {
    "org": "",
    "team": "org",
    "user": "team",
    "key": "user",
    "task": "key",
    "pair": "org",
    "solo": "",
}
ACCOUNTS = list(TREE)
CREDIT_TYPES = ("ai", "video")
FEATURES = ("", "chat", "image")

accounts = st.sampled_from(ACCOUNTS)
features = st.sampled_from(FEATURES)
amounts = st.one_of(
    *[st.integers(1, 40)] * 4, st.integers(1, 400), st.sampled_from([1, AMOUNT_MAX])
)
small = st.integers(1, 120)
overdrafts = st.dictionaries(st.sampled_from(CREDIT_TYPES), st.integers(1, 50), max_size=2)
ttls = st.sampled_from([1_000, 2_000, 5_000, 60_000, 86_400_000])
modes = st.sampled_from([op.Mode.ENFORCE, op.Mode.ENFORCE, op.Mode.SHADOW])
overages = st.sampled_from(list(op.Overage))
fits = st.sampled_from(list(op.Fit))
statuses = st.sampled_from(
    [op.AccountStatus.ACTIVE] * 6 + [op.AccountStatus.FROZEN, op.AccountStatus.CLOSED]
)


@st.composite
def spending_lines(draw: st.DrawFn) -> tuple[op.Line, ...]:
    names = draw(st.lists(st.sampled_from(CREDIT_TYPES), min_size=1, max_size=2, unique=True))
    lines = []
    for name in names:
        amount = draw(amounts)
        lines.append(op.Line(name, amount, draw(st.integers(1, min(amount, 50)))))
    return tuple(lines)


@st.composite
def actual_lines(draw: st.DrawFn) -> tuple[op.CommitLine, ...]:
    names = draw(st.lists(st.sampled_from(CREDIT_TYPES), max_size=2, unique=True))
    return tuple(
        op.CommitLine(name, draw(st.one_of(st.none(), st.integers(0, 150)))) for name in names
    )


@st.composite
def account_limits(draw: st.DrawFn) -> tuple[op.Limit, ...]:
    return tuple(_limit(draw, index) for index in range(draw(st.integers(0, 3))))


def _limit(draw: st.DrawFn, index: int) -> op.Limit:
    unit = draw(st.sampled_from(list(op.LimitUnit)))
    window = draw(st.sampled_from(list(op.LimitWindow)))
    counted = window in (op.LimitWindow.SLIDING, op.LimitWindow.BURST)
    return op.Limit(
        f"limit{index}",
        unit,
        window,
        draw(st.integers(1, 300)),
        draw(st.sampled_from(list(op.LimitEnforcement))),
        draw(st.sampled_from([1_000, 7_777, 60_000])) if counted else 0,
        draw(st.sampled_from(CREDIT_TYPES)) if unit is op.LimitUnit.AMOUNT else "",
        draw(features),
    )


@st.composite
def account_terms(draw: st.DrawFn, parent: str) -> op.AccountTerms:
    overdraft = draw(overdrafts)
    zone = draw(st.sampled_from(["", "", "Europe/Berlin", "Pacific/Apia"]))
    return op.AccountTerms(
        parent, "", op.AccountStatus.ACTIVE, overdraft, draw(account_limits()), zone
    )
