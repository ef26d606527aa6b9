"""What a call is: where it goes, its bytes, how its answer is read. Pure; both clients use it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from holdfast import results
from holdfast._frames import read_batch
from holdfast._wire import read_hold, read_item_error
from holdfast.errors import HoldfastError, InternalError, InvalidRequest
from holdfast.kinds import Durability
from holdfast.v1 import balance_service_pb2 as pb
from holdfast.v1 import types_pb2

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
M = TypeVar("M", bound=Message)
P = TypeVar("P")

#: To look up a member of an enumeration takes longer than to compare it.
_MEMORY = Durability.MEMORY
#: One amount of the client's credit type, or an amount per credit type.
Amounts = int | Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a client fills into every request."""

    tenant: str
    credit_type: str


@dataclass(frozen=True, slots=True)
class Bypass(Generic[T_co]):
    """What a client that fails open answers by itself when no server can be reached."""

    answer: T_co
    #: True where there is nothing to send: the hold exists only in this client.
    always: bool = False
    #: True where work is done for this answer that nobody will book.
    unbooked: bool = False


@dataclass(slots=True)
class Call(Generic[T_co]):
    """One call. Sending the same object twice sends the same idempotency key twice."""

    path: str
    build: Callable[[Defaults], Message]
    read: Callable[[bytes], T_co]
    bypass: Bypass[T_co] | None = None
    #: Replaces the client's deadlines where the work behind the call takes long.
    timeout_ms: int | None = None

    def write(self, message: Any) -> bytes:
        """The request, from what `build` made."""
        written: bytes = message.SerializeToString()
        return written


class Kind(Generic[T_co]):
    """What all operations of one method have in common."""

    def __init__(
        self, method: str, response: type[M], read: Callable[[M], T_co], *, lasts: bool = False
    ) -> None:
        """`read` makes the result of the method's `response`. It `lasts` in any case where it is
        answered from the ledger.
        """
        self.path = BALANCE + method
        #: Its name in `BatchItem` and `BatchResult`.
        self.item = method.lower()
        self.read: Callable[[Any], T_co] = read
        self.decode = decoder(response, read)
        self.lasts = lasts


class Operation(Call[T_co]):
    """A call that can also travel with others, in a batch or a session: what is built is an item of
    these, which has the request in it.
    """

    __slots__ = ("durability", "fill", "is_slow", "kind")

    def __init__(
        self,
        kind: Kind[T_co],
        fill: Callable[[Any, Defaults], None],
        bypass: Bypass[T_co] | None = None,
        durability: Durability = Durability.UNSPECIFIED,
    ) -> None:
        """`fill` sets what is its own in an empty request, one field at least."""
        self.path, self.read, self.kind = kind.path, kind.decode, kind
        self.fill, self.bypass, self.timeout_ms = fill, bypass, None
        self.durability = durability
        #: Whether it is answered later than others, when it will last.
        self.is_slow = kind.lasts or durability > _MEMORY

    def build(self, defaults: Defaults) -> pb.BatchItem:
        """The operation as an item. What most do not say is not named: that costs as much as all
        the rest.
        """
        item = pb.BatchItem()
        request = getattr(item, self.kind.item)
        self.fill(request, defaults)
        if defaults.tenant:
            request.tenant = defaults.tenant
        if self.durability:
            request.durability = self.durability
        return item

    def write(self, message: pb.BatchItem) -> bytes:
        """The request without the item around it."""
        written: bytes = getattr(message, self.kind.item).SerializeToString()
        return written

    def read_result(self, result: pb.BatchResult) -> T_co:
        """The operation's own answer among the answers of many. Raises its error."""
        item = result.WhichOneof("result")
        if item == self.kind.item:
            return self.kind.read(getattr(result, item))
        if item == "error":
            raise read_item_error(result.error)
        raise InternalError("the server answered another kind of operation than was sent")


@dataclass(frozen=True, slots=True)
class Page(Generic[T_co]):
    """One page of a list; `next_token` is empty on the last."""

    items: tuple[T_co, ...]
    next_token: str


def decoder(message: type[M], read: Callable[[M], T]) -> Callable[[bytes], T]:
    """Reads an answer's bytes as `message`, and that as a result."""
    return _decoded(message.FromString, read)


def _decoded(parse: Callable[[bytes], P], read: Callable[[P], T]) -> Callable[[bytes], T]:
    def decode(data: bytes) -> T:
        try:
            return read(parse(data))
        except DecodeError as error:
            raise InternalError("the server's answer is no valid message") from error

    return decode


def as_now(amounts: Amounts) -> Amounts:
    """Amounts, whatever becomes of their mapping. Raises InvalidRequest for what is none."""
    if type(amounts) is int:
        return amounts
    if isinstance(amounts, Mapping):
        amounts = dict(amounts)
        if all(map(_is_whole, amounts.values())):
            return amounts
    elif _is_whole(amounts):
        return amounts
    raise InvalidRequest(
        "an amount is a whole number, or a mapping of credit types to whole numbers",
        reason="LINES_INVALID",
    )


def _is_whole(amount: object) -> bool:
    return isinstance(amount, int) and not isinstance(amount, bool)


def lines_of(amounts: Amounts, credit_type: str | None, defaults: Defaults) -> dict[str, int]:
    """Amounts per credit type: a bare integer is of `credit_type`, else of the client's."""
    if isinstance(amounts, int):
        return {credit_type or defaults.credit_type: amounts}
    if credit_type is not None:
        raise InvalidRequest(
            "give a credit type or a mapping by credit type, not both", reason="LINES_INVALID"
        )
    return dict(amounts)


def await_durable(transaction_id: str, seq: int, durability: Durability) -> Call[Durability]:
    """Waits until what was applied will last."""

    def build(defaults: Defaults) -> pb.AwaitDurableRequest:
        return pb.AwaitDurableRequest(
            tenant=defaults.tenant,
            transaction_id=transaction_id,
            seq=seq,
            durability=types_pb2.Durability.ValueType(durability),
        )

    def read(message: pb.AwaitDurableResponse) -> Durability:
        return Durability(message.durability)

    return Call(BALANCE + "AwaitDurable", build, decoder(pb.AwaitDurableResponse, read))


def list_holds(
    account: str, include_descendants: bool, page_token: str
) -> Call[Page[results.OpenHold]]:
    """One page of the open holds of an account."""

    def build(defaults: Defaults) -> pb.ListHoldsRequest:
        return pb.ListHoldsRequest(
            tenant=defaults.tenant,
            account=account,
            include_descendants=include_descendants,
            page_size=PAGE_SIZE,
            page_token=page_token,
        )

    def read(message: pb.ListHoldsResponse) -> Page[results.OpenHold]:
        return Page(tuple(map(read_hold, message.holds)), message.next_page_token)

    return Call(BALANCE + "ListHolds", build, decoder(pb.ListHoldsResponse, read))


def batch(operations: Sequence[Operation[Any]]) -> Call[list[Any]]:
    """All of `operations` in one call; each is answered by its own result or error."""

    def build(defaults: Defaults) -> pb.BatchRequest:
        return pb.BatchRequest(items=[operation.build(defaults) for operation in operations])

    def read(results: list[pb.BatchResult]) -> list[Any]:
        if len(results) != len(operations):
            raise InternalError("the server answered another number of operations than were sent")
        return [_read_item(*pair) for pair in zip(operations, results, strict=True)]

    return Call(BALANCE + "Batch", build, _decoded(read_batch, read))


def _read_item(operation: Operation[T], item: pb.BatchResult) -> T | HoldfastError:
    try:
        return operation.read_result(item)
    except HoldfastError as error:
        return error


#: The services' paths.
BALANCE = "/holdfast.v1.BalanceService/"
ACCOUNT = "/holdfast.v1.AccountService/"
GRANT = "/holdfast.v1.GrantService/"
CONTROL = "/holdfast.v1.ControlService/"
LEDGER = "/holdfast.v1.LedgerService/"
#: Items per page of every list: a page is read in well under a second.
PAGE_SIZE = 500
