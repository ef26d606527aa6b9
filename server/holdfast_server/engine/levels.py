"""Which durability the hot store can give, as its primaries say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from holdfast_server.domain.operation import Durability
from holdfast_server.engine.store import Store
from holdfast_server.errors import HoldfastError

#: A replica says every second how far it is. One that was silent for longer does not keep up.
REPLICA_SILENCE_SECONDS_MAX: Final = 2


@dataclass(frozen=True, slots=True)
class Levels:
    """What can be asked for. Of several primaries the weakest counts."""

    #: Replicas that follow a primary, and those of them that keep up with it.
    replicas: int = 0
    replicas_keeping_up: int = 0
    append_only: bool = False

    def gives(self, level: Durability, replicas_wanted: int) -> bool:
        """Whether waiting for a level makes sense."""
        if level is Durability.REPLICATED:
            return self.replicas >= replicas_wanted
        return self.append_only or level is not Durability.FSYNCED

    def said(self, replicas_wanted: int) -> str:
        """In words, with what is missing."""
        given = [level.name for level in Durability if self.gives(level, replicas_wanted)]
        missing = []
        if not self.append_only:
            missing.append("no FSYNCED without an append-only file")
        if self.replicas < replicas_wanted:
            missing.append(f"no REPLICATED with {self.replicas} of {replicas_wanted} replicas")
        return "; ".join([", ".join(given), *missing])


def levels_of(information: Mapping[str, Any]) -> Levels:
    """What the sections `replication` and `persistence` of one primary mean."""
    following = [each for each in _replicas(information) if each.get("state") == "online"]
    silences = (int(each.get("lag", 0)) for each in following)
    return Levels(
        replicas=len(following),
        replicas_keeping_up=sum(each <= REPLICA_SILENCE_SECONDS_MAX for each in silences),
        append_only=str(information.get("aof_enabled", "0")) == "1",
    )


def _replicas(information: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for number in range(int(information.get("connected_slaves", 0))):
        described = information.get(f"slave{number}")
        if isinstance(described, Mapping):
            yield described


class StoreLevels:
    """What the primaries said when they were last asked; nothing before that."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.now = Levels()

    async def look(self) -> None:
        """Asks them. What was known stays where one does not answer."""
        try:
            found = await self._store.information("replication", "persistence")
        except HoldfastError:
            return
        each = [levels_of(information) for information in found]
        self.now = Levels(
            min(one.replicas for one in each),
            min(one.replicas_keeping_up for one in each),
            all(one.append_only for one in each),
        )
