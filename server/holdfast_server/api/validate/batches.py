"""Batches: what makes the whole of one wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast.v1 import balance_service_pb2 as balance
from holdfast_server.domain import bounds
from holdfast_server.errors import HoldfastError, Reason


def check_size(items: Sequence[balance.BatchItem]) -> None:
    """Raises BATCH_EMPTY or BATCH_TOO_LARGE unless there are 1 to 1,000 items."""
    if not items:
        message = "items must have at least one entry."
        raise HoldfastError(Reason.BATCH_EMPTY, message, field="items")
    if len(items) > bounds.BATCH_ITEMS_MAX:
        raise HoldfastError(
            Reason.BATCH_TOO_LARGE,
            f"items may have at most {bounds.BATCH_ITEMS_MAX} entries; send several batches.",
            maximum=bounds.BATCH_ITEMS_MAX,
            items=len(items),
        )


def check_distinct(items: Sequence[balance.BatchItem]) -> None:
    """Raises BATCH_DUPLICATE when two items carry one idempotency key for one method."""
    seen: set[tuple[str, str]] = set()
    for index, item in enumerate(items):
        kind = item.WhichOneof("operation")
        key = "" if kind is None or kind == "balance" else getattr(item, kind).idempotency_key
        if not kind or not key:
            continue
        if (kind, key) in seen:
            raise HoldfastError(
                Reason.BATCH_DUPLICATE,
                f"items[{index}] repeats the idempotency key of an earlier item.",
                index=index,
            )
        seen.add((kind, key))


def named_tenants(items: Sequence[balance.BatchItem]) -> dict[int, str]:
    """By index, the tenant that each item with an operation names; empty where it names none."""
    kinds = {index: item.WhichOneof("operation") for index, item in enumerate(items)}
    return {index: getattr(items[index], kind).tenant for index, kind in kinds.items() if kind}


def one_tenant(tenants: Mapping[int, str]) -> str:
    """The tenant of all items, by index; empty where no item has one.

    Raises BATCH_MIXED_SCOPE when items belong to different tenants.
    """
    first = next(iter(tenants.values()), "")
    for index, tenant in tenants.items():
        if tenant != first:
            raise HoldfastError(
                Reason.BATCH_MIXED_SCOPE,
                f"items[{index}] names another tenant than those before; send a batch per tenant.",
                index=index,
            )
    return first
