"""What stops a command, in words for the person who gave it."""

from __future__ import annotations


class Problem(Exception):
    """An operator can put this right. The text is one line: what is wrong and what to do."""
