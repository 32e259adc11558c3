"""A command of ``krypton``, and what its exit status says."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

USER_ERROR, BROKEN_PROMISE, INTERRUPTED, NOBODY_READS = 2, 3, 130, 141


@dataclass(frozen=True)
class Command:
    """A word after ``krypton``.

    Attributes:
        name: The word.
        help: Purpose of the command, in one line.
        add_options: Function that gives a parser the command's options.
        run: Function that does the work, given the options' values, and returns the exit status. Heavy
            packages are imported inside, so that ``krypton --help`` is quick.
    """

    name: str
    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
