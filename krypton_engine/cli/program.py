"""The program: one command run, with its faults in words and its exit status."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO

from krypton_engine.cli.command import INTERRUPTED, NOBODY_READS, USER_ERROR
from krypton_engine.cli.messages import message
from krypton_engine.cli.parser import build_parser
from krypton_engine.cli.text import Text, tell
from krypton_engine.errors import FallbackWarning, RoundingWarning


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after ``krypton``; by default the process's own.

    Returns:
        The exit status: 0, 2 after an error (stderr says which), 130 after Ctrl-C, 141 (as after SIGPIPE)
        where nobody read the text to its end; files are written all the same.

    Examples:
        >>> main(["explain", "bird.png"])  # without --model, as stderr says
        2
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is None:  # closed, as by `>&-`: or the next file that is opened would get what is printed
            os.open(os.devnull, os.O_RDWR)
    text = Text(sys.stdout)
    with redirect_stdout(text), redirect_stderr(Text(sys.stderr)):
        try:
            status = _command(words)
        finally:
            text.flush()
        if isinstance(text.fault, BrokenPipeError):
            return NOBODY_READS
        if text.fault is not None:
            tell(f"krypton: error: the text cannot be written: {text.fault}")
            return USER_ERROR
    return status


def _command(words: Sequence[str]) -> int:
    debug = "--debug" in words
    try:
        arguments = build_parser().parse_args(words)
        with _plain_warnings(debug):
            status: int = arguments.run(arguments)
            return status
    except KeyboardInterrupt:
        tell("krypton: interrupted")
        return INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            tell(message(error))
        return USER_ERROR


@contextmanager
def _plain_warnings(debug: bool) -> Iterator[None]:
    """Our own warnings in a line each; those of others only if asked for."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        tell(f"krypton: note: {message}")

    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
            for ours in (FallbackWarning, RoundingWarning):
                warnings.simplefilter("always", ours)
            warnings.showwarning = show
        yield
