"""Amounts as people and gateways write them: row A6 of the abuse matrix."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.domain.amount import parse_amount
from holdfast_server.domain.bounds import AMOUNT_MAX
from holdfast_server.errors import HoldfastError, Reason

MALFORMED = [
    *("", " ", " 12 ", "12 ", "\t12", "12\n", "1 2", "+1", "1_000", "1,000", "1.5", "1.0", ".5"),
    *("1e3", "1E3", "0x10", "0b1", "0o7", "007", "-0x1", "--1", "nan", "NaN", "inf", "-inf"),
    *(
        "Infinity",
        "null",
        "None",
        "true",
        "١٢٣",
        "\uff11\uff12",
        "²",
        "1\0",
        "1\u200b",
        "12n",
        "1/2",
    ),
]


@pytest.mark.parametrize("text", MALFORMED)
def test_a06_only_plain_integers_are_amounts(text: str) -> None:
    with pytest.raises(HoldfastError) as caught:
        parse_amount(text, field="lines[0].amount")
    assert caught.value.reason is Reason.AMOUNT_MALFORMED
    assert caught.value.metadata == {"field": "lines[0].amount"}


@pytest.mark.parametrize("text", ["0", "-1", "-9223372036854775808", "-" + "9" * 5_000])
def test_a01_a02_amounts_are_positive(text: str) -> None:
    with pytest.raises(HoldfastError) as caught:
        parse_amount(text)
    assert caught.value.reason is Reason.AMOUNT_NOT_POSITIVE


@pytest.mark.parametrize("text", [str(AMOUNT_MAX + 1), "1" + "0" * 16, "9" * 18, "9" * 10_000])
def test_a03_amounts_are_bounded(text: str) -> None:
    with pytest.raises(HoldfastError) as caught:
        parse_amount(text)
    assert caught.value.reason is Reason.AMOUNT_TOO_LARGE


def test_a_commit_may_be_of_nothing() -> None:
    assert parse_amount("0", minimum=0) == 0


@given(st.integers(1, AMOUNT_MAX))
def test_every_amount_is_read_as_it_is_written(amount: int) -> None:
    assert parse_amount(str(amount)) == amount


@given(st.text(max_size=20))
def test_what_is_read_has_one_spelling(text: str) -> None:
    try:
        amount = parse_amount(text, minimum=0)
    except HoldfastError:
        return
    assert str(amount) == text
