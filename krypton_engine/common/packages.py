"""Packages that only some of Krypton needs, imported when something of theirs is asked for."""

from __future__ import annotations

import importlib
from typing import Any

from krypton_engine.common.text import one_line
from krypton_engine.errors import InputError


def install(extra: str) -> str:
    """The command that installs an extra.

    Examples:
        >>> install("demo")
        'pip install "krypton-occlusion[demo]"'
    """
    return f'pip install "krypton-occlusion[{extra}]"'


def imported(module: str, extra: str = "demo") -> Any:
    """A module of a package that may be missing.

    Args:
        module: Name of the module.
        extra: The extra that the package is in.

    Raises:
        InputError: The import fails.

    Examples:
        >>> imported("math").floor(2.5)
        2
        >>> imported("no_such_module", "medical")
        Traceback (most recent call last):
        krypton_engine.errors.InputError: no_such_module is needed for this, and cannot be imported: ...
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise InputError(
            package,
            "needed for this",
            problem=f"and cannot be imported: {one_line(error)}\n{install(extra)}",
        ) from error
