"""The list of executors: the folders beside this file.

Finding them imports none of them.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from krypton_engine.executors.base import Executor

_HERE = Path(__file__).parent

NAMES = tuple(sorted(folder.name for folder in pkgutil.iter_modules([str(_HERE)]) if folder.ispkg))
"""The executors by name."""

EXECUTORS = ("auto", *NAMES)
"""Values of ``executor=``: the name of a folder, or ``"auto"``, the choice by model, window and device."""


def executor(name: str) -> Executor:
    """The executor in the folder ``name``.

    Examples:
        >>> from krypton_engine.executors import registry
        >>> registry.executor("reference").name
        'reference'
    """
    found: Executor = importlib.import_module(f"krypton_engine.executors.{name}.executor").EXECUTOR
    return found


def preferred(device: torch.device) -> list[Executor]:
    """The executors for a device, best first; the last runs every graph.

    Examples:
        >>> from krypton_engine.executors import registry
        >>> [executor.name for executor in registry.preferred(torch.device("cpu"))]
        ['native', 'reference']
    """
    places = ((executor(name).preference(device), name) for name in NAMES)
    found = [(place, name) for place, name in places if place is not None]
    return [executor(name) for _, name in sorted(found, reverse=True)]
