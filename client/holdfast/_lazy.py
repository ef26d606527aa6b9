"""Results that read a field of their message when somebody first looks at it.

An answer has some thirty fields, and most callers look at two. Reading all of them costs more than
everything else that the client does for a call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

Readers = Mapping[str, Callable[[Any], Any]]


class Lazy:
    """Base of a frozen dataclass with slots that may be made of a message. It is the same to look
    at, to compare, to copy and to pickle, whichever way it was made.
    """

    __slots__ = ("_unread",)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Reads a field that was not looked at before; it is not looked for again."""
            try:
                readers, message = _take(self)
                value = readers[name](message)
            except (AttributeError, KeyError) as error:
                about = f"{type(self).__name__!r} object has no attribute {name!r}"
                raise AttributeError(about) from error
            object.__setattr__(self, name, value)
            return value


_unread: Any = Lazy.__dict__["_unread"]
_give, _take = _unread.__set__, _unread.__get__


class _LazyDataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


R = TypeVar("R", bound=_LazyDataclass)


def reader(
    result: type[R], at_once: Readers | None = None, **later: Callable[[Any], Any]
) -> Callable[[Any], R]:
    """Makes results of messages, which MUST NOT change afterwards.

    Says how fields are read: some `at_once`, because their reading may fail. Those of which nothing
    is said are fields of the message under the same name.
    """
    slots = [(getattr(result, name).__set__, read) for name, read in (at_once or {}).items()]
    readers: Readers = {
        field.name: later.get(field.name) or attrgetter(field.name) for field in fields(result)
    }

    def made(message: Any) -> R:
        one = object.__new__(result)
        _give(one, (readers, message))
        for put, read in slots:
            put(one, read(message))
        return one

    return made
