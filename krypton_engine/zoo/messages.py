"""Words for errors about a user's model, file or package."""

from __future__ import annotations

import difflib

FAILURES = (Exception, SystemExit)
"""Exceptions of users' code: a script that parses arguments when it is imported exits."""


def near(name: str, known: list[str]) -> str:
    """The known names that are spelled much like ``name``, as the end of a sentence; else nothing.

    Examples:
        >>> near("cofee", ["coffee", "rocket"])
        '; near it: coffee'
    """
    near = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    return f"; near it: {', '.join(near)}" if near else ""
