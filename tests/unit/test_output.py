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
