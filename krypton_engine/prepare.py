"""Which session answers for a callable: capture, plan and prove it, or fall back to full inference."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from krypton_engine.capture import CaptureError, capture, modules_of
from krypton_engine.errors import FallbackWarning
from krypton_engine.executors import Session
from krypton_engine.executors.full import FullSession
from krypton_engine.executors.reference import ReferenceProgram, ReferenceSession
from krypton_engine.plan import Plan
from krypton_engine.windows import SlidingWindow

ROUNDING = 2000
"""Disagreement, in units of the dtype's rounding of the largest output, that two orders of summation may
show; more than that is a stale or wrong capture."""


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

    ``rows[i]`` is the example that session i answers, None for all.
    """

    sessions: list[Session]
    rows: list[int | None]
    plan: Plan | None


@dataclass
class Preparer:
    """Opens sessions and remembers what it has warned of.

    Args:
        executor: ``"auto"`` runs full inference where incremental work would not pay; a named executor runs
            wherever there is a graph.
        memory_budget: Bytes that one call may add to the process.
    """

    executor: str
    memory_budget: int
    _warned: set[str] = field(default_factory=set)

    def prepare(self, question: Question, occluded: int, per_evaluation: int | None) -> Answer:
        """Sessions for ``question`` with input number ``occluded`` occluded."""
        window = question.windows[occluded]
        try:
            incremental = self._incremental(question, occluded, window)
            if incremental is None:
                incremental = self._incremental(question, occluded, window, again=True)
            if isinstance(incremental, Answer):
                return incremental
            reason, plan = incremental or (
                "its graph disagrees with what it returns (it may be random, or read across the batch)",
                None,
            )
        except CaptureError as error:
            reason, plan = str(error), None
        if question.inputs[occluded].ndim > 2 and len(window) > 1:
            self.warn(
                f"occlusion runs as batched full inference, which is exact but not incremental: {reason}"
            )
        return self._full(question, occluded, window, per_evaluation, plan)

    def warn(self, message: str) -> None:
        """Warn once."""
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, FallbackWarning, stacklevel=5)

    # -- incremental -----------------------------------------------------------------------------------

    def _incremental(
        self, question: Question, occluded: int, window: SlidingWindow, again: bool = False
    ) -> Answer | tuple[str, Plan] | None:
        """Proved sessions; or why incremental work does not pay; or None if the capture is wrong."""
        graph = capture(
            question.forward_func, question.inputs, occluded, question.additional or (), again=again
        )
        plan = Plan(graph, window)
        if self.executor == "auto" and not plan.incremental:
            return f"it would not pay (full over incremental work is {plan.gain:.2f})", plan
        if "reference" not in graph.programs:
            graph.programs["reference"] = ReferenceProgram(graph)
        program = graph.programs["reference"]
        sessions: list[Session] = []
        for row in range(question.inputs[0].shape[0]):
            inputs, additional = question.example(row)
            tensors = inputs + tuple(a for a in additional if isinstance(a, Tensor))
            session = ReferenceSession(
                program, plan, tensors, question.baseline(occluded, row), self.memory_budget
            )
            if question.base.shape[:1] != (len(question.inputs[0]),) or not agree(
                session.base, question.base[row : row + 1]
            ):
                return None
            sessions.append(session)
        if window not in graph.proved:
            if not self._prove(question, occluded, window, sessions[0]):
                return None
            graph.proved.add(window)
        return Answer(sessions, list(range(len(sessions))), plan)

    def _prove(self, question: Question, occluded: int, window: SlidingWindow, session: Session) -> bool:
        """Compare two occluded positions, computed together, with the user's forward function, one by one."""
        inputs, additional = question.example(0)
        full = FullSession(
            question.forward_func, inputs, occluded, window, question.baseline(occluded, 0),
            additional or None, session.base, 1, self.memory_budget,
        )  # fmt: skip
        boxes = full.changed.boxes(np.arange(len(window), dtype=np.int64))
        changing = np.flatnonzero((boxes[..., 1] > boxes[..., 0]).all(axis=1))
        if not len(changing):
            return True
        chosen = np.unique(changing[[len(changing) // 2, len(changing) // 3]])
        mine = {int(p): out for ps, outs in session.stream(chosen) for p, out in zip(ps, outs, strict=True)}
        return all(agree(mine[int(p)][None], out) for p in chosen for _, out in full.stream(np.array([p])))

    # -- full ------------------------------------------------------------------------------------------

    def _full(
        self,
        question: Question,
        occluded: int,
        window: SlidingWindow,
        per_evaluation: int | None,
        plan: Plan | None,
    ) -> Answer:
        def session(count: int | None) -> FullSession:
            return FullSession(
                question.forward_func, question.inputs, occluded, window, question.baselines[occluded],
                question.additional, question.base, count, self.memory_budget,
            )  # fmt: skip

        if per_evaluation is None and not self._separable(session(1), session(2)):
            per_evaluation = 1
        answering = session(per_evaluation)
        return Answer([answering], [None if answering.joint else 0], plan)

    def _separable(self, single: FullSession, double: FullSession) -> bool:
        """Whether two positions in one evaluation come out as they do alone."""
        chosen = np.unique(np.array([len(single.window) // 3, len(single.window) // 2]))
        try:
            alone, together = (
                {int(p): out for ps, outs in s.stream(chosen) for p, out in zip(ps, outs, strict=True)}
                for s in (single, double)
            )
        except (ValueError, RuntimeError):  # the output does not grow, or the function wants its own batch
            return False
        return all(agree(together[p], alone[p]) for p in alone)


def agree(mine: Tensor, theirs: Tensor) -> bool:
    """Whether two outputs are the same within rounding."""
    if mine.shape != theirs.shape:
        return False
    if not theirs.is_floating_point():
        return torch.equal(mine, theirs)
    scale = theirs.abs().max() if theirs.numel() else torch.zeros(())
    tolerance = ROUNDING * torch.finfo(theirs.dtype).eps * scale
    close = (mine - theirs).abs() <= tolerance
    return bool((close | (mine == theirs) | (mine.isnan() & theirs.isnan())).all())


@contextmanager
def evaluation_mode(forward_func: Callable[..., Any], warn: Callable[[str], None]) -> Iterator[None]:
    """Evaluation semantics while the block runs; every submodule gets its own flag back."""
    training: list[nn.Module] = list(
        dict.fromkeys(m for module in modules_of(forward_func) for m in module.modules() if m.training)
    )
    if training:
        warn("the model is in training mode; occlusion evaluates it as after .eval() and restores its flags")
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
