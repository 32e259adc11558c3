"""The memory of captures and of their proofs: which are kept, for how long, and when one is stale."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Hashable, Sequence, Set
from dataclasses import dataclass, field

from torch import Tensor, nn

from krypton_engine.common.calling import Forward
from krypton_engine.graph.ir import Graph
from krypton_engine.graph.state import State, differences, may_be_idle, modules_of, version_of

_LARGEST_MEMORY = 512 * 2**20
"""Bytes that the captures of one model may take; the one used last is kept in any case."""

_PROGRAMS = 5
"""Memory of a graph and its programs, in multiples of its constants: Winograd makes 9 numbers 36."""

_MOST_CAPTURES = 32
"""Captures of one model that are kept at most."""

_DOUBTED = {4**n for n in range(16)}
"""Numbers of changes of a value held to be idle after which another capture shows whether it still is."""


@dataclass(eq=False)
class Kept:
    """A capture, or the reason why there is none.

    Attributes:
        key: Shapes, dtypes, devices and flags that the capture is for.
        graph: None where there is none, or its weights are gone.
        reason: Why there is no graph.
        state: The callable's when the capture was made.
        final: Whether another try in this state would end in the same.
        idle: Names of values in the state, such as counters, which changed once, and the graph did not.
        changes: Number of changes of these values since.
        versions: Version counters of the graph's sources, as they were before any of these was read.

    Examples:
        >>> kept, later = (Kept("a shape", None, "no axis", state={"gain": gain}) for gain in (2, 3))
        >>> kept.changes_since("a shape", later.state), kept.changes_since("another shape", later.state)
        ({'gain'}, None)
        >>> kept.same(later), kept.takes(later), kept.idle  # the gain counts for nothing
        (True, True, {'gain'})
        >>> [kept.is_doubted() for change in range(5)]
        [True, False, False, True, False]
        >>> kept.is_stale()  # no tensor that it was made of has been written to
        False
    """

    key: Hashable
    graph: Graph | None
    reason: str
    state: State
    final: bool = True
    idle: set[str] = field(default_factory=set)
    changes: int = 0
    versions: tuple[int, ...] = ()
    _weights: list[weakref.ref[Tensor]] = field(default_factory=list)

    def end_with(self, modules: list[nn.Module]) -> None:
        """Let go of the graph as soon as one of its weights is gone.

        The memory lives as long as the first module that a function names; other modules may go before.
        """
        this = weakref.ref(self)

        def gone(_: weakref.ref[Tensor]) -> None:
            if (kept := this()) is not None:
                kept.reason, kept.graph, kept.final = "weights of the graph no longer exist", None, False

        if self.graph is not None:
            own = {id(each) for module in modules for each in (*module.parameters(), *module.buffers())}
            weights = (source() for source in self.graph.sources)
            self._weights = [
                weakref.ref(each, gone) for each in weights if each is not None and id(each) in own
            ]

    def is_stale(self) -> bool:
        """Whether a tensor that the graph was made of has been written to."""
        graph = self.graph  # which `end_with` may let go of at any time
        if graph is None:
            return False
        now = zip((source() for source in graph.sources), self.versions, strict=True)
        return any(tensor is not None and version_of(tensor) != version for tensor, version in now)

    def changes_since(self, key: Hashable, state: State) -> Set[str] | None:
        """Names of the values that have changed since; None for a capture of another key, or a stale one."""
        if self.key != key or not self.final or self.is_stale():
            return None
        return differences(self.state, state)

    def is_doubted(self) -> bool:
        """Whether to capture again at this change of idle values; counts it."""
        self.changes += 1
        return self.changes in _DOUBTED

    def takes(self, other: Kept) -> bool:
        """Whether a later capture says the same, so that what has changed meanwhile does not count.

        Only numbers, collections, results and buffers that no graph reads come to be idle. Graphs share their
        weights with the model, and so with each other: a stale one looks like that which follows it.
        """
        if self.key != other.key or self.is_stale() or not self.same(other):
            return False
        changed = differences(self.state, other.state)
        states = (self.state, other.state)
        read = [source() for each in (self.graph, other.graph) if each is not None for source in each.sources]
        if not all(may_be_idle(state.get(name), read) for name in changed for state in states):
            return False
        if not changed <= self.idle:
            self.changes = 0
        self.idle |= changed
        self.state, self.final = other.state, True
        return True

    def refuted(self, other: Kept) -> Set[str]:
        """Names of values held to be idle that a later capture shows to count.

        A graph after a reason shows nothing: of a random function, say, any graph has the same reason.
        """
        changed = self.changes_since(other.key, other.state)
        if not changed or not changed <= self.idle or self.graph is None:
            return frozenset()
        return frozenset() if self.same(other) else changed

    def same(self, other: Kept) -> bool:
        """Whether two captures found the same: graphs that compute the same, or one reason."""
        mine, its = self.graph, other.graph
        if mine is None or its is None:
            return mine is its and self.reason == other.reason
        return mine.same(its)


@dataclass(eq=False)
class Proofs:
    """Comparisons of a graph with the callable that it was captured from.

    Attributes:
        windows: Kinds of positions for which outputs were compared.
        count: Number of comparisons, so that each time other positions are chosen.
        differed: Largest difference when the graph was new, in roundings of the largest output.
        differed_in_full: The same of ``exported``: 0 wherever PyTorch rounds the same way each time.
        exported: The graph before it was rewritten; its weights are the callable's own.
    """

    windows: set[Hashable] = field(default_factory=set)
    count: int = 0
    differed: float = 0.0
    differed_in_full: float = 0.0
    exported: Graph | None = None


_proofs: weakref.WeakKeyDictionary[Graph, Proofs] = weakref.WeakKeyDictionary()
_memories: weakref.WeakKeyDictionary[object, list[Kept]] = weakref.WeakKeyDictionary()
# A model may outlive the interpreter (`torch.jit.script` holds it); the engine's programs may not.
atexit.register(_memories.clear)
_remembering = threading.RLock()
_capturing = threading.RLock()


def _forked() -> None:
    """Locks for a child process, where the threads that hold today's are not."""
    global _remembering, _capturing
    _remembering, _capturing = threading.RLock(), threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def memory_of(function: Forward) -> list[Kept]:
    """Captures of ``function``, the one used last at the end.

    Captures live as long as the first module that the callable closes over, else as long as the callable; a
    graph as long as all its weights.

    Examples:
        >>> memory_of(model) is memory_of(lambda images: model(images).softmax(1))
        True
    """
    anchors = list(modules_of(function))
    try:
        return _memories.setdefault(anchors[0] if anchors else function, [])
    except TypeError:  # neither a module nor anything that can be weakly referenced
        return []


def recall(memory: list[Kept], keys: Sequence[Hashable], state: State, exactly: bool = False) -> Kept | None:
    """The capture in this state, or else one since which nothing but idle values has changed.

    Args:
        memory: Captures of a function.
        keys: Keys that the capture may have, the preferred one first.
        state: State of the function.
        exactly: Whether no value may have changed.

    Examples:
        >>> memory = [Kept("a shape", None, "no axis", state={"gain": 2})]
        >>> recall(memory, ["a shape"], {"gain": 2}).reason, recall(memory, ["a shape"], {"gain": 3})
        ('no axis', None)
    """
    with _remembering:
        since = [(kept, kept.changes_since(key, state)) for key in keys for kept in reversed(memory)]
        found = next((kept for kept, changed in since if changed is not None and not changed), None)
        if found is None and not exactly:
            found = next((kept for kept, changed in since if changed and changed <= kept.idle), None)
            if found is not None and found.is_doubted():
                return None
        if found is not None:
            memory.append(memory.pop(memory.index(found)))
        return found


def remember(memory: list[Kept], new: Kept) -> Kept:
    """``new``, or a capture that says the same and is kept already; the oldest go where memory is short.

    Examples:
        >>> kept, later = (Kept("a shape", None, "no axis", state={"gain": gain}) for gain in (2, 3))
        >>> memory = []
        >>> remember(memory, kept) is kept, remember(memory, later) is kept
        (True, True)
        >>> kept.idle  # the outcome is the same, so the number does not count
        {'gain'}
    """
    with _remembering:
        count = set().union(*(kept.refuted(new) for kept in memory))
        for each in memory:
            if each.key == new.key:
                each.idle -= count
        kept = next((kept for kept in memory if kept.takes(new)), new)
        memory[:] = [each for each in memory if each is not kept and not each.is_stale()]
        memory.append(kept)
        taken = 0
        for i, each in reversed(list(enumerate(memory[:-1]))):
            graph = each.graph
            taken += _PROGRAMS * graph.constant_bytes if graph is not None else 0
            if taken > _LARGEST_MEMORY or i + _MOST_CAPTURES < len(memory):
                del memory[: i + 1]
                break
        return kept


def recall_or_make(
    memory: list[Kept], keys: Sequence[Hashable], state: State, make: Callable[[], Kept]
) -> Kept:
    """The capture in exactly this state: made now, unless another thread has made it meanwhile.

    Examples:
        >>> memory, made = [], Kept("a shape", None, "no axis", state={})
        >>> recall_or_make(memory, ["a shape"], {}, lambda: made) is made, memory == [made]
        (True, True)
    """
    with _capturing:
        return recall(memory, keys, state, exactly=True) or remember(memory, make())


def forget(memory: list[Kept], keys: Sequence[Hashable]) -> None:
    """Forget graphs that were made for some keys: one of them is wrong.

    Examples:
        >>> memory = [Kept("a shape", graph, "", state={}), Kept("a shape", None, "no axis", state={})]
        >>> forget(memory, ["a shape"])
        >>> [kept.reason for kept in memory]  # reasons are kept
        ['no axis']
    """
    with _remembering:
        memory[:] = [kept for kept in memory if kept.key not in keys or kept.graph is None]


def proofs_of(graph: Graph) -> Proofs:
    """The proofs of a graph, kept as long as the graph lives.

    Examples:
        >>> proofs_of(graph) is proofs_of(graph)
        True
    """
    with _remembering:
        return _proofs.setdefault(graph, Proofs())
