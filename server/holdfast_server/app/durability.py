"""Which durability this deployment promises, demands and can give."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from holdfast_server.control.looking import keep_looking
from holdfast_server.domain import operation as op
from holdfast_server.domain.operation import Durability, Operation
from holdfast_server.engine.levels import Levels, StoreLevels
from holdfast_server.settings import Settings
from holdfast_server.telemetry.names import Alert
from holdfast_server.telemetry.recorder import Recorder

#: Pause between two looks at what the hot store can give.
LOOK_SECONDS = 1.0

log = logging.getLogger(__name__)


def least_durabilities(settings: Settings) -> Mapping[type[Operation], Durability]:
    """The least durability of each kind of operation, whatever is asked."""
    least = {
        op.Reserve: settings.reserve_durability_min,
        op.Commit: settings.commit_durability_min,
        op.Release: settings.release_durability_min,
        op.Burn: settings.burn_durability_min,
        op.Refund: settings.refund_durability_min,
        op.Grant: settings.grant_durability_min,
        op.Revoke: settings.revoke_durability_min,
    }
    return {kind: Durability[level.upper()] for kind, level in least.items()}


def not_given(settings: Settings, levels: Levels) -> list[str]:
    """What is demanded and cannot be given: settings, by their names."""
    return [
        f"{kind.__name__.lower()}_durability_min"
        for kind, level in least_durabilities(settings).items()
        if not levels.gives(level, settings.durability_replicas)
    ]


class LevelsWatch:
    """Keeps what is known of the hot store fresh, and says when that changes."""

    def __init__(self, levels: StoreLevels, settings: Settings, recorder: Recorder) -> None:
        self._levels, self._settings, self._recorder = levels, settings, recorder
        self._said = ""
        self._are_behind = False

    async def begin(self) -> None:
        """Looks once, so that the first request is judged by what there is."""
        await self._levels.look()
        self._judge(self._levels.now)

    async def run(self) -> None:
        """Looks for ever; end it by cancelling."""
        await keep_looking("durability", self.begin, pause_seconds=LOOK_SECONDS)

    def _judge(self, levels: Levels) -> None:
        wanted = self._settings.durability_replicas
        self._recorder.replicas(levels.replicas_keeping_up)
        are_behind = levels.replicas_keeping_up < min(wanted, levels.replicas)
        if are_behind and not self._are_behind:
            self._recorder.alert(Alert.REPLICAS_BEHIND)
            log.error("replicas of the hot store do not keep up: commits do not wait for them")
        self._are_behind = are_behind
        if (said := levels.said(wanted)) != self._said:
            self._said = said
            log.info("durability", extra={"facts": {"levels": said}})
            if missing := not_given(self._settings, levels):
                log.error("demanded and not given: %s", ", ".join(missing))
