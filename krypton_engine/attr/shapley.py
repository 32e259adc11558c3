"""KryptonShapleyValueSampling: the surface of ``captum.attr.ShapleyValueSampling``."""

from __future__ import annotations

import time
import warnings
from typing import Any

import torch
from captum.attr import ShapleyValueSampling
from torch import Tensor

from krypton_engine.attr.checks import memory_budget_of
from krypton_engine.attr.explain import WithoutGraph
from krypton_engine.attr.features import masks_of, regions_of
from krypton_engine.attr.permutations import WORDS, Limits, Orders, sampled
from krypton_engine.attr.request import ablation_request
from krypton_engine.common.calling import Baselines, Forward, Target
from krypton_engine.common.captum import counted
from krypton_engine.errors import InputError
from krypton_engine.planning.planner import Preparer
from krypton_engine.planning.training import evaluation_mode
from krypton_engine.run.loop import Watch
from krypton_engine.run.tally import Tally

Attributions = Tensor | tuple[Tensor, ...]


_MOST_ABSENT = 2**20
"""Numbers of features up to which some may have no cell: permutations hold them all."""


class KryptonShapleyValueSampling(ShapleyValueSampling):
    """``captum.attr.ShapleyValueSampling``, many times faster: same call, same permutations, same numbers.

    Every permutation is a walk from the baseline to the input, which adds one feature after another; at each
    step only the cells that the feature can change are computed again. Several permutations walk side by
    side. A callable that cannot run incrementally runs as Captum runs it, with one ``FallbackWarning``, and
    so do several inputs.

    Args:
        forward_func: As of `krypton_engine.KryptonOcclusion`.
        executor: As there.
        memory_budget: As there.

    Raises:
        InputError: As there.

    Examples:
        >>> shapley = KryptonShapleyValueSampling(model)
        >>> mask = torch.arange(24)[:, None] // 8 * 3 + torch.arange(20) // 8  # nine regions
        >>> attribution = shapley.attribute(x, target=1, feature_mask=mask, n_samples=5)
        >>> by_region = attribution[0, 0, ::8, ::8]
        >>> torch.allclose(by_region.sum(), (model(x) - model(0 * x))[0, 1], atol=1e-5)
        True
    """

    def __init__(
        self, forward_func: Forward, executor: str = "auto", memory_budget: int | None = None
    ) -> None:
        super().__init__(forward_func)
        self._preparer = Preparer(executor, memory_budget_of(forward_func, executor, memory_budget))

    @counted
    def attribute(
        self,
        inputs: Attributions,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: object = None,
        feature_mask: Attributions | None = None,
        n_samples: int = 25,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        max_seconds: float | None = None,
        max_standard_error: float | None = None,
        return_standard_error: bool = False,
    ) -> Attributions | tuple[Attributions, Attributions]:
        """Attributions of ``inputs``, as ``captum.attr.ShapleyValueSampling.attribute``.

        Args:
            inputs: Tensor or tuple of tensors; dimension 0 is the examples.
            baselines: Scalar, tensor, or one for every input: the value of a feature that is not there.
                Default 0.
            target: As of `krypton_engine.KryptonOcclusion.attribute`.
            additional_forward_args: As there.
            feature_mask: As of `krypton_engine.KryptonFeatureAblation.attribute`, of numbers from 0 on.
            n_samples: Number of permutations, at most; PyTorch's generator draws them, as Captum draws them.
            perturbations_per_eval: Largest number of steps computed together; None lets the planner choose.
                The result does not depend on it.
            show_progress: Whether to draw a progress bar with the time left.
            max_seconds: Begin no more permutations after this.
            max_standard_error: Begin no more permutations once no value has a larger standard error.
            return_standard_error: Whether to return the standard errors too.

        Returns:
            Float32 tensor, or tuple of tensors, of the selected outputs' shape and then the inputs' without
            their batch. With ``return_standard_error`` a pair: these, and the standard error of each value
            over the permutations.

        Raises:
            InputError: An argument that cannot be used; nothing has been computed then.
        """
        began = time.perf_counter()
        limits = Limits.of(n_samples, max_seconds, max_standard_error)
        tensors = inputs if isinstance(inputs, tuple) else (inputs,)
        if any(isinstance(x, Tensor) and not x.numel() for x in tensors):
            raise InputError("inputs", "empty", "tensors with at least one element")
        masks, baselines = masks_of(feature_mask, tensors), _whole(baselines, tensors)
        numbers = torch.cat([torch.unique(mask).cpu() for mask in masks]).unique().long()
        if numbers[0] < 0:
            raise InputError("feature_mask", f"{int(numbers[0])}", "numbers from 0 on", verb="holds")
        features = int(numbers[-1]) + 1
        if features > max(_MOST_ABSENT, len(numbers)):
            raise InputError(
                "feature_mask",
                f"{features - 1}",
                f"numbers below {_MOST_ABSENT:,}: permutations are of all numbers from 0 on, as Captum's",
                verb="holds",
            )
        if features > len(numbers):
            warnings.warn(
                f"feature_mask has no cell of {features - len(numbers)} of the numbers from 0 to "
                f"{features - 1}; permutations are of all of them, as Captum's",
                stacklevel=3,
            )
        with torch.no_grad(), evaluation_mode(self.forward_func, self._preparer.warn):
            request = ablation_request(
                self.forward_func, inputs, regions_of(masks, tensors), baselines, target,
                additional_forward_args, perturbations_per_eval,
            )  # fmt: skip
            given = baselines, target, additional_forward_args, feature_mask
            if len(tensors) > 1:
                self._preparer.warn("several inputs: all features run in full, as Captum runs them")
                found = self._in_full(inputs, given, perturbations_per_eval, limits, began, show_progress)
            elif request.question.base.shape[:1] != tensors[0].shape[:1]:
                self._preparer.warn("outputs are not rows of examples: all features run in full, as Captum's")
                found = self._in_full(inputs, given, perturbations_per_eval, limits, began, show_progress)
            else:
                state = torch.get_rng_state()
                orders = Orders(self.permutation_generator(features, limits.most))
                rows = range(len(tensors[0]))
                regions = [regions_of(masks, tensors, row) for row in rows]
                asked = [request.of_row(row, regions[row]) for row in rows]
                try:
                    pairs = sampled(self._preparer, asked, orders, limits, began, show_progress)
                    values, errors = (torch.cat(each).float() for each in zip(*pairs, strict=True))
                    found = (values,), (errors,)
                except WithoutGraph as error:
                    if str(error):
                        self._preparer.warn(str(error))
                    torch.set_rng_state(state)  # the same permutations again
                    found = self._in_full(inputs, given, perturbations_per_eval, limits, began, show_progress)
        parts = [each if isinstance(inputs, tuple) else each[0] for each in found]
        return (parts[0], parts[1]) if return_standard_error else parts[0]

    def _in_full(
        self,
        inputs: Attributions,
        given: tuple[object, ...],
        per_evaluation: int | None,
        limits: Limits,
        began: float,
        show_progress: bool,
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Captum's own answer, one permutation after another: values and standard errors, by input."""
        tallies: list[Tally] = []
        with Watch(limits.most, None, show_progress, WORDS) as watch:
            while not tallies or not limits.reached(tallies, began):
                found = super().attribute(inputs, *given, 1, per_evaluation or 1)
                parts = found if isinstance(found, tuple) else (found,)
                tallies = tallies or [Tally() for _ in parts]
                for tally, part in zip(tallies, parts, strict=True):
                    tally.add(part[None])
                watch.advance(1)
            watch.finish()
        return tuple(t.mean.float() for t in tallies), tuple(t.error.float() for t in tallies)


def _whole(baselines: Baselines, tensors: tuple[Tensor, ...]) -> Baselines:
    """Scalar baselines of integer inputs without their fractions, as Captum has them for Shapley values."""

    def one(baseline: Any, x: Tensor) -> Any:
        is_fraction = isinstance(baseline, float) and not x.is_floating_point()
        return torch.full_like(x[:1], baseline) if is_fraction else baseline

    if isinstance(baselines, tuple):
        return tuple(one(*pair) for pair in zip(baselines, tensors, strict=False))
    return one(baselines, tensors[0]) if len(tensors) == 1 else baselines
