"""What must hold before a service starts, and what its first start writes down."""

from __future__ import annotations

import logging
from tempfile import TemporaryFile

from holdfast_server.app.certificates import check_certificates
from holdfast_server.app.deployment import learn_facts
from holdfast_server.app.problem import Problem
from holdfast_server.app.stores import open_ledger
from holdfast_server.engine.deployment import claim_store
from holdfast_server.engine.evictions import ADVICE, read_evictions
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.stores import open_store
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger.migrate import pending
from holdfast_server.ledger.records import DeploymentFacts
from holdfast_server.ledger.store import Ledger
from holdfast_server.recovery.coordinator import Coordinator, Stores
from holdfast_server.settings import Settings
from holdfast_server.telemetry.recorder import Recorder

log = logging.getLogger(__name__)


def warn_of_certificates(settings: Settings) -> None:
    """Says what callers will not like about certificates. Raises `Problem` when gRPC could not use
    them: it would be a port that it cannot have.
    """
    for flaw in check_certificates(settings):
        log.log(
            logging.ERROR if flaw.is_bad else logging.WARNING, "%s: %s", flaw.found, flaw.advice
        )


def check_state_dir(settings: Settings) -> None:
    """Every process keeps its socket there, and what must survive it. Raises `Problem`."""
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=settings.state_dir):
            pass
    except OSError as error:
        raise Problem(
            f"HOLDFAST_STATE_DIR is {settings.state_dir}, where no file can be made "
            f"({error.strerror}): let this user write there, or give another folder"
        ) from error


async def check_stores(settings: Settings) -> None:
    """Both stores are ours, and the schema is today's; the first start makes them ours.

    A store that is away is no reason not to start: see `deployment`. Raises `Problem`,
    `MigrationError`, and LEDGER_UNAVAILABLE where this host has never started before.
    """
    _check_urls(settings)
    await _check_schema(settings)
    async with open_ledger(settings) as ledger:
        facts = await learn_facts(settings, ledger)
        await _check_store(settings, ledger, facts)


def _check_urls(settings: Settings) -> None:
    for name, url in (("REDIS", settings.redis_url), ("POSTGRES", settings.postgres_url)):
        if not url:
            raise Problem(
                f"HOLDFAST_{name}_URL is not set: give the URLs of both stores, or run "
                "`holdfast up`, which brings its own"
            )


async def _check_schema(settings: Settings) -> None:
    try:
        missing = await pending(settings.postgres_url)
    except HoldfastError as error:
        log.warning("the schema cannot be checked: %s", error.message)
        return
    if missing:
        raise Problem(f"the ledger's schema lacks {missing[0]}: run `holdfast migrate`")


async def _check_store(settings: Settings, ledger: Ledger, facts: DeploymentFacts) -> None:
    """The hot store must not be another ledger's. What it has lost is made good, unless others who
    live may have another one: two hot stores of one ledger would fence each other for ever.
    """
    store = open_store(settings.redis_url)
    name = facts.name
    try:
        policies = (await read_evictions(store)).policies
        if policies:
            raise Problem(f"the hot store has maxmemory-policy {', '.join(policies)}: {ADVICE}")
        has_entries = any(seq for _, seq in (await ledger.flushed()).values())
        others = await ledger.count_living() if has_entries else 0
        holder = await claim_store(store, name, may_be_new=not others)
        if holder == name:
            keys = Keys(facts.partitions)
            stores = Stores(ledger, store, keys, settings.postgres_url, name)
            await Coordinator(stores, Recorder()).recover()
    except HoldfastError as error:
        if error.reason not in (Reason.STORE_UNAVAILABLE, Reason.LEDGER_UNAVAILABLE):
            raise
        log.warning("the hot store cannot be checked: %s", error.message)
        return
    finally:
        await store.close()
    if holder != name:
        raise Problem(_not_ours(holder))


def _not_ours(holder: str | None) -> str:
    if holder is None:
        return (
            "the hot store is empty but the ledger is not, and other processes work with it: "
            "HOLDFAST_REDIS_URL names another store than theirs, or they are about to recover it"
        )
    return (
        "the hot store belongs to another ledger: give the URLs of two stores that belong together"
    )
