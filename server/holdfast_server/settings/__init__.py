"""Every setting of a Holdfast process: read once, checked, and frozen.

A setting is looked for in the flags, then in the environment (`HOLDFAST_` and its capitals), then
it has its default. An empty variable counts as absent: whatever is not given works as it is.
Times end in `_ms`, sizes in `_bytes_max` and the like; `holdfast settings` prints all of this.
"""

from holdfast_server.settings.model import RULES, Settings
from holdfast_server.settings.reading import (
    Row,
    check_serving,
    describe,
    read,
    strangers,
    variable_of,
)
from holdfast_server.settings.rules import Rule, SettingsError, is_loopback, redacted

__all__ = [
    "RULES",
    "Row",
    "Rule",
    "Settings",
    "SettingsError",
    "check_serving",
    "describe",
    "is_loopback",
    "read",
    "redacted",
    "strangers",
    "variable_of",
]
