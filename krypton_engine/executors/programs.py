"""The memory of programs: what was made of a graph once, beside the graph and for as long as it lives."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from krypton_engine.executors.base import Unsupported
from krypton_engine.graph.ir import Graph

Made = TypeVar("Made")

_made: weakref.WeakKeyDictionary[Graph, dict[str, Any]] = weakref.WeakKeyDictionary()


def kept(graph: Graph, name: str, make: Callable[[Graph], Made]) -> Made:
    """The result of ``make`` for a graph, made once; its `Unsupported` is raised again each time.

    Args:
        graph: The graph whose life the result shares.
        name: Name of the result: an executor's name for its program.
        make: Function of a copy of ``graph`` that shares its nodes. A result that referred to ``graph``
            itself, as programs refer to their graph, would keep it alive, and so both for good.

    Examples:
        >>> count = kept(graph, "count", lambda graph: len(graph.nodes))
        >>> kept(graph, "count", lambda graph: 0) == count == len(graph.nodes)
        True
    """
    made = _made.setdefault(graph, {})
    if name not in made:
        try:
            made[name] = make(copy.copy(graph))
        except Unsupported as error:
            made[name] = Unsupported(str(error))  # its causes keep the frames that they passed
    found: Made | Unsupported = made[name]
    if isinstance(found, Unsupported):
        raise Unsupported(str(found))
    return found
