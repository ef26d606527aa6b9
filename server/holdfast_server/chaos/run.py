"""One chaos run: set up, break things under load, heal, wait for rest, check everything."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from holdfast_server.chaos.inject import Injector
from holdfast_server.chaos.plan import Fault, plan_faults
from holdfast_server.chaos.report import Options, Report, make_report
from holdfast_server.chaos.stack import Stack
from holdfast_server.chaos.trial import trial


@dataclass(frozen=True, slots=True)
class Listener:
    """Who hears how a run goes on."""

    phase: Callable[[str], None]
    fault: Callable[[Fault], None]


async def run(folder: Path, options: Options, listener: Listener) -> Report:
    """Breaks a service of its own below `folder`. The history is in `history.jsonl` there.

    Raises Problem when the service does not start before anything is broken.
    """
    faults = plan_faults(options.seed, options.seconds)
    listener.phase("starting")
    with (folder / "history.jsonl").open("w", encoding="utf-8") as file:
        async with Stack(folder) as stack, trial(stack, options.seed, file) as one:
            injector = Injector(stack, random.Random(f"inject/{options.seed}"))
            listener.phase("breaking")
            await injector.run(faults, listener.fault)
            listener.phase("checking")
            verdict = await one.end(injector.killed)
    return make_report(options, one.attempts.made, injector.done, verdict)
