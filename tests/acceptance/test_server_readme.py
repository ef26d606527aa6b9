"""server/README.md is true where a machine can tell."""

from __future__ import annotations

import re
from pathlib import Path

from holdfast_server.domain import bounds

ROOT = Path(__file__).parents[2]
README = (ROOT / "server/README.md").read_text()


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else f"{value:,}"


def test_limits_are_those_of_the_code() -> None:
    table = dict(re.findall(r"^\| `([A-Z_]+)` \| (.+) \|$", README, re.MULTILINE))
    limits = {name: value for name, value in vars(bounds).items() if name.isupper()}
    assert table == {name: _shown(value) for name, value in limits.items()}


def test_folders_are_those_that_there_are() -> None:
    section = README.partition("## Folder by folder")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.+`) \|", section, re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`(.+?)`", cell)]
    package = ROOT / "server/holdfast_server"
    real = [path.name for path in package.iterdir() if path.is_dir() or path.suffix == ".py"]
    assert sorted(named) == sorted(name for name in real if not name.startswith(("_", ".")))


def test_links_and_named_files_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert [link for link in links if not (ROOT / "server" / link).exists()] == []
    package = ROOT / "server/holdfast_server"
    files = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.(?:py|lua|sql))`", README))
    missing = [name for name in files if not _is_somewhere(package, name)]
    assert missing == []


def _is_somewhere(package: Path, name: str) -> bool:
    return any(package.rglob(name.rpartition("/")[2])) and (
        "/" not in name or any(str(path).endswith(name) for path in package.rglob("*.*"))
    )
