"""Errors in the words of the command line."""

from __future__ import annotations

import re

from krypton_engine.errors import InputError

_LONGEST_MESSAGE = 4  # lines


_LONGEST_LINE = 110  # columns, unless there is nothing to break at

_OPTIONS = {
    "audit": "--audit",
    "baselines": "--baseline",
    "class_names": "--classes",
    "mean": "--mean",
    "memory_budget": "--memory-budget",
    "size": "--size",
    "sliding_window_shapes": "--window",
    "source": "IMAGE",
    "spec": "model",
    "out": "--out",
    "std": "--std",
    "strides": "--stride",
    "tune": "--tune",
    "tuning": "--tuning",
    "weights": "--weights",
    "workers": "--workers",
}
"""The options that arguments of the API come from."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # PyTorch's messages may hold them


class UsageError(Exception):
    """Words that no command takes; the text is for the user as it is."""


def message(error: Exception) -> str:
    """An error in at most four lines, in the words of the command line.

    Examples:
        >>> message(InputError("strides", "5", "at most the window"))
        'krypton: error: --stride is 5; accepted: at most the window'
    """
    if isinstance(error, InputError):
        text = _of_argument(error.named(_OPTIONS.get(error.argument, error.argument)))
    elif isinstance(error, (OSError, UsageError)):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}\n(--debug shows where)"
    text = _COLOURS.sub("", text)
    lines = [line if len(line) <= 300 else line[:297] + "..." for line in text.splitlines() if line.strip()]
    if len(lines) > _LONGEST_MESSAGE:
        lines = [*lines[: _LONGEST_MESSAGE - 1], "(--debug shows the rest)"]
    return "krypton: error: " + "\n".join(lines)


def _of_argument(error: InputError) -> str:
    """The message of an error; accepted values have a line of their own where one line would be long."""
    whole = str(error)
    if not error.accepted or len(whole) <= _LONGEST_LINE:
        return whole
    fault = InputError(error.argument, error.given, "", error.problem, error.verb)
    return f"{fault}\nAccepted: {error.accepted}"
