"""What a process knows of epochs, and its copy of that."""

from __future__ import annotations

from pathlib import Path

from holdfast_server.control.epoch_copy import COPY_FILE, read_copy, write_copy
from holdfast_server.domain.epoch import Epoch, Epochs
from holdfast_server.engine.keys import Keys

KNOWN = [Epoch(1, 0, 1), Epoch(2, 0, 1), Epoch(3, 7, 1), Epoch(5, 9, 5)]


def known() -> Epochs:
    epochs = Epochs()
    epochs.learn({4: KNOWN})
    return epochs


def test_a_sequence_number_belongs_to_the_epoch_that_it_was_used_in() -> None:
    epochs = known()

    assert [epochs.of(4, seq, 5) for seq in (1, 7, 8, 9, 10)] == [2, 2, 3, 3, 5]
    assert epochs.of(4, 10, 3) == 3
    assert [epochs.end(4, epoch) for epoch in (2, 3, 5)] == [7, 9, None]


def test_an_epoch_begins_behind_the_one_before_or_is_none() -> None:
    epochs = known()

    assert [epochs.start(4, epoch) for epoch in (1, 3, 4, 5, 6)] == [0, 7, None, 9, None]
    assert [epochs.start(0, epoch) for epoch in (0, 1, 2)] == [None, 0, None]
    # Too long ago to be known any more.
    epochs.learn({4: KNOWN[2:]})
    assert [epochs.start(4, epoch) for epoch in (0, 1, 2, 3)] == [None, 0, 0, 7]


def test_keys_lie_where_their_data_began() -> None:
    keys = Keys(8, known())

    assert keys.state(4, 3) == "{p004}:e1:state"
    assert keys.state(4, 5) == "{p004}:e5:state"
    assert keys.state(0, keys.epoch(0)) == "{p000}:e1:state"


def test_a_copy_says_what_was_known(tmp_path: Path) -> None:
    write_copy(tmp_path, known().newest(2))

    assert read_copy(tmp_path) == {4: KNOWN[2:]}


def test_a_copy_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    assert read_copy(tmp_path) == {}
    (tmp_path / COPY_FILE).write_text('{"4": [["a"]]}')
    assert read_copy(tmp_path) == {}
