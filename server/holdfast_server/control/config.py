"""Policies and credit types in memory: what every request is asked against, without I/O.

A background task asks the ledger for the number of the newest change and reads everything when it
rose. What cannot be read or makes no sense is refused with an alert, and what was known stays: in
memory, and on local disk for a process that starts while the ledger is away. A bad configuration
can therefore never stop a process, nor turn anything on or off.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from holdfast_server.control import config_file
from holdfast_server.domain.operation import Mode
from holdfast_server.domain.policy import PolicySet, StoreUnavailable, Subject, check_policy
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger.records import Configuration
from holdfast_server.telemetry.names import Alert
from holdfast_server.telemetry.recorder import Recorder

_log = logging.getLogger(__name__)

#: Name of the file in the state directory.
FILE = "config.json"
#: After so long without the ledger's word an alert is raised, once until the ledger is back.
STALE_SECONDS_MAX = 30.0
#: Time for one look at the ledger.
LOOK_SECONDS_MAX = 5.0
#: Pauses are shortened by up to this share, so that processes do not ask all at once.
JITTER = 0.5

#: A source of its own: nobody's seed makes processes march in step.
_CHANCE = random.Random()

_NOTHING = Configuration(0, {}, ())


class ConfigurationSource(Protocol):
    """Where the configuration comes from: the ledger. Both raise `HoldfastError`."""

    async def config_version(self) -> int:
        """The number of the newest change."""
        ...

    async def load_configuration(self) -> Configuration:
        """Everything, of one instant."""
        ...


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class ConfigCache:
    """Answers from memory; implements `Enforcement`. Belongs to one event loop."""

    def __init__(
        self,
        source: ConfigurationSource,
        state_dir: Path,
        recorder: Recorder,
        clock_ms: Callable[[], int] = _now_ms,
    ) -> None:
        """Starts with what the disk has, if it is whole; call `refresh` or `run` for more."""
        self._source = source
        self._path = state_dir / FILE
        self._recorder = recorder
        self._clock_ms = clock_ms
        self._configuration = _NOTHING
        self._policies = PolicySet()
        self._credit_types: frozenset[tuple[str, str]] = frozenset()
        self._confirmed = time.monotonic()
        self._stale = False
        self._looking = asyncio.Lock()
        self._looks_started = 0
        #: Whether the last look was answered.
        self._told = False
        self._restore()

    @property
    def version(self) -> int:
        """The number of the newest change that is applied."""
        return self._configuration.version

    def policies(self) -> PolicySet:
        """All policies that are applied."""
        return self._policies

    def mode(
        self, tenant: str, account: str, root: str, credit_types: Sequence[str], feature: str
    ) -> Mode:
        """See `Enforcement`."""
        subject = Subject(tenant, account, root, feature)
        return self._policies.mode(subject, credit_types, self._clock_ms())

    def idempotency_window_ms(self, tenant: str) -> int:
        """See `Enforcement`."""
        return self._policies.idempotency_window_ms(tenant, self._clock_ms())

    def knows_credit_type(self, tenant: str, credit_type: str) -> bool:
        """See `Enforcement`."""
        return (tenant, credit_type) in self._credit_types

    def store_unavailable(
        self, tenant: str, account: str, credit_type: str, feature: str
    ) -> StoreUnavailable:
        """What happens to one line of a request while the store is away."""
        # Dials play no part in this, so the root does not matter.
        subject = Subject(tenant, account, account, feature)
        return self._policies.store_unavailable(subject, credit_type, self._clock_ms())

    async def ensure_credit_type(self, tenant: str, credit_type: str) -> bool:
        """Whether a credit type is defined, after a look at the ledger if it is not known here.

        Any number of callers share one look, which begins after the last of them asked; so what was
        created before the call is always found. Raises LEDGER_UNAVAILABLE when there is no telling.
        """
        if self.knows_credit_type(tenant, credit_type):
            return True
        started = self._looks_started
        async with self._looking:
            if self._looks_started == started:
                await self._look()
            told = self._told
        known = self.knows_credit_type(tenant, credit_type)
        if not known and not told:
            message = "the ledger cannot be asked for the credit type; retry later"
            raise HoldfastError(Reason.LEDGER_UNAVAILABLE, message)
        return known

    async def refresh(self) -> bool:
        """Takes over what changed; False when the ledger's word could not be had or was refused."""
        async with self._looking:
            return await self._look()

    async def run(self, pause_ms: int) -> None:
        """Refreshes for ever, at least every `pause_ms`; end it by cancelling."""
        while True:
            await self.refresh()
            await asyncio.sleep(pause_ms / 1000 * (1 - JITTER * _CHANCE.random()))

    async def _look(self) -> bool:
        self._looks_started += 1
        self._told = await self._looked()
        return self._told

    async def _looked(self) -> bool:
        try:
            async with asyncio.timeout(LOOK_SECONDS_MAX):
                version = await self._source.config_version()
                if version != self.version:
                    await self._take_over(await self._source.load_configuration())
        except Exception as error:
            # Whatever it is, a process must outlive it.
            if _is_silence(error):
                self._note_silence()
            else:
                self._refuse(error)
            return False
        self._confirm()
        return True

    async def _take_over(self, configuration: Configuration) -> None:
        check_successor(self._configuration, configuration)
        self._apply(configuration)
        try:
            await asyncio.to_thread(config_file.save, self._path, configuration)
        except OSError:
            _log.exception("the configuration could not be kept on disk")

    def _apply(self, configuration: Configuration) -> None:
        self._policies = PolicySet(configuration.policies)
        self._credit_types = credit_types_of(configuration)
        self._configuration = configuration

    def _restore(self) -> None:
        try:
            configuration = config_file.load(self._path)
            if configuration is not None:
                check_successor(_NOTHING, configuration)
                self._apply(configuration)
        except (OSError, ValueError) as error:
            self._refuse(error)

    def _confirm(self) -> None:
        self._confirmed = time.monotonic()
        self._stale = False
        self._recorder.config(self.version)
        counting = self._policies.counting(self._clock_ms())
        self._recorder.policies(Counter(policy.mode for policy in counting))

    def _note_silence(self) -> None:
        if not self._stale and time.monotonic() - self._confirmed > STALE_SECONDS_MAX:
            self._stale = True
            self._recorder.alert(Alert.CONFIG_STALE)
            _log.error("the ledger has not confirmed the policies for long; the old ones hold")

    def _refuse(self, error: Exception) -> None:
        self._recorder.alert(Alert.CONFIG_REFUSED)
        facts = {"error": str(error), "version": self.version, "file": str(self._path)}
        _log.error("a configuration was refused; the old one holds", extra={"facts": facts})


def check_successor(before: Configuration, after: Configuration) -> None:
    """Raises ValueError for a configuration that must not replace another.

    Versions never fall and credit types never vanish: a ledger that says so was restored or
    emptied, and a person must decide. Whoever removes the file and restarts the process accepts it.
    """
    if after.version < before.version:
        raise ValueError(f"its version {after.version} is older than {before.version}")
    if not credit_types_of(before) <= credit_types_of(after):
        raise ValueError("it lacks credit types that there were before")
    for policy in after.policies:
        try:
            check_policy(policy)
        except HoldfastError as error:
            raise ValueError(f"a policy of {policy.scope} breaks a rule: {error}") from error


def _is_silence(error: Exception) -> bool:
    """Whether the ledger said nothing, rather than something that makes no sense."""
    if isinstance(error, HoldfastError):
        return error.reason is Reason.LEDGER_UNAVAILABLE
    return isinstance(error, TimeoutError)


def credit_types_of(configuration: Configuration) -> frozenset[tuple[str, str]]:
    """Every credit type, as pairs of tenant and code."""
    return frozenset(
        (tenant, each.code)
        for tenant, found in configuration.credit_types.items()
        for each in found
    )
