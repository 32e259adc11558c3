"""Output of the command line: lines that fit the terminal, on streams that never fail."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TextIO

from krypton_engine.common.figures import figure

_WIDEST = 100
"""Columns of prose, at most."""


class Text:
    """A stream on which printing never fails.

    Text that cannot be written, since nobody reads it or the disk is full, is left out, so that a computation
    goes on; ``fault`` says why. Characters that the stream's encoding lacks are written as escapes.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115
        self.fault: OSError | None = None

    def write(self, text: str) -> int:
        r"""Write a text as far as the stream takes it.

        Examples:
            >>> import io
            >>> stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
            >>> Text(stream).write("a café"), stream.buffer.getvalue()
            (6, b'a caf\\xe9')
        """
        encoding = self._stream.encoding or "utf-8"
        self._try(lambda: self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding)))
        return len(text)

    def flush(self) -> None:
        """Write the text in the buffer.

        Examples:
            >>> import io
            >>> stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
            >>> text = Text(stream)
            >>> _ = text.write("a map")
            >>> text.flush()
            >>> stream.buffer.getvalue()
            b'a map'
        """
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        if self.fault is not None:
            return
        try:
            act()
        except OSError as error:
            self.fault = error
            with suppress(OSError):  # the buffer still holds it, and is written out at the end
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def width() -> int:
    """Columns of the terminal. Text that goes elsewhere is not broken, unless COLUMNS is set.

    Examples:
        >>> from unittest import mock
        >>> with mock.patch.dict(os.environ, COLUMNS="72"):
        ...     width()
        72
    """
    return shutil.get_terminal_size((0, 0)).columns or sys.maxsize


def wrapped(line: str, width: int, indent: str = "") -> list[str]:
    """Lines of at most ``width`` columns, broken between words only.

    Examples:
        >>> wrapped("a map of one picture", 12, indent="  ")
        ['a map of one', '  picture']
    """
    return textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    ) or [""]


def command_lines(line: str, width: int, indent: str = "") -> list[str]:
    r"""A command, broken so that a shell takes it; an option stays with its value.

    Examples:
        >>> print("\n".join(command_lines("krypton explain x.png --model resnet18", 26)))
        krypton explain x.png \
              --model resnet18
    """
    whole = re.sub(r"(--\w+) ", "\\1\0", line)
    *pieces, last = wrapped(whole, width - 2, indent + " " * 6)
    return [piece.replace("\0", " ") for piece in (*(f"{piece} \\" for piece in pieces), last)]


def say(*lines: str, indent: str = "    ") -> None:
    """Print lines; one that does not fit into the terminal goes on below, indented.

    Examples:
        >>> say("one line", "another")
        one line
        another
    """
    for line in lines:
        print(line if len(line) <= width() else "\n".join(wrapped(line, width(), indent)), flush=True)


def paragraph(text: str) -> None:
    """Print prose, between empty lines, in columns that are read with ease.

    Examples:
        >>> paragraph("Red is what the answer rests on.")
        <BLANKLINE>
        Red is what the answer rests on.
        <BLANKLINE>
    """
    say("", *wrapped(text, min(width(), _WIDEST)), "")


def row(name: str, value: object) -> None:
    """Print a name and its value, as a row of a table.

    Examples:
        >>> row("model", "resnet18")
        model       resnet18
    """
    say(f"{name:11} {value}", indent=" " * 12)


def tell(message: str) -> None:
    """Print a note, which is no result, on stderr.

    Examples:
        >>> from contextlib import redirect_stderr
        >>> with redirect_stderr(sys.stdout):
        ...     tell("krypton: the map is in map.png")
        krypton: the map is in map.png
    """
    wide = width() if sys.stderr.isatty() else sys.maxsize
    print("\n".join("\n".join(wrapped(line, wide)) for line in message.splitlines()), file=sys.stderr)


def printable(name: str) -> str:
    r"""A name whose bytes that are not UTF-8, which no encoding holds, are written as escapes.

    Examples:
        >>> printable(b"scan\xff.png".decode(errors="surrogateescape"))
        'scan\\udcff.png'
    """
    return name.encode("utf-8", "backslashreplace").decode()


def size_text(sizes: Sequence[int]) -> str:
    """Sizes as people write them: ``16 x 24``.

    Examples:
        >>> size_text((16, 24))
        '16 x 24'
    """
    return " x ".join(map(str, sizes))


def duration(seconds: float) -> str:
    """Seconds, or minutes where there are many.

    Examples:
        >>> duration(3.217), duration(600.0)
        ('3.22 s', '10 min')
    """
    return f"{figure(seconds)} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def counted(count: int, noun: str, several: str = "") -> str:
    """A count and its noun: ``1 picture``, ``3 pictures``.

    Examples:
        >>> counted(1, "picture"), counted(3, "picture"), counted(2, "copy", "copies")
        ('1 picture', '3 pictures', '2 copies')
    """
    return f"{count} {noun if count == 1 else several or noun + 's'}"
