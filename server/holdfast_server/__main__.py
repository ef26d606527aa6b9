"""`python -m holdfast_server`: the same as the command `holdfast`."""

import sys

from holdfast_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
