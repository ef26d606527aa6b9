"""The ledger's SQL: named queries, the schema of new installations, and the migrations.

A query begins with a line `-- its_name --`, followed by a comment that says what it is for. SQL is
only ever text of this package; values travel as parameters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import LiteralString

_NAME = re.compile(r"^-- (\w+) --$", re.MULTILINE)


def parse_queries(text: LiteralString) -> dict[str, LiteralString]:
    """Splits a file of named queries.

    Raises ValueError for text without a name and for a name used twice.
    """
    before, *parts = _NAME.split(text)
    if before.strip():
        raise ValueError("SQL before the first name")
    names = parts[0::2]
    if len(set(names)) != len(names):
        raise ValueError("a query name is used twice")
    return {name: body.strip() for name, body in zip(names, parts[1::2], strict=True)}


def read_sql(name: str) -> LiteralString:
    """A file of this package: as literal as the package's code, hence the type."""
    return resources.files(__name__).joinpath(name).read_text("utf-8")


def migration_names() -> list[str]:
    """The file names of all migrations, in the order in which they apply."""
    folder = resources.files(__name__).joinpath("migrations")
    return sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))


def _every_query() -> LiteralString:
    """The files of the folder `queries`, in a row: one for each thing that the ledger is asked."""
    folder = resources.files(__name__).joinpath("queries")
    return "\n".join(read_sql(f"queries/{file.name}") for file in folder.iterdir())


#: Every named query.
QUERIES: Mapping[str, LiteralString] = MappingProxyType(parse_queries(_every_query()))
