"""The `holdfast` command.

It lives in the client because the client is always installed: without the extra `server` it can
then say what is missing instead of failing with a traceback.
"""

import sys
from importlib.util import find_spec

#: Distributions of the extra `server` without which the command line cannot even be read.
_REQUIRED = ("click", "rich", "redis", "psycopg")


def main() -> int:
    """Run the server's command line; without the extra `server`, say so and return 1."""
    if any(find_spec(name) is None for name in _REQUIRED):
        print("install 'holdfast[server]'", file=sys.stderr)
        return 1
    from holdfast_server.cli import main as run  # noqa: PLC0415

    return run()
