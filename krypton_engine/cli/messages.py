"""Errors in the words of the command line."""

from __future__ import annotations

import re

from krypton_engine.errors import InputError

_LONGEST_MESSAGE = 4  # lines


_OPTIONS = {
    "baselines": "--baseline",
    "class_names": "--classes",
    "memory_budget": "--memory-budget",
    "sliding_window_shapes": "--window",
    "source": "IMAGE",
    "spec": "model",
    "strides": "--stride",
    "tuning": "--tuning",
    "weights": "--weights",
    "size": "--size",
    "mean": "--mean",
    "std": "--std",
}


_ANY = "|".join(_OPTIONS)


# `weights='x.pt' is no file`, `strides (3, 9, 9) cannot exceed ...`; but no `size` within a sentence.
_API_NAMES = re.compile(
    rf"(?<![\w./'\"-])(?:{_ANY})(?==)|^(?:{_ANY})\b|\b(?:sliding_window_shapes|strides)\b"
)


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # PyTorch's messages may hold them


def message(error: Exception) -> str:
    """An error in at most four lines, in the words of the command line."""
    if isinstance(error, InputError):
        text = _API_NAMES.sub(lambda found: _OPTIONS[found[0]], str(error))
    elif isinstance(error, OSError):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}\n(--debug shows where)"
    text = _COLOURS.sub("", text)
    lines = [line if len(line) <= 300 else line[:297] + "..." for line in text.splitlines() if line.strip()]
    if len(lines) > _LONGEST_MESSAGE:
        lines = [*lines[: _LONGEST_MESSAGE - 1], "(--debug shows the rest)"]
    return "krypton: error: " + "\n".join(lines)
