"""The flusher's fast way with entries gives what the plain one gives."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_server.domain import columns as fast_columns
from holdfast_server.domain import entry as plain
from holdfast_server.domain import packed as fast
from holdfast_server.domain.bounds import AMOUNT_MAX
from holdfast_server.domain.entry import Context, Entry, EntryKind, GrantPosting
from holdfast_server.domain.operation import Mode
from holdfast_server.domain.reply import Buckets, HoldState
from holdfast_server.engine.outbox import OutboxEntry, OutboxEntryError, unpack
from tests.support.entries import Story, pack
from tests.support.ledger import packed

amounts = st.integers(-AMOUNT_MAX, AMOUNT_MAX)
counts = st.integers(1, AMOUNT_MAX)
texts = st.text(st.characters(codec="utf-8"), max_size=20) | st.just("long" * 200)
#: Names are checked before they come here: none has a zero.
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
ids = st.binary(min_size=16, max_size=16).map(bytes.hex)
nested = st.recursive(
    texts | amounts | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def buckets() -> st.SearchStrategy[Buckets]:
    return st.builds(Buckets, *[amounts] * 8)


entries: st.SearchStrategy[Entry] = st.builds(
    Entry,
    partition=st.integers(0, 4095),
    epoch=counts,
    seq=counts,
    kind=st.sampled_from(EntryKind),
    tenant=names,
    account=names,
    credit_type=names,
    version=counts,
    event_ms=st.integers(0, AMOUNT_MAX),
    delta=buckets(),
    after=buckets(),
    grants=st.lists(st.builds(GrantPosting, ids, *[amounts] * 5), max_size=3).map(tuple),
    first_seq=counts,
    mode=st.none() | st.sampled_from(Mode),
    hold=st.just("") | ids,
    actor=names,
    ends_hold=st.none() | st.sampled_from(HoldState),
    context=st.builds(
        Context,
        method=texts,
        key=texts,
        fingerprint=st.binary(max_size=32),
        feature=texts,
        labels=st.dictionaries(texts, texts, max_size=4),
        caller=texts,
        trace_id=texts,
        span_id=texts,
        reason=texts,
        detail=st.dictionaries(texts, nested, max_size=4),
    ),
    answer=st.binary(max_size=32),
    refund_of=names,
)


@given(entry=entries)
@settings(deadline=None)
def test_packed_entries_have_the_same_bytes_and_hash(entry: Entry) -> None:
    """I11: whichever way recorded an entry, anybody can recompute its hash from the columns."""
    columns = fast_columns.columns(packed(entry))
    assert bytes([plain.CANONICAL_LAYOUT]) + columns == plain.canonical(entry)
    assert fast_columns.chain_hash(bytes(32), columns) == plain.chain_hash(bytes(32), entry)


@given(entry=entries)
@settings(deadline=None)
def test_packed_entries_unpack_to_what_they_were(entry: Entry) -> None:
    assert fast.to_entry(packed(entry)) == entry


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        b"\x93\x01\x02",
        b"\x80",
        pack(Story().hold("ada", 1))[:-1],
        pack(Story().hold("ada", 1)) + b"\x00",
        pack(Story().account("ada"))[:-1],
        pack(Story().account("ada"))[:160],
        bytes([fast.LAYOUT + 1]) + pack(Story().hold("ada", 1))[1:],
    ],
)
def test_other_bytes_are_refused_with_what_was_found(raw: bytes) -> None:
    found = OutboxEntry(3, 1, 7, raw)

    with pytest.raises(OutboxEntryError) as caught:
        unpack(found)

    assert caught.value.found == found
    assert str(caught.value).startswith("3-1-7: ")


def test_bytes_that_hold_no_entry_are_refused_when_one_is_made_of_them() -> None:
    whole = pack(Story().hold("ada", 1))
    # The layout comes first, then the kind.
    kind = whole[:1] + bytes([99]) + whole[2:]
    for wrong in (kind, whole.replace(b"tenant", b"tenan\xff"), whole.replace(b"ada", b"\xff")):
        with pytest.raises(fast.MALFORMED):
            fast.to_entry(unpack(OutboxEntry(0, 1, 1, wrong)))
