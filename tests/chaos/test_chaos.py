"""A short run of `holdfast chaos`, as an operator starts it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.server import command, without_ours

SECONDS = 8
RUN_TIMEOUT_S = 280


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(300)
def test_a_run_breaks_things_and_everything_holds() -> None:
    with TemporaryDirectory(prefix="holdfast-chaos-") as name:
        Path(name).chmod(0o711)
        data = Path(name) / "data"
        arguments = ("--seed", "11", "--seconds", str(SECONDS), "--data", str(data), "--json")
        done = subprocess.run(
            command("chaos", *arguments),
            env=without_ours(),
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, (done.stdout, done.stderr)
        attempts = list(map(json.loads, (data / "history.jsonl").read_text().splitlines()))
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["lost"], report["duplicated"], report["violations"]) == (0, 0, [])
    assert report["acked"] == len({each["key"] for each in attempts if each["seq"]})
    assert sum(report["faults"].values()) >= 3
    assert report["seed"] == 11
    assert report["commit"]
