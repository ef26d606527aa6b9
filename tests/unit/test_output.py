"""What commands print: texts that come from outside are shown as they are, and do nothing."""

from __future__ import annotations

import pytest

from holdfast_server.cli.output import Column, print_facts, print_rows


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("gets :key: or :fire:", "gets :key: or :fire:"),
        ("[red]b[/red]", "[red]b[/red]"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("title\x1b]0;x\x07", "title\\x1b]0;x\\x07"),
        ("\x9b2Jgone\r", "\\x9b2Jgone\\r"),
        ("größer ✓ 数", "größer ✓ 数"),
    ],
)
def test_a_text_is_shown_as_it_is(
    text: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_rows([text], [Column[str]("name", lambda each: each)], as_json=False)
    print_facts({"name": text}, text, as_json=False)
    heading, row, fact = (line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert (heading, row, fact) == ("name", shown, f"name:  {shown}")


def test_nothing_that_is_copied_is_cut_short_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    row = ("01a22e7b95547a83a0bc679c0fcea8fa", "2027-11-30 22:03:00.802Z", "for many reasons")
    columns = [
        Column[tuple[str, str, str]]("grant, in burn order", lambda each: each[0]),
        Column[tuple[str, str, str]]("expires", lambda each: each[1]),
        Column[tuple[str, str, str]]("why", lambda each: each[2], prose=True),
    ]
    for shown in (columns, columns[:2]):
        print_rows([row], shown, as_json=False)
        printed = capsys.readouterr().out
        assert row[0] in printed
        assert row[1] in printed
        assert "…" not in printed
        # Prose is broken, so that it takes no more room than it must.
        assert row[2] not in printed
