"""The choice of a session for a callable: capture, plan and prove it, or fall back to full inference."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from krypton_engine.errors import FallbackWarning, OutdatedError, RoundingWarning
from krypton_engine.executors import registry
from krypton_engine.executors.base import Opening, Program, Session, Unsupported
from krypton_engine.executors.full import FullSession
from krypton_engine.executors.memory import beside
from krypton_engine.executors.programs import kept
from krypton_engine.executors.uncast import uncast
from krypton_engine.graph.draft import CaptureError
from krypton_engine.graph.gradients import Head
from krypton_engine.graph.ir import Graph, in_full
from krypton_engine.heatmap.builder import MapBuilder
from krypton_engine.perturbation.changed import distinct_work, in_pieces
from krypton_engine.perturbation.positions import Positions
from krypton_engine.plan.plan import Plan
from krypton_engine.planning import proof
from krypton_engine.planning.answer import Answer, Ready
from krypton_engine.planning.cache import capture, refuse
from krypton_engine.planning.cheap import cheap_session
from krypton_engine.planning.memory import proofs_of
from krypton_engine.planning.proof import Disagreement, Noise, Unprovable, agree, largest
from krypton_engine.planning.question import Question
from krypton_engine.planning.witness import GOLDEN_RATIO, Witness

Answered = TypeVar("Answered")

_OURS = {"krypton_engine", "captum", "contextlib"}


_BUDGET = 2 * 2**30
"""Bytes that a call may add to the process where the user gives no number."""


_PIECES_PAY = 1.3
"""Gain over changing whole boxes from which scattered regions are changed piece by piece."""


@dataclass
class Preparer:
    """The opener of sessions; each warning is given once.

    Args:
        executor: ``"auto"`` runs full inference where incremental work would not pay; a named executor runs
            wherever there is a graph.
        memory_budget: Bytes that one call may add to the process; None for `budget`'s own.

    Examples:
        >>> Preparer("auto", memory_budget=2**30).budget(torch.device("cpu"))
        1073741824
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

    def answered(
        self,
        question: Question,
        occluded: int,
        per_evaluation: int | None,
        work: Callable[[Answer], Answered],
        watched: bool = False,
    ) -> Answered:
        """The result of ``work`` on sessions that have proved themselves, for one occluded input.

        Work is repeated where a graph disagrees with the callable that it was captured from: once with a new
        capture, for the old one may be stale; after that the callable runs in full, being random or beyond
        us. More is proved before the beginning of watched work, which may be seen, or cut short, before its
        end.
        """
        question = question.as_occluded(occluded)
        for again in (False, True):
            # One after the other: until an ``except`` ends, its error keeps frames, and so sessions, alive.
            try:
                return work(self._incremental(question, occluded, watched, again))
            except (CaptureError, Unprovable) as error:
                reason = str(error)
                break
            except Disagreement as error:
                reason = str(error)
        else:
            refuse(question.source(occluded), reason)
        return work(self.full(question, occluded, per_evaluation, reason))

    def warn(self, message: str) -> None:
        """Warn once."""
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, FallbackWarning, stacklevel=_users_line())

    def _warn_of_rounding(self, message: str, span: float, noise: float) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message.format(span, noise), RoundingWarning, stacklevel=_users_line())

    def _warn_full(self, reason: str) -> None:
        self.warn(f"occlusion runs as batched full inference, which is exact but not incremental: {reason}")

    # -- incremental -----------------------------------------------------------------------------------

    def _incremental(self, question: Question, occluded: int, watched: bool, again: bool) -> Answer:
        """Sessions on the graph, each of which proves itself, the first of them now.

        Raises:
            CaptureError: There is no graph.
            Disagreement: The graph is wrong.
        """
        graph = capture(question.source(occluded), again=again)
        device = question.inputs[occluded].device
        ready, budget = self.plan(graph, question.windows[occluded], device), self.budget(device)
        known = not again and bool(proofs_of(graph).count or proofs_of(ready.graph).count)

        def session(row: int | None) -> Session:
            assert row is not None
            opened = ready.open(Opening(question.tensors(row), question.baseline(occluded, row), budget))
            try:
                self._prove(question, occluded, row, ready, opened, watched)
            except Unprovable as error:
                if known and proofs_of(ready.graph).windows:  # it could be proved once, and may be stale
                    raise Disagreement(str(error)) from None
                raise
            return opened

        def confirm(row: int | None, opened: Session, builder: MapBuilder) -> None:
            assert row is not None
            self._confirm(question, occluded, row, ready, known, opened, builder)

        recall = partial(self._recall, question, occluded, 0, ready, known)

        waiting = [session(0)]
        if ready.graph is not graph:
            self.warn(
                "occlusion runs as batched full inference wherever it is exact: "
                f"incremental work would not pay (full over incremental: {ready.expected.gain:.2f})"
            )

        def open_session(row: int | None) -> Session:
            return waiting.pop() if row == 0 and waiting else session(row)

        def cheap(row: int | None, head: Head) -> Session | None:
            assert row is not None
            if question.windows[occluded] is not question.windows[occluded].plain:
                return None  # cheap sessions cover with the baseline alone
            inputs, baseline = question.tensors(row), question.baseline(occluded, row)
            opening = Opening(inputs, baseline, budget - ready.physical.bytes_views, head)
            return cheap_session(graph, ready.expected, program, opening)

        def program(made: Graph, plan: Plan) -> Program:
            return self._program(made, plan, device)[0]

        rows: list[int | None] = list(range(len(question.inputs[0])))
        return Answer(rows, open_session, ready.ran, recall, confirm, cheap)

    def plan(self, graph: Graph, window: Positions, device: torch.device) -> Ready:
        """The program that runs ``window`` on ``graph``, and the plan that names its executor.

        Examples:
            >>> ready = Preparer("reference", None).plan(graph, plan.window, torch.device("cpu"))
            >>> ready.plan.steps == plan.steps, ready.plan.executor.split()[0]
            (True, 'reference')
        """
        plan = Plan.of(graph, window)
        if (apart := in_pieces(window)) is not None:
            in_parts = Plan.of(graph, apart)
            plan = in_parts if in_parts.gain > _PIECES_PAY * plan.gain else plan
        if self.executor == "auto" and not plan.incremental:
            every = kept(graph, "in full", in_full)
            full = Plan.of(every, window)
            last = registry.preferred(device)[-1]
            program = uncast(last.program(every, full, device), device)
            return Ready(plan, graph, every, full, program, "full inference")
        program, why = self._program(graph, plan, device)
        return Ready(plan, graph, graph, plan, program, why)

    def _program(self, graph: Graph, plan: Plan, device: torch.device) -> tuple[Program, str]:
        """The program of the first executor that takes a graph, and why those before it do not."""
        *others, last = registry.preferred(device)
        why, insists = "", self.executor != "auto"
        if self.executor == last.name:
            others, why = [], "asked for"
        elif insists:
            others = [registry.executor(self.executor)]
        for executor in others:
            try:
                if not insists:
                    executor.pays(graph, plan, device, self.budget(device))
                return uncast(executor.program(graph, plan, device), device), ""
            except Unsupported as reason:
                why = str(reason)
        if others and insists:
            self.warn(f"the {last.name} executor runs this model: {why}")
        return uncast(last.program(graph, plan, device), device), why

    def _prove(
        self, question: Question, occluded: int, row: int, ready: Ready, session: Session, watched: bool
    ) -> None:
        """Compare an example's base, and windows of a kind that is new, with the user's forward function.

        A window that is new to the graph is proved by two occluded positions, computed together; watched work
        by one, each time another; a new graph by its rows beside others.

        Raises:
            Disagreement: The graph is wrong, or cannot be known from a wrong one.
        """
        if question.base.shape[:1] != (len(question.inputs[0]),):
            raise Disagreement(proof.DISAGREES)
        inputs, _ = question.example(row)
        mine, theirs = [session.base[0]], [question.base[row]]
        graph = ready.graph
        proofs = proofs_of(graph)
        new = session.window.kind not in proofs.windows
        if new or watched:
            work = distinct_work(session.changed, np.arange(len(session.window), dtype=np.int64))
            proofs.count += 1
            places = [proofs.count * GOLDEN_RATIO % 1] + [0.5] * new
            chosen = np.unique([int(place * len(work.boxes)) for place in places])
            some = work.part(chosen if len(work.boxes) else slice(0))
            for found in session.compute(some.boxes, None, some.contents) if len(some.boxes) else ():
                for change, output in zip(found.which, found.outputs, strict=True):
                    position = int(some.positions[change][0])
                    mine.append(output)
                    theirs.append(question.ask(question.at(occluded, row, position), row)[0])
        eps, scale = proof.precision(graph, question.base), max(map(largest, theirs))
        tolerance = proof.summation(eps) * scale
        if not all(map(agree, mine, theirs, [tolerance] * len(mine))):
            noise = Noise(lambda moved: question.ask(moved, row), inputs, occluded, eps).measured(tolerance)
            if noise > proof.MOST_NOISE_OF_OUTPUT * scale:
                raise Unprovable(proof.AMPLIFIES.format(noise / scale))
            if not all(map(agree, mine, theirs, [noise] * len(mine))):
                raise Disagreement(proof.DISAGREES)
        if not proofs.windows:
            memory = beside(ready.physical, self.budget(question.inputs[occluded].device))
            if not proof.separable(ready.captured, question.tensors(row), memory):
                raise Disagreement(proof.ACROSS)
        if new and scale:  # zeros, and what is not finite, prove nothing
            proofs.windows.add(session.window.kind)

    def _confirm(
        self, question: Question, occluded: int, row: int, ready: Ready, known: bool, session: Session,
        builder: MapBuilder,
    ) -> None:  # fmt: skip
        """Compare a map with the user's own forward function, where a difference would show.

        Compared are the base, the position of the largest drop, and other positions as time allows, each time
        others.

        Raises:
            Disagreement: They differ by more than a hundredth of the largest drop, and more than rounding
                explains, or than it explained of a graph that is known from an earlier call.
        """
        exact = builder.exact()
        work = distinct_work(session.changed, exact if len(exact) else builder.trimmed())
        if not len(work.boxes):
            return
        firsts = np.array([alike[0] for alike in work.positions])
        eps, proofs = proof.precision(ready.graph, question.base), proofs_of(ready.graph)
        witness = Witness(
            question, occluded, row, builder, firsts, eps, self._warn_of_rounding, proofs if known else None,
            proofs_of(ready.captured).exported,
        )  # fmt: skip
        proofs.count += 1
        witness.examine(session, work.boxes, proofs.count)
        if not known:
            proofs.differed = max(proofs.differed, witness.differed)
            proofs.differed_in_full = max(proofs.differed_in_full, witness.differed_in_full)

    def _recall(
        self, question: Question, occluded: int, row: int, ready: Ready | None, known: bool, session: Session,
        builder: MapBuilder,
    ) -> None:  # fmt: skip
        """Compare what a builder resumed with the user's own forward function of today.

        Raises:
            OutdatedError: They differ where it would show.
            Disagreement: A graph that is known from an earlier call says something else than the function.
        """
        exact = builder.exact(resumed=True)
        if not len(exact):
            return
        eps = torch.finfo(question.base.dtype).eps if question.base.is_floating_point() else 0.0
        proofs, exported = None, None
        if ready is not None:
            eps = proof.precision(ready.graph, question.base)
            proofs = proofs_of(ready.graph) if known else None
            exported = proofs_of(ready.captured).exported
        witness = Witness(
            question, occluded, row, builder, exact, eps, self._warn_of_rounding, proofs, exported
        )
        witness.examine_graph()
        try:
            witness.examine_resumed(session)
        except Disagreement:
            raise OutdatedError(
                builder.resumed_as,
                f"{builder.kept()[0][witness.largest].tolist()} at position {witness.largest}",
                problem=(
                    "but the forward function now returns another value there: the model, its weights, "
                    "activation= or additional_forward_args= have changed since the map was made"
                ),
                verb="holds",
            ) from None

    # -- full ------------------------------------------------------------------------------------------

    def full(self, question: Question, occluded: int, per_evaluation: int | None, reason: str) -> Answer:
        """One session that runs the user's own forward function, and a warning that says why.

        A function without a graph may read across its batch, so it is given one perturbation at a time,
        unless the user gave a number: Captum's default, and Captum's answer.
        """
        window = question.windows[occluded]
        if question.inputs[occluded].ndim > 2 and len(window) > 1:
            self._warn_full(reason)

        answering = FullSession(
            question.forward_func, question.inputs, occluded, window, question.baselines[occluded],
            question.additional, question.base, per_evaluation or 1,
        )  # fmt: skip
        recall = partial(self._recall, question, occluded, 0, None, False)
        return Answer([None if answering.joint else 0], lambda _: answering, lambda _: None, recall)


def _users_line() -> int:
    """The ``stacklevel`` of the first frame outside this package and Captum, seen from the caller."""
    level, frame = 0, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in _OURS:
        level, frame = level + 1, frame.f_back
    return level + 1
