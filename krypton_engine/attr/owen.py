"""Owen values: Shapley values along a hierarchy of clusters, as ``shap.PartitionExplainer`` computes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from krypton_engine.attr.checks import Activation, activation_of, memory_budget_of, shape_or_type
from krypton_engine.attr.explain import WithoutGraph
from krypton_engine.attr.features import masks_of, regions_of
from krypton_engine.attr.inputs import check_rows, question_over
from krypton_engine.attr.request import AttributionRequest, activated_row
from krypton_engine.attr.targets import indices, of_example, select, selected_of
from krypton_engine.common.arguments import at_least, whole
from krypton_engine.common.arrays import Floats, IntArray
from krypton_engine.common.calling import Activate, Baselines, Forward, Target
from krypton_engine.common.outputs import activated
from krypton_engine.errors import InputError
from krypton_engine.heatmap.builder import MapBuilder
from krypton_engine.perturbation.changed import distinct_work
from krypton_engine.perturbation.hierarchy import Halves, Linkage, Tree, halved
from krypton_engine.perturbation.positions import Positions
from krypton_engine.perturbation.regions import Regions
from krypton_engine.planning import proof
from krypton_engine.planning.answer import Answer
from krypton_engine.planning.planner import Preparer
from krypton_engine.planning.training import evaluation_mode
from krypton_engine.run.coalitions import LEAST_WALKS, Coalitions
from krypton_engine.run.loop import Watch
from krypton_engine.run.owen import Context, Step, owen

_WORDS = "Owen values"

_REGIONS = 64
"""Parts of an image that a plan is made for, and a graph is proved with."""


def owen_values(
    forward_func: Forward,
    inputs: Tensor,
    baselines: Baselines = None,
    target: Target = None,
    additional_forward_args: object = None,
    *,
    feature_mask: Tensor | None = None,
    tree: object = None,
    max_evals: int = 500,
    fixed_context: Literal["auto", 0, 1] | None = "auto",
    batch_size: int = 10,
    activation: Activation = None,
    executor: str = "auto",
    memory_budget: int | None = None,
    show_progress: bool = False,
) -> Tensor:
    """Owen values of the cells of an image, or of regions: ``shap.PartitionExplainer``, many times faster.

    A hierarchy of clusters is split from the top, the clusters that change the output most first, and each
    shares what it is worth out among its halves, as they come to what is covered and to what is present
    beside them. A cluster that is not split shares its credit out among its leaves evenly. Each evaluation
    computes only the cells that its half can change, beside a coalition of which all activations are kept.

    The numbers are those of shap 0.51 with a masker that fills absent cells with the baseline: same tree,
    same arguments, same evaluations. Where clusters change the output equally, shap draws lots; here the
    first comes first. A callable that cannot run incrementally runs in full, with one ``FallbackWarning``.

    Args:
        forward_func: The forward function that is explained.
        inputs: Tensor, dimension 0 is the examples, which are explained one by one.
        baselines: Scalar or tensor: the value of a cell that is absent. Default 0.
        target: As of `krypton_engine.KryptonOcclusion.attribute`.
        additional_forward_args: As there.
        feature_mask: Whole numbers, the region of every cell, as of
            `krypton_engine.KryptonFeatureAblation.attribute`. None: single cells, in the hierarchy of
            ``shap.maskers.Image``, which halves an image along its longer side, and splits the channels (the
            first axis) of single pixels.
        tree: The user's hierarchy of the regions, in the rising order of their numbers: a linkage matrix of
            SciPy's, ``(regions - 1, 4)``. None: the regions are halved by their centres.
        max_evals: Number of evaluations, those of all covered and of nothing covered among them; at most, but
            for the rest of a batch.
        fixed_context: 0: halves come to what is covered beside them; 1: to what is present; None or
            ``"auto"``: to both in turn.
        batch_size: Number of evaluations that are computed together, and ranked together. The result depends
            on it.
        activation: Function of the outputs, or ``"softmax"``. Default None.
        executor: As of `krypton_engine.KryptonOcclusion`.
        memory_budget: As there.
        show_progress: Whether to draw a progress bar with the time left.

    Returns:
        ``(examples, *selected_shape, *input_shape)``, in the dtype of the outputs: the shape of ``inputs``
        for targets of one number. Over its cells (over its regions) an example's add up to what the input is
        worth more than the baseline.

    Raises:
        InputError: An argument that cannot be used; nothing has been computed then.

    Examples:
        >>> values = owen_values(model, x, target=1, max_evals=100)
        >>> values.shape, torch.allclose(values.sum(), (model(x) - model(0 * x))[0, 1], atol=1e-5)
        (torch.Size([1, 3, 24, 20]), True)
        >>> mask = torch.arange(24)[:, None] // 8 * 3 + torch.arange(20) // 8  # nine regions
        >>> len(owen_values(model, x, target=1, feature_mask=mask).unique())
        9
    """
    preparer = Preparer(executor, memory_budget_of(forward_func, executor, memory_budget))
    if not isinstance(inputs, Tensor) or not inputs.ndim or not inputs.numel():
        raise InputError("inputs", shape_or_type(inputs), "a tensor with at least one example")
    evaluations = at_least(2, "max_evals", max_evals)
    batch = at_least(1, "batch_size", batch_size)
    plain = fixed_context is None or isinstance(fixed_context, str) or whole(fixed_context) is not None
    if not plain or fixed_context not in (None, "auto", 0, 1):
        raise InputError("fixed_context", repr(fixed_context), "None, 'auto', 0 or 1")
    context = None if fixed_context == "auto" else whole(fixed_context)
    if tree is not None and feature_mask is None:
        raise InputError("tree", "given", "None without feature_mask, whose regions a tree joins")
    activate, target = activation_of(activation), indices(target)
    trees = _trees(inputs, feature_mask, tree)
    with torch.no_grad(), evaluation_mode(forward_func, preparer.warn):
        question = question_over(
            forward_func, inputs, lambda _: (_regions(trees[0]),), baselines, additional_forward_args
        )
        check_rows(question.base, inputs)
        activated_row(question.base[:1], activate)
        base = selected_of(activated(question.base, activate), target, len(inputs))
        request = AttributionRequest(question, target, None, None)
        rows = []
        with Watch(evaluations * len(inputs), None, show_progress, _WORDS) as watch:
            for row, one in enumerate(trees):
                mine = request.of_row(row, (_regions(one),))
                work = partial(
                    _of_example, mine, one, activate, evaluations - 2, context, batch, watch, watch.done
                )
                try:
                    found = preparer.answered(mine.question, 0, None, work)
                except WithoutGraph as reason:
                    found = work(preparer.full(mine.question.as_occluded(0), 0, batch, str(reason)))
                rows.append(found.reshape(*base.shape[1:], *inputs.shape[1:]))
            watch.finish()
    kind = base.dtype if base.is_floating_point() else torch.float32
    return torch.stack(rows).to(inputs.device, kind)


def _trees(inputs: Tensor, feature_mask: Tensor | None, tree: object) -> list[Tree]:
    """The hierarchy of every example."""
    if feature_mask is None:
        return [Halves(tuple(inputs.shape[1:]))] * len(inputs)
    masks, found = masks_of(feature_mask, (inputs,)), []
    for row in range(len(inputs)):
        (regions,) = regions_of(masks, (inputs,), row)
        found.append(Linkage(regions, halved(regions) if tree is None else tree))
    return list(found)


def _regions(tree: Tree) -> Regions:
    """The positions that a session over a hierarchy is planned and proved with."""
    if isinstance(tree, Linkage):
        return tree.regions
    assert isinstance(tree, Halves)
    return tree.regions(_REGIONS)


def _of_example(
    request: AttributionRequest,
    tree: Tree,
    activate: Activate,
    evaluations: int,
    context: Context,
    batch: int,
    watch: Watch,
    done: int,
    answer: Answer,
) -> Tensor:
    """Owen values of one example: ``(values, *input_shape)``, float64."""
    watch.rewind(done)
    (row,) = answer.rows
    session, question = answer.open(row), request.question
    if session.most_walks < LEAST_WALKS:
        raise WithoutGraph(f"{session.executor} holds {session.most_walks} walks in memory_budget")
    (x,), baseline = question.as_occluded(0).inputs, question.baseline(0, 0)
    one = of_example(request.target, 0, 1)

    selected = partial(_selected, activate=activate, target=one)
    coalitions = Coalitions(session, tree, x, baseline, selected)

    def evaluate(steps: Sequence[Step]) -> Floats:
        watch.advance(len(steps))
        return coalitions.values(steps)

    credits = owen(tree, evaluate, coalitions.nothing, coalitions.everything, evaluations, context, batch)
    values = tree.spread(credits)
    if answer.plan(session) is not None:
        for now, found in coalitions.seen:
            proof.check_end(found, question.ask((now,), 0), session.base)
        # Of all regions the one of most credit shows best where a graph has become stale.
        builder = MapBuilder(session.window, session.base, partial(select, target=one), activate=activate)
        work = distinct_work(session.changed, _most_credited(session.window, values))
        for part in session.compute(work.boxes, None, work.contents) if len(work.boxes) else ():
            builder.record(work.positions[0], part.outputs)
        answer.confirm(row, session, builder)
    return values


def _selected(outputs: Tensor, activate: Activate, target: Target) -> Tensor:
    return select(activated(outputs, activate), target)


def _most_credited(positions: Positions, values: Tensor) -> IntArray:
    """The region of the largest credit, in either direction: ``(1,)``."""
    assert isinstance(positions, Regions)
    numbers = np.broadcast_to(positions.numbers, positions.input_shape).reshape(-1)
    credit = np.bincount(numbers, values.abs().sum(0).reshape(-1).numpy(), len(positions))
    return np.array([int(credit.argmax())])
