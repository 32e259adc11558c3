"""Packages that only some of the zoo needs, and the data files inside them."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from krypton_engine.errors import InputError
from krypton_engine.zoo.messages import one_line

_INSTALL = 'pip install "krypton-occlusion[demo]"'


def imported(module: str) -> Any:
    """A module of a package that may be missing.

    Raises:
        InputError: The import fails.

    Examples:
        >>> imported("math").floor(2.5)
        2
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise InputError(
            package, "needed for this", problem=f"and cannot be imported: {one_line(error)}\n{_INSTALL}"
        ) from error


def packaged(package: str, file: str, distribution: str) -> Path:
    """A file in an installed package, found without importing the package.

    Args:
        package: Name by which the package is imported.
        file: Path inside the package.
        distribution: The package's name on PyPI.

    Raises:
        InputError: The package is not installed, or lacks the file.

    Examples:
        >>> packaged("captum", "attr/__init__.py", distribution="captum").is_file()
        True
    """
    found = importlib.util.find_spec(package)
    for folder in (found.submodule_search_locations or []) if found else []:
        path = Path(folder) / file
        if path.is_file():
            return path
    what = f"does not hold {file}" if found else "is not installed"
    raise InputError(f"the PyPI package {distribution}", f"{what}\n{_INSTALL}", verb="")
