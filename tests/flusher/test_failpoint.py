"""Failpoints: what they do, and that they do nothing anywhere but in tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from holdfast_server import failpoint

SCRIPT = """
from holdfast_server import failpoint
failpoint.check_allowed()
for _ in range(3):
    failpoint.hit("some.point")
    failpoint.hit("other.point")
    print("passed", flush=True)
"""


def run(points: str, environment: str = "test") -> tuple[int, int, str]:
    """Exit code, number of times that all points were passed, and last line of the errors."""
    variables = {"HOLDFAST_FAILPOINTS": points, "HOLDFAST_ENV": environment}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return result.returncode, result.stdout.count("passed"), result.stderr.strip().split("\n")[-1]


def test_nothing_happens_where_none_is_set() -> None:
    assert run("") == (0, 3, "")
    assert run("", "production") == (0, 3, "")


@pytest.mark.parametrize(("nth", "passed"), [(1, 0), (3, 2)])
def test_kill_ends_the_process_on_the_hit_asked_for(nth: int, passed: int) -> None:
    assert run(f"some.point=kill:{nth}")[:2] == (-signal.SIGKILL, passed)


def test_error_is_raised_once() -> None:
    code, passed, error = run("no.such=kill,other.point=error:2")

    assert (code, passed) == (1, 1)
    assert error.endswith("FailpointError: other.point")


def test_failpoints_are_refused_outside_of_tests() -> None:
    code, passed, error = run("some.point=kill", "production")

    assert (code, passed) == (1, 0)
    assert "HOLDFAST_FAILPOINTS is set" in error


@pytest.mark.parametrize(
    "text", ["a", "a=", "a=explode", "a=kill:0", "a=kill:x", "A=kill", "=kill"]
)
def test_a_value_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(failpoint.FailpointError):
        failpoint.parse(text)
