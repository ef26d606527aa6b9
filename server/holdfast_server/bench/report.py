"""What a benchmark found: one object for machines, one table for people."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Found:
    """A measure, its floor in the same run, and the CPU time behind both."""

    bench: str
    unit: str
    measure: float
    floor: float
    cpu_us: Mapping[str, float]
    floor_cpu_us: Mapping[str, float]
    #: What else was seen, and what was asked for.
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """How many times the floor; None where that did too little to be seen."""
        return round(self.measure / self.floor, 3) if self.floor else None

    def as_json(self) -> dict[str, Any]:
        """One flat object."""
        return {
            "bench": self.bench,
            "unit": self.unit,
            "measure": round(self.measure, 3),
            "floor": round(self.floor, 3),
            "ratio": self.ratio,
            "cpu_us": dict(self.cpu_us),
            "floor_cpu_us": dict(self.floor_cpu_us),
            **self.facts,
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        }
