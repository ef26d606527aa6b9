"""Results that read a field of their message when somebody first looks at it.

An answer has some thirty fields, and most callers look at two. Reading all of them costs more than
everything else that the client does for a call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

Readers = Mapping[str, Callable[[Any], Any]]


class Lazy:
    """Base of a frozen dataclass with slots that may be made of a message. It is the same to look
    at, to compare, to copy and to pickle, whichever way it was made.
    """

    __slots__ = ("_unread",)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Reads a field that was not looked at before; it is not looked for again."""
            read = _readers(self).get(name)
            if read is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            value = read(_message(self))
            object.__setattr__(self, name, value)
            return value


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


R = TypeVar("R", bound=_Dataclass)

_unread: Any = Lazy.__dict__["_unread"]
_give, _take = _unread.__set__, _unread.__get__


def _readers(result: object) -> Readers:
    """None for a result that was made of its fields: nothing of it is unread."""
    try:
        readers: Readers = _take(result)[0]
    except AttributeError:
        return {}
    return readers


def _message(result: object) -> Any:
    return _take(result)[1]


class Reader(Generic[R]):
    """Makes results of messages."""

    def __init__(self, result: type[R], **special: Callable[[Any], Any]) -> None:
        """Fields that are not `special` are those of the message under the same name."""
        self._result = result
        self._readers: Readers = {
            field.name: special.get(field.name) or attrgetter(field.name)
            for field in fields(result)
        }

    def __call__(self, message: object) -> R:
        """The result that this message is. The message MUST NOT change afterwards."""
        result = object.__new__(self._result)
        _give(result, (self._readers, message))
        return result
