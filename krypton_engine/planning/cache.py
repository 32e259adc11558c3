"""Captures: the graph of a callable, made once and used again until something changes that it depends on."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor

from krypton_engine.common.calling import Forward
from krypton_engine.graph.draft import CaptureError
from krypton_engine.graph.export import ExportError, evaluated, export, settled
from krypton_engine.graph.ir import Graph
from krypton_engine.graph.rewrites import simplified
from krypton_engine.graph.state import (
    State,
    environment,
    modules_of,
    observe,
    version_of,
)
from krypton_engine.graph.translate import translate
from krypton_engine.planning.memory import (
    Kept,
    forget,
    memory_of,
    proofs_of,
    recall,
    recall_or_make,
    remember,
)

_SHORTEST_WAVE = 128
"""Cells of a row that may be a wave; shorter ones are tables, of which a model reads every cell at once."""


@dataclass(frozen=True)
class Source:
    """A callable and the arguments that it is captured with.

    Args:
        function: Anything that Captum takes as ``forward_func``.
        inputs: Tensors whose first dimension is the batch.
        occluded: Number of the input that windows occlude.
        additional: Further arguments; tensors whose first dimension is the batch are batched too.

    Examples:
        >>> source = Source(model, (x,), additional=(0.5, torch.ones(7)))
        >>> len(source.tensors), source.batched
        (2, (True, False))
    """

    function: Forward
    inputs: tuple[Tensor, ...]
    occluded: int = 0
    additional: tuple[object, ...] = ()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensor arguments."""
        return self.inputs + tuple(a for a in self.additional if isinstance(a, Tensor))

    @property
    def batched(self) -> tuple[bool, ...]:
        """Whether the first dimension is the batch, for each of ``tensors``."""
        rows = self.inputs[0].shape[0]
        return tuple(t.ndim > 0 and t.shape[0] == rows for t in self.tensors)

    @property
    def key(self) -> Hashable:
        """All that a capture depends on beside the callable's state: shapes, dtypes, devices, flags.

        Examples:
            >>> source, other, smaller = (Source(model, (each,)) for each in (x, -x, x[..., :8]))
            >>> source.key == other.key, source.key == smaller.key
            (True, False)
        """
        shapes = tuple(
            (tuple(t.shape[1:] if b else t.shape), t.dtype, t.device, b)
            for t, b in zip(self.tensors, self.batched, strict=True)
        )
        fixed = tuple(type(a).__name__ for a in self.additional if not isinstance(a, Tensor))
        return self.occluded, shapes, fixed, environment(self.inputs[self.occluded].device)

    @property
    def key_of_one_row(self) -> Hashable:
        """The key of a capture of each row by itself, which holds the answer to an only row."""
        return self.key, "one row"

    @property
    def keys(self) -> tuple[Hashable, ...]:
        """Keys of captures that answer for these inputs, the preferred one first."""
        alone = len(self.inputs[self.occluded]) == 1
        return (self.key_of_one_row, self.key) if alone else (self.key,)

    def observed(self) -> State:
        """The state of the callable and of those of its arguments that are no tensors."""
        others = (a for a in self.additional if not isinstance(a, Tensor))
        return evaluated(lambda: observe(self.function, *others))

    def __call__(self, *tensors: Tensor) -> Tensor | float:
        """The callable on tensors in place of ``tensors``."""
        left = iter(tensors[len(self.inputs) :])
        rest = [next(left) if isinstance(a, Tensor) else a for a in self.additional]
        return self.function(*tensors[: len(self.inputs)], *rest)

    def capture(self, state: State) -> Kept:
        """The graph, or the reason why there is none, in words: an exception would keep its frames alive."""

        def without(reason: str, final: bool = True) -> Kept:
            return Kept(self.key, None, reason, state, final)

        x, batched, modules = self.inputs[self.occluded], self.batched, modules_of(self.function)
        short = x.ndim < 3 and (x.ndim < 2 or x.shape[1] < _SHORTEST_WAVE)
        if x.is_complex() or short or not batched[self.occluded] or math.prod(x.shape) == 0:
            return without("the input has no axis that windows could slide along incrementally")
        function = self if self.additional else self.function
        reason, final = "", True
        # What a function says of its only row is its answer, even if more rows would feel each other.
        for key in reversed(self.keys):
            try:
                program = export(function, modules, self.tensors, batched, apart=key != self.key)
            except ExportError as error:
                first = str(error).strip().splitlines()
                final = final and bool(reason)
                reason = reason or f"torch.export failed: {first[0] if first else ''}"[:300]
                continue
            held = (*program.state_dict.values(), *program.constants.values())
            versions = {id(tensor): version_of(tensor) for tensor in held if isinstance(tensor, Tensor)}
            try:
                exported = translate(program, batched, self.occluded)
                graph = simplified(exported)
                break
            except CaptureError as error:
                reason = reason or str(error)
            except Exception as error:  # what the translation did not foresee
                beyond = f"the exported program cannot be translated: {type(error).__name__}: {error}"[:300]
                reason = reason or beyond
        else:
            return without(reason, final)
        found = Kept(key, graph, "", state)
        found.end_with(modules)
        found.versions = tuple(versions[id(source())] for source in graph.sources)
        proofs_of(graph).exported = exported
        return found


def capture(source: Source, *, again: bool = False) -> Graph:
    """The graph of a callable with one of its inputs occluded.

    The result is kept for as long as the model lives and used again for inputs of the same shape, until
    something changes that the graph depends on.

    Args:
        source: The callable and its arguments.
        again: Whether to make another capture in place of the kept one, which was wrong.

    Raises:
        CaptureError: With the reason; it is kept too. A failing export is tried twice, since what failed may
            have been something else in the process.

    Examples:
        >>> graph = capture(Source(model, (x,)))
        >>> graph.input.shape
        (1, 3, 24, 20)
        >>> capture(Source(model, (x + 1,))) is graph
        True
    """
    memory, keys, state = memory_of(source.function), source.keys, source.observed()
    if again:
        forget(memory, keys)
    kept = recall(memory, keys, state)
    if kept is None:
        try:
            settled()
        except ExportError as error:
            raise CaptureError(str(error)) from None
        kept = recall_or_make(memory, keys, state, lambda: source.capture(state))
    graph = kept.graph
    if graph is None:
        raise CaptureError(kept.reason)
    return graph


def refuse(source: Source, reason: str) -> None:
    """Keep ``reason``, which `capture` raises from now on, in place of a graph that was wrong twice.

    Something that changes in the callable or its arguments ends that, as it ends the life of a graph.

    Examples:
        >>> refuse(Source(model, (x,)), "its graph was wrong twice")
        >>> capture(Source(model, (x,)))
        Traceback (most recent call last):
        krypton_engine.graph.draft.CaptureError: its graph was wrong twice
    """
    memory, state = memory_of(source.function), source.observed()
    forget(memory, source.keys)
    remember(memory, Kept(source.key, None, reason, state))
