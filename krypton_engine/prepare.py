"""Which session answers for a callable: capture, plan and prove it, or fall back to full inference."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from krypton_engine.capture import CaptureError, capture, modules_of
from krypton_engine.errors import FallbackWarning, InputError
from krypton_engine.executors import Session, cuda, native
from krypton_engine.executors.full import FullSession, evaluate
from krypton_engine.executors.reference import ReferenceProgram, ReferenceSession
from krypton_engine.graph import Graph, in_full
from krypton_engine.plan import Plan
from krypton_engine.windows import SlidingWindow, distinct_work

ROUNDING = 2000
"""Disagreement, in units of the dtype's rounding of the largest output, that two orders of summation may
show; more than that is a stale or wrong capture, or a callable that amplifies rounding."""

_ROUNDINGS = 8
"""What all the roundings within such a callable come to, in roundings of its input."""

_TELLING = 1 / 32
"""Rounding, as a share of the largest output, beyond which agreement would prove nothing."""

_GOLDEN_RATIO = 0.618034
"""Its multiples, modulo 1, fall evenly: each proof looks at another place."""

_OURS = {"krypton_engine", "captum", "contextlib"}

_DISAGREES = "its graph disagrees with what it returns (it may be random, or read across the batch)"
_AMPLIFIES = (
    "its output is largely rounding (the last digits of the input alone move it by {:.1%} of its size), "
    "so that no graph can be proved right"
)


@dataclass
class Question:
    """What is asked of a callable: everything but the target.

    Attributes:
        forward_func: What the user wants explained.
        inputs: Its tensor inputs, first dimension the examples.
        baselines: What replaces occluded cells, one tensor for each input that broadcasts against it.
        windows: The sliding window over each input.
        additional: Further arguments of ``forward_func``; None if there are none.
        base: What the user's own forward function says of the un-occluded inputs.
    """

    forward_func: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    baselines: tuple[Tensor, ...]
    windows: tuple[SlidingWindow, ...]
    additional: tuple[Any, ...] | None
    base: Tensor

    def example(self, row: int) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        """Inputs and additional arguments of one example."""
        rows = self.inputs[0].shape[0]

        def cut(item: Any) -> Any:
            batched = isinstance(item, Tensor) and item.ndim > 0 and item.shape[0] == rows
            return item[row : row + 1] if batched else item

        return tuple(cut(x) for x in self.inputs), tuple(cut(a) for a in self.additional or ())

    def baseline(self, occluded: int, row: int) -> Tensor:
        """The baseline of one example: ``(1, *input_shape)``."""
        return self.baselines[occluded].expand(self.inputs[occluded].shape)[row : row + 1]


@dataclass
class Answer:
    """Sessions for one occluded input: one for every example, or one for all of them together.

    Attributes:
        rows: The examples that have a session of their own; ``[None]`` if all share one.
        open: Opens the session of a row; raises `Disagreement` if it contradicts the user's own forward
            function. Views live as long as a session, so open one after the other.
        plan: What was planned.
    """

    rows: list[int | None]
    open: Callable[[int | None], Session]
    plan: Plan | None


@dataclass(frozen=True)
class Ready:
    """An executor's program for a plan.

    Attributes:
        plan: What incremental work would cost; its ``executor`` says who runs it.
        graph: What is run: the captured one, or its full inference where incremental work does not pay.
        open: Opens a session for the inputs of one example, its baseline and a memory budget.
    """

    plan: Plan
    graph: Graph
    open: Callable[[tuple[Tensor, ...], Tensor, int], Session]


class Disagreement(Exception):
    """A graph says something else than the callable that it was captured from."""


_BUDGET = 2 * 2**30
"""Bytes that a call may add to the process, unless somebody said how many."""


@dataclass
class Preparer:
    """Opens sessions and remembers what it has warned of.

    Args:
        executor: ``"auto"`` runs full inference where incremental work would not pay; a named executor runs
            wherever there is a graph.
        memory_budget: Bytes that one call may add to the process; None for `budget`'s own.
    """

    executor: str
    memory_budget: int | None
    _warned: set[str] = field(default_factory=set)

    def budget(self, device: torch.device) -> int:
        """Bytes that one call may add to the memory of a device: small batches leave a GPU idle."""
        if self.memory_budget is not None:
            return self.memory_budget
        if device.type != "cuda":
            return _BUDGET
        return max(_BUDGET, torch.cuda.get_device_properties(device).total_memory // 8)

    def prepare(self, question: Question, occluded: int, per_evaluation: int | None) -> Answer:
        """Sessions for ``question`` with input number ``occluded`` occluded.

        A graph that disagrees with what it was captured from is captured once more, for it may be stale;
        if it disagrees again, the callable is random, or reads across its batch, and runs in full.
        """
        try:
            try:
                return self._incremental(question, occluded, again=False)
            except Disagreement:
                return self._incremental(question, occluded, again=True)
        except (CaptureError, Disagreement) as error:
            return self.full(question, occluded, per_evaluation, str(error))

    def warn(self, message: str) -> None:
        """Warn once."""
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, FallbackWarning, stacklevel=_users_line())

    def _warn_full(self, reason: str) -> None:
        self.warn(f"occlusion runs as batched full inference, which is exact but not incremental: {reason}")

    # -- incremental -----------------------------------------------------------------------------------

    def _incremental(self, question: Question, occluded: int, again: bool) -> Answer:
        """Sessions on the graph, each of which proves itself, the first of them now.

        Raises:
            CaptureError: There is no graph.
            Disagreement: The graph is wrong.
        """
        additional = question.additional or ()
        graph = capture(question.forward_func, question.inputs, occluded, additional, again=again)
        device = question.inputs[occluded].device
        ready, budget = self.plan(graph, question.windows[occluded], device), self.budget(device)

        def session(row: int | None) -> Session:
            assert row is not None
            inputs, additional = question.example(row)
            tensors = inputs + tuple(a for a in additional if isinstance(a, Tensor))
            opened = ready.open(tensors, question.baseline(occluded, row), budget)
            self._prove(question, occluded, row, ready.graph, opened)
            return opened

        waiting = [session(0)]
        if ready.graph is not graph:
            self._warn_full(f"incremental work would not pay (full over incremental: {ready.plan.gain:.2f})")

        def open_session(row: int | None) -> Session:
            return waiting.pop() if row == 0 and waiting else session(row)

        return Answer(list(range(len(question.inputs[0]))), open_session, ready.plan)

    def plan(self, graph: Graph, window: SlidingWindow, device: torch.device) -> Ready:
        """Who runs ``window`` on ``graph``, and its plan, which says so."""
        plan = told = Plan(graph, window)
        if self.executor == "auto" and not plan.incremental:
            graph = graph.programs.setdefault("in full", in_full(graph))
            plan = Plan(graph, window)
        why = "asked for" if self.executor == "reference" else "full inference"
        chooses = self.executor == "auto" and plan is told
        if self.executor == "cuda" or (chooses and device.type == cuda.DEVICE):
            on_gpu = cuda.program(graph, plan, device)
            if not isinstance(on_gpu, str):
                plan.executor = on_gpu.describe(window)
                return Ready(plan, graph, lambda *example: _cuda_session(on_gpu, plan, example))
            why = on_gpu
            if self.executor == "cuda":
                self.warn(f"the reference executor runs this model: {why}")
        elif self.executor == "native" or chooses:
            found = self._native(graph, plan, device)
            if not isinstance(found, str):
                told.executor = found.describe(plan)
                return Ready(told, graph, lambda *example: _native_session(found, told, plan, example))
            why = found
            if self.executor == "native":
                self.warn(f"the reference executor runs this model: {why}")
        told.executor = f"reference ({why})"
        return Ready(told, graph, lambda *example: ReferenceSession(_reference(graph), plan, *example))

    def _native(self, graph: Graph, plan: Plan, device: torch.device) -> native.NativeProgram | str:
        """The engine's program, or why it is not taken."""
        insists, budget = self.executor == "native", self.budget(device)
        if not insists and native.packed_bytes(graph) > budget:
            return "memory_budget does not hold the C++ engine's packed weights"
        if "native" not in graph.programs:
            graph.programs["native"] = native.program(graph, device)
        found: native.NativeProgram | str = graph.programs["native"]
        if isinstance(found, str) or insists:
            return found
        if not found.pays(plan):
            return f"faster here, since the C++ engine lacks {found.reason}"
        try:
            found.largest_batch(plan, budget)
        except InputError as error:
            return f"the C++ engine takes more memory: {error}"
        return found

    def _prove(self, question: Question, occluded: int, row: int, graph: Graph, session: Session) -> None:
        """Compare an example's base and occluded positions with the user's forward function on each alone.

        Two positions, computed together, for a window that the graph has not met; one, and each time
        another, for one that it has: the un-occluded output may hide what has changed since.

        Raises:
            Disagreement: The graph is wrong, or cannot be told from a wrong one.
        """
        window = session.window
        inputs, additional = question.example(row)
        full = FullSession(
            question.forward_func, inputs, occluded, window, question.baseline(occluded, row),
            additional or None, session.base, 1,
        )  # fmt: skip
        work = distinct_work(full.changed, np.arange(len(window), dtype=np.int64))
        if question.base.shape[:1] != (len(question.inputs[0]),):
            raise Disagreement(_DISAGREES)
        chosen = np.empty(0, dtype=np.int64)
        if len(work.boxes):
            graph.proofs += 1
            places = [graph.proofs * _GOLDEN_RATIO % 1] + [0.5] * (window not in graph.proved)
            chosen = np.unique([work.readers[int(place * len(work.boxes))][0] for place in places])
        mine = {-1: session.base[0]}
        theirs = {-1: question.base[row]}
        mine |= {int(p): out for ps, outs in session.stream(chosen) for p, out in zip(ps, outs, strict=True)}
        theirs |= {int(p): out[0] for p in chosen for _, out in full.stream(np.array([p]))}
        scale = torch.stack([_largest(out) for out in theirs.values()]).max()
        floating = question.base.is_floating_point()
        tolerance = _tolerance(question.base) * scale if floating else scale * 0
        if not all(agree(mine[p], theirs[p], tolerance) for p in theirs):
            amplified = _amplified(question, occluded, row, tolerance) if floating else tolerance
            if amplified > _TELLING * scale:
                raise Disagreement(_AMPLIFIES.format(float(amplified / scale)))
            if not all(agree(mine[p], theirs[p], amplified) for p in theirs):
                raise Disagreement(_DISAGREES)
        graph.proved.add(window)

    # -- full ------------------------------------------------------------------------------------------

    def full(self, question: Question, occluded: int, per_evaluation: int | None, reason: str) -> Answer:
        """One session that runs the user's own forward function, and a warning that says why.

        Nobody can tell whether a function without a graph reads across its batch, so it sees one
        perturbation at a time, unless the user gave a number: Captum's default, and Captum's answer.
        """
        window = question.windows[occluded]
        if question.inputs[occluded].ndim > 2 and len(window) > 1:
            self._warn_full(reason)

        answering = FullSession(
            question.forward_func, question.inputs, occluded, window, question.baselines[occluded],
            question.additional, question.base, per_evaluation or 1,
        )  # fmt: skip
        return Answer([None if answering.joint else 0], lambda _: answering, None)


def _reference(graph: Graph) -> ReferenceProgram:
    """The reference executor's program."""
    if "reference" not in graph.programs:
        graph.programs["reference"] = ReferenceProgram(graph)
    program: ReferenceProgram = graph.programs["reference"]
    return program


def _native_session(
    program: native.NativeProgram, told: Plan, plan: Plan, example: tuple[tuple[Tensor, ...], Tensor, int]
) -> native.NativeSession:
    """The engine's session, beside which the reference executor stands by."""
    words = told.executor

    def reference() -> ReferenceSession:
        told.executor = f"{words}; the reference executor where numbers are not finite"
        return ReferenceSession(_reference(program.graph), plan, *example)

    return native.NativeSession(program, plan, *example, reference)


def _cuda_session(
    program: cuda.CudaProgram, plan: Plan, example: tuple[tuple[Tensor, ...], Tensor, int]
) -> cuda.CudaSession:
    """The GPU's session, and a plan that says what it measured."""
    session = program.open(plan, *example)
    plan.executor = program.describe(plan.window)
    return session


def _users_line() -> int:
    """The ``stacklevel`` of the first frame outside this package and Captum, seen from the caller."""
    level, frame = 0, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in _OURS:
        level, frame = level + 1, frame.f_back
    return level + 1


def _tolerance(output: Tensor) -> float:
    """Disagreement, as a share of the largest output, that two orders of summation may show."""
    eps = torch.finfo(output.dtype).eps
    if output.is_cuda and output.dtype == torch.float32 and "tf32" in cuda.precisions():
        eps = 2**-10
    return min(ROUNDING * eps, max(_TELLING, 16 * eps))


def _largest(output: Tensor) -> Tensor:
    """Largest finite magnitude."""
    finite = output[output.isfinite()].abs().double()
    return finite.max() if finite.numel() else finite.sum()


def _amplified(question: Question, occluded: int, row: int, noise: Tensor) -> Tensor:
    """How far rounding may move the callable's output: as far as ``_ROUNDINGS`` of its input do.

    All cells move in one direction, then each in its own: sums add up the one and average out the other.

    Args:
        question: What is asked.
        occluded: The input that moves.
        row: The example.
        noise: A callable whose answer to the same input moves by more than this is random.

    Returns:
        The largest difference that is explained; 0 for a random callable.
    """
    inputs, additional = question.example(row)
    x, nudge = inputs[occluded], _ROUNDINGS * torch.finfo(question.base.dtype).eps
    signs = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(0)).to(x) * 2 - 1

    def moved(direction: Tensor | int) -> Tensor:
        nudged = (*inputs[:occluded], x * (1 + nudge * direction), *inputs[occluded + 1 :])
        return evaluate(question.forward_func, nudged, additional or None)

    base = moved(0)
    if _largest(moved(0) - base) > noise:
        return noise * 0
    return torch.maximum(_largest(moved(1) - base), _largest(moved(signs) - base))


def agree(mine: Tensor, theirs: Tensor, tolerance: Tensor) -> bool:
    """Whether two outputs are the same but for ``tolerance``."""
    if mine.shape != theirs.shape:
        return False
    if not theirs.is_floating_point():
        return torch.equal(mine, theirs)
    close = (mine - theirs).abs() <= tolerance
    return bool((close | (mine == theirs) | (mine.isnan() & theirs.isnan())).all())


_held: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""Modules that would be in training mode but for `evaluation_mode`, and how many of its blocks hold each."""

_holding = threading.Lock()


@contextmanager
def evaluation_mode(forward_func: Callable[..., Any], warn: Callable[[str], None]) -> Iterator[None]:
    """Evaluation semantics while the block runs; every submodule gets its own flag back.

    Several threads may explain one model: the flags come back with the last of them.
    """
    with _holding:
        modules = dict.fromkeys(m for each in modules_of(forward_func) for m in each.modules())
        mine = [module for module in modules if module.training or module in _held]
        trains = any(module.training for module in mine)
        for module in mine:
            module.training = False
            _held[module] = _held.get(module, 0) + 1
    try:
        if trains:
            warn(
                "the model is in training mode; "
                "occlusion evaluates it as after .eval() and restores its flags"
            )
        yield
    finally:
        with _holding:
            for module in mine:
                _held[module] -= 1
                if not _held[module]:
                    del _held[module]
                    module.training = True
