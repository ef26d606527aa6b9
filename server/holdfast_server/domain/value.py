"""Values that never change, made by the million.

mypy knows `@value(frozen=True, slots=True)` as the dataclass that it says it is, and refuses every
assignment to a field. At run time nothing guards the fields: the guard of a frozen dataclass takes
four times as long as all the rest of making one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:
    from dataclasses import dataclass

    def value(*, frozen: bool, slots: bool):
        """A dataclass with a hash, whose fields nobody assigns to."""
        return dataclass(slots=slots, unsafe_hash=frozen)


__all__ = ["value"]
