"""Deletion and insertion: what becomes of an answer as regions go, or come, the most important first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from krypton_engine.attr.checks import Activation, activation_of, check_one_example, memory_budget_of
from krypton_engine.attr.features import regions_in
from krypton_engine.attr.inputs import question_over
from krypton_engine.attr.request import activated_row
from krypton_engine.attr.targets import indices, of_example, select, selected_of
from krypton_engine.common.arguments import whole
from krypton_engine.common.arrays import Floats, IntArray
from krypton_engine.common.calling import Baselines, Forward
from krypton_engine.common.outputs import activated
from krypton_engine.errors import InputError
from krypton_engine.heatmap.builder import MapBuilder
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.perturbation.regions import Regions
from krypton_engine.planning import proof
from krypton_engine.planning.answer import Answer
from krypton_engine.planning.planner import Preparer
from krypton_engine.planning.question import Question
from krypton_engine.planning.training import evaluation_mode
from krypton_engine.run.loop import Watch
from krypton_engine.run.walks import led

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Attribution = Tensor | Heatmap
Kind = Literal["deletion", "insertion"]


@dataclass(frozen=True, eq=False)
class Curve:
    """The target's value as regions are covered one after another (deletion), or uncovered (insertion).

    Attributes:
        kind: ``"deletion"`` or ``"insertion"``.
        shares: Share of the cells that have been covered, or uncovered: ``(steps + 1,)``, from 0 to 1.
        values: The target's value after each step: ``(steps + 1,)``, float64.
        order: Numbers of the regions in the order in which they went, or came: ``(steps,)``.

    Examples:
        >>> curve = Curve("deletion", np.array([0, 0.5, 1]), np.array([0.9, 0.2, 0.1]), np.array([3, 1]))
        >>> round(curve.area, 3)
        0.35
    """

    kind: Kind
    shares: Floats
    values: Floats
    order: IntArray

    @property
    def area(self) -> float:
        """The area under the curve: the mean of the value. Good explanations delete low and insert high."""
        return float(np.trapezoid(self.values, self.shares))

    def plot(self, ax: Axes | None = None, label: str | None = None) -> Axes:
        """Draw the curve.

        Args:
            ax: Matplotlib axes; None for new ones.
            label: Name in the legend, beside the area.

        Examples:
            >>> curve = Curve("insertion", np.array([0, 1.0]), np.array([0.1, 0.9]), np.array([0]))
            >>> curve.plot(label="occlusion").get_xlabel()
            'share of the image uncovered'
        """
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots()
        words = f"{label}: {self.area:.3f}" if label else f"area {self.area:.3f}"
        ax.plot(self.shares, self.values, label=words)
        ax.set_xlabel(f"share of the image {'covered' if self.kind == 'deletion' else 'uncovered'}")
        ax.set_ylabel("the target's value")
        ax.set_xlim(0, 1)
        ax.legend(title=f"area, {'lower' if self.kind == 'deletion' else 'higher'} is better")
        return ax


def curves(
    kind: Kind,
    forward_func: Forward,
    x: Tensor,
    attributions: Mapping[str, Attribution],
    regions: Tensor | Regions | int,
    baselines: Baselines,
    target: int | tuple[int, ...] | None,
    additional: object,
    activation: Activation,
    executor: str,
    memory_budget: int | None,
    show_progress: bool,
) -> dict[str, Curve]:
    """The curve of every attribution; arguments as of `krypton_engine.evaluate.deletion`.

    Raises:
        InputError: An argument that cannot be used.

    Examples:
        >>> options = None, 2, None, None, "auto", None, False
        >>> found = curves("deletion", model, x, {"any": torch.rand_like(x)}, 8, *options)
        >>> bool(abs(found["any"].values[0] - float(model(x)[0, 2])) < 1e-5)
        True
    """
    preparer = Preparer(executor, memory_budget_of(forward_func, executor, memory_budget))
    check_one_example(x)
    activate, target = activation_of(activation), indices(target)
    cells = regions_of(regions, x)
    scores = {name: _scores(name, each, x, cells) for name, each in attributions.items()}
    with torch.no_grad(), evaluation_mode(forward_func, preparer.warn):
        question = question_over(forward_func, x, lambda _: (cells,), baselines, additional)
        base = activated_row(question.base, activate)
        if target is None and base.ndim == 2:
            target = int(base[0].argmax())
        if selected_of(base, target, 1).numel() != 1:
            raise InputError("target", repr(target), "targets that are one number")
        if kind == "insertion":
            question = question.from_baseline()
        found = {}
        with Watch(len(scores) * len(cells), None, show_progress, kind.capitalize()) as watch:
            for name, score in scores.items():
                order = np.argsort(-score, kind="stable")
                select_one = partial(_one, target=of_example(target, 0, 1), activate=activate)
                work = partial(_values, question, order, select_one, watch, watch.done)
                values = preparer.answered(question, 0, None, work)
                shares = np.concatenate([[0.0], np.cumsum(cells.sizes[order]) / cells.sizes.sum()])
                found[name] = Curve(kind, shares, values, cells.ids[order])
            watch.finish()
    return found


def _one(outputs: Tensor, target: Any, activate: Any) -> Tensor:
    """The target's value of outputs: ``(n,)``."""
    # A copy: a part of all outputs would keep them all.
    return select(activated(outputs, activate), target).reshape(len(outputs)).clone()


def _values(
    question: Question, order: IntArray, select_one: Any, watch: Watch, done: int, answer: Answer
) -> Floats:
    """The target's values after every step of an order."""
    watch.rewind(done)
    (row,) = answer.rows
    session = answer.open(row)
    if not session.most_walks:
        raise InputError("memory_budget", "too small", problem="for the views of a walk")
    start = question.as_occluded(0).inputs[0]
    values, first, last = led(session, start, order, select_one, watch.advance)
    end = question.ask((question.baseline(0, 0).to(start),), 0)
    proof.check_end(last, end, session.base)
    regions = session.window
    builder = MapBuilder(regions, session.base, select_one)
    changes = session.changed.boxes(order)
    some = order[(changes[..., 1] > changes[..., 0]).all(1)][:1]
    builder.record(some, first[: len(some)])
    answer.confirm(row, session, builder)
    return np.asarray(torch.cat([select_one(session.base), values]).double().cpu().numpy())


def regions_of(given: Tensor | Regions | int, x: Tensor) -> Regions:
    """The regions that a user gives: a mask, or the side of square patches.

    Raises:
        InputError: Anything else.

    Examples:
        >>> len(regions_of(8, x))
        9
    """
    shape = tuple(x.shape[1:])
    if isinstance(given, Regions):
        if given.input_shape != shape:
            raise InputError("regions", f"of inputs of shape {given.input_shape}", f"regions of {shape}")
        return given
    if isinstance(given, (Tensor, np.ndarray)) and given.ndim:
        return regions_in(given, x, "regions")
    side = whole(given)
    if side is None or side < 1 or len(shape) < 2:
        raise InputError("regions", repr(given), "a mask of whole numbers, or the side of square patches")
    return Regions.tiles(shape, (shape[0], *(side for _ in shape[1:])))


def _scores(name: str, attribution: Attribution, x: Tensor, regions: Regions) -> Floats:
    """The mean attribution of every region; an attribution that stands alone has an empty name."""
    argument = f"attribution[{name!r}]" if name else "attribution"
    values = attribution.attribution() if isinstance(attribution, Heatmap) else attribution
    if not isinstance(values, Tensor):
        raise InputError(argument, type(values).__name__, "a tensor, or a Heatmap")
    try:
        whole_map = values.detach().cpu().double().expand(x.shape)[0]
    except RuntimeError:
        raise InputError(
            argument,
            f"shape {tuple(values.shape)}",
            f"what broadcasts to the input's, {tuple(x.shape)}",
            verb="has",
        ) from None
    if bool(whole_map.isnan().any()):
        known = "attributions of every cell; those of a heatmap that is measured in part are not"
        raise InputError(argument, "numbers that are missing (NaN)", known, verb="holds")
    numbers = np.broadcast_to(regions.numbers, regions.input_shape).reshape(-1)
    total = np.bincount(numbers, whole_map.numpy().reshape(-1), len(regions))
    return np.asarray(total / np.bincount(numbers, minlength=len(regions)))
