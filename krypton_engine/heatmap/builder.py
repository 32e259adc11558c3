"""The map builder: a heatmap out of the outputs of a run, as they come."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from krypton_engine.approximation.compensation import compensated
from krypton_engine.approximation.ssim import SsimEstimate
from krypton_engine.common.arguments import whole
from krypton_engine.common.arrays import Flags, Floats, IntArray
from krypton_engine.common.calling import Activate, Target
from krypton_engine.common.outputs import activated, are_probabilities
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.heatmap.identity import Described, Origin
from krypton_engine.heatmap.part import RECORDED, check_part
from krypton_engine.heatmap.status import Status
from krypton_engine.perturbation.positions import Positions

if TYPE_CHECKING:
    from krypton_engine.plan.plan import Plan

Select = Callable[[Tensor], Tensor]
"""A function from outputs ``(positions, *output_shape)`` to the target's values, ``(positions, ...)``."""


class MapBuilder:
    """A heatmap under construction from the outputs of a run.

    Args:
        window: The positions.
        base: Output for the un-occluded input, ``(1, *output_shape)``.
        select: Function from (activated) outputs to the target's values.
        activate: Function applied to the outputs before anything else.
        target: Target that ``select`` selects; a class from the end has its own index in the map.
        keep_outputs: Whether to keep every output of a model that gives one row of classes.
        classify: Whether to note the predicted class of every position.
        image: The occluded input without its batch dimension.
        baseline: Values that cover its cells; see `described`.
        plan: Function that gives the plan, which names the executor that has answered so far.
        began: Value of ``time.perf_counter`` when the call began.
        fill: Positions to interpolate where they have not been measured.
        origin: See `Heatmap`.

    Examples:
        >>> from krypton_engine.perturbation.windows import SlidingWindow
        >>> window = SlidingWindow((3, 24, 20), (3, 12, 10), (3, 12, 10))
        >>> builder = MapBuilder(window, torch.tensor([[0.25, 0.75]]), lambda outputs: outputs[:, 1])
        >>> builder.record(np.array([2]), torch.tensor([[0.5, 0.5]]))
        >>> builder.heatmap().drop
        tensor([[  nan,    nan],
                [0.2500,   nan]])
    """

    def __init__(
        self,
        window: Positions,
        base: Tensor,
        select: Select,
        *,
        activate: Activate = None,
        target: Target = None,
        keep_outputs: bool = False,
        classify: bool = False,
        image: Tensor | None = None,
        baseline: Described | None = None,
        plan: Callable[[], Plan | None] = lambda: None,
        began: float | None = None,
        fill: IntArray | None = None,
        origin: Origin | None = None,
    ) -> None:
        self._select = select
        self._plan = plan
        self._activate = activate
        base = activated(base, activate)
        index = whole(target)
        if index is not None and base.ndim == 2:
            target = index % base.shape[1]
        self._odds = are_probabilities(base)
        self._trimmed: Tensor | None = None
        self._cheap: Tensor | None = None
        self._began = time.perf_counter() if began is None else began
        self._last = self._made = time.perf_counter()
        # Neither the model's output nor the input: the caller may go on to change them.
        self._base = _copied(select(base)[0])
        self._window, self._target = window, target
        self._baseline, self._origin = baseline, origin
        self._fill: Flags | None = None
        self._estimate: SsimEstimate | None = None
        self._predicted: Floats | None = None
        if fill is not None:
            self._fill = np.zeros(window.grid_shape, dtype=bool)
            self._fill.flat[fill] = True
        self._image = None if image is None else _copied(image)
        count = len(window)
        dtype = self._base.dtype if self._base.is_floating_point() else torch.float64
        self._values = torch.full((count, *self._base.shape), math.nan, dtype=dtype, device="cpu")
        self._measured = torch.zeros(count, dtype=torch.bool, device="cpu")
        self._resumed = self._measured.clone()
        self.resumed_as = ""
        self._classes = self._class_values = self._outputs = self._base_outputs = None
        if base.ndim == 2 and classify:
            self._base_outputs = _copied(base[0])
            self._classes = torch.full((count,), -1, dtype=torch.int64, device="cpu")
            known = base.dtype if base.is_floating_point() else torch.float64
            self._class_values = torch.full((count,), math.nan, dtype=known, device="cpu")
            if keep_outputs:
                shape = (count, base.shape[1])
                self._outputs = torch.full(shape, math.nan, dtype=known, device="cpu")

    def record(self, positions: IntArray, outputs: Tensor, effects: Floats | None = None) -> None:
        """Note outputs of the model.

        Args:
            positions: Positions of the grid: ``(n,)``, int64.
            outputs: Outputs for these positions: ``(n, *output_shape)``.
            effects: First-order effects, on `scalar`, of what trimming dropped: ``(n,)``; None for exact
                outputs.

        Examples:
            >>> builder = MapBuilder(heatmap.window, torch.zeros(1, 2), lambda outputs: outputs[:, 1])
            >>> builder.record(np.array([0, 3]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
            >>> builder.heatmap().values
            tensor([[2., nan],
                    [nan, 4.]])
        """
        where = torch.from_numpy(positions)
        outputs = self._activated(outputs)
        values = self._of_target(outputs, effects)
        if effects is not None and self._trimmed is None:
            self._trimmed = torch.zeros_like(self._measured)
        if self._trimmed is not None:
            self._trimmed[where] = effects is not None
        self._values[where] = values
        self._measured[where] = True
        if self._classes is not None and self._class_values is not None:
            best = outputs.max(dim=1)
            # Of numbers that are not all finite, the largest is of no class.
            known = best.values.isfinite()
            self._classes[where] = torch.where(known, best.indices, -1).cpu()
            self._class_values[where] = best.values.cpu().to(self._class_values.dtype)
        if self._outputs is not None:
            self._outputs[where] = outputs.cpu().to(self._outputs.dtype)
        self._last = time.perf_counter()

    def record_cheaply(self, positions: IntArray, outputs: Tensor, effects: Floats | None = None) -> None:
        """Note outputs of a cheap session, which the map is predicted with.

        Args:
            positions, outputs, effects: As in `record`.

        Examples:
            >>> builder = MapBuilder(heatmap.window, torch.zeros(1, 2), lambda outputs: outputs[:, 1])
            >>> builder.record_cheaply(np.array([3]), torch.tensor([[3.0, 4.0]]))
            >>> builder.cheap().tolist()
            [[nan, nan], [nan, 4.0]]
        """
        outputs = self._activated(outputs)
        values = self._of_target(outputs, effects)
        if self._cheap is None:
            self._cheap = torch.full_like(self._values, math.nan)
        self._cheap[torch.from_numpy(positions)] = values.where(values.isfinite(), math.inf)
        self._last = time.perf_counter()

    def _activated(self, outputs: Tensor) -> Tensor:
        """Outputs after the activation; values that are noted keep no autograd graph."""
        return activated(outputs, self._activate).detach()

    def _of_target(self, outputs: Tensor, effects: Floats | None) -> Tensor:
        """The target's values of (activated) outputs, with first-order effects added."""
        values = self._select(outputs).cpu().to(self._values.dtype)
        if effects is None:
            return values
        return compensated(values, torch.from_numpy(effects).to(values), self._odds)

    @property
    def base(self) -> float:
        """The target's value of the un-occluded input, where it is one number.

        Examples:
            >>> MapBuilder(heatmap.window, torch.tensor([[0.25, 0.75]]), lambda outputs: outputs[:, 1]).base
            0.75
        """
        return float(self._base)

    @property
    def seconds(self) -> float:
        """Time from the making of the builder to the last output."""
        return self._last - self._made

    def exact(self, *, resumed: bool = False) -> IntArray:
        """Positions whose values are exact: those measured since, or those that were resumed.

        Examples:
            >>> builder = MapBuilder(heatmap.window, torch.zeros(1, 2), lambda outputs: outputs[:, 1])
            >>> builder.record(np.array([2]), torch.zeros(1, 2))
            >>> builder.exact().tolist(), builder.exact(resumed=True).tolist()
            ([2], [])
        """
        trimmed = torch.zeros_like(self._measured) if self._trimmed is None else self._trimmed
        return np.flatnonzero((self._measured & ~trimmed & (self._resumed == resumed)).numpy())

    def drops(self) -> Tensor:
        """The change of the target by position (the largest of several values); NaN where unknown.

        Examples:
            >>> builder = MapBuilder(heatmap.window, torch.zeros(1, 2), lambda outputs: outputs[:, 1])
            >>> builder.record(np.array([2]), torch.tensor([[3.0, 4.0]]))
            >>> builder.drops()
            tensor([nan, nan, 4., nan])
        """
        return self.differences().abs().reshape(len(self._values), -1).amax(1)

    def differences(self) -> Tensor:
        """The fall of the target's values by position, ``(positions, ...)``; NaN where unknown.

        Examples:
            >>> builder = MapBuilder(heatmap.window, torch.zeros(1, 2), lambda outputs: outputs[:, 1])
            >>> builder.record(np.array([2]), torch.tensor([[3.0, 4.0]]))
            >>> builder.differences()
            tensor([nan, nan, -4., nan])
        """
        return self._base - self._values

    def attribution(self) -> Tensor:
        """Attributions of the map so far, as Captum's: ``(..., *input_shape)``.

        Examples:
            >>> from krypton_engine.perturbation.regions import Regions
            >>> regions = Regions.of(torch.tensor([0, 1, 1, 0]), (4,))
            >>> builder = MapBuilder(regions, torch.zeros(1, 2), lambda outputs: outputs[:, 1])
            >>> builder.record(np.array([0, 1]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
            >>> builder.attribution()
            tensor([-2., -4., -4., -2.])
        """
        return self.heatmap().attribution()

    def kept(self) -> tuple[Tensor, Tensor]:
        """Numbers that are kept of every position, ``(positions, numbers)``, and those of the base.

        Examples:
            >>> builder = MapBuilder(heatmap.window, torch.ones(1, 2), lambda outputs: outputs[:, 1])
            >>> builder.kept()[0].shape, builder.kept()[1]
            (torch.Size([4, 1]), tensor([1.]))
        """
        if self._outputs is None or self._base_outputs is None:
            return self._values.reshape(len(self._values), -1), self._base.reshape(-1)
        return self._outputs, self._base_outputs

    def kept_of(self, outputs: Tensor) -> Tensor:
        """Numbers that are kept of some outputs of the model: ``(positions, numbers)``.

        Examples:
            >>> builder = MapBuilder(heatmap.window, torch.ones(1, 2), lambda outputs: outputs[:, 1])
            >>> builder.kept_of(torch.tensor([[3.0, 4.0]]))
            tensor([[4.]])
        """
        outputs = self._activated(outputs)
        return (self._select(outputs) if self._outputs is None else outputs).reshape(len(outputs), -1).cpu()

    def scalar(self, outputs: Tensor) -> Tensor:
        """The scalar that first-order effects change: the target's value, of a probability its log-odds.

        Examples:
            >>> probabilities, logits = torch.tensor([[0.5, 0.5]]), torch.tensor([[2.0, -1.0]])
            >>> bases = probabilities, logits
            >>> [MapBuilder(heatmap.window, b, lambda out: out[:, 0]).scalar(b).item() for b in bases]
            [0.0, 2.0]
        """
        try:
            wide = activated(outputs.double(), self._activate)
        except RuntimeError:  # an activation with weights takes the model's dtype only
            wide = activated(outputs, self._activate).double()
        values = self._select(wide)
        return values.logit() if self._odds else values

    def trimmed(self) -> IntArray:
        """Positions whose values are trimmed.

        Examples:
            >>> builder = MapBuilder(heatmap.window, torch.zeros(1, 2), lambda outputs: outputs[:, 1])
            >>> builder.record(np.array([2]), torch.zeros(1, 2), effects=np.array([0.25]))
            >>> builder.trimmed().tolist(), builder.drops().tolist()[2]  # the dropped effect is added back
            ([2], 0.25)
        """
        return np.empty(0, dtype=np.int64) if self._trimmed is None else np.flatnonzero(self._trimmed.numpy())

    def so_far(self) -> tuple[Floats, Flags]:
        """The target's values on the grid, and where they have been measured.

        Examples:
            >>> builder = MapBuilder(heatmap.window, torch.zeros(1, 2), lambda outputs: outputs[:, 1])
            >>> builder.record(np.array([2]), torch.tensor([[3.0, 4.0]]))
            >>> [each.tolist() for each in builder.so_far()]
            [[[nan, nan], [4.0, nan]], [[False, False], [True, False]]]
        """
        grid = self._window.grid_shape
        return self._values.double().numpy().reshape(grid), self._measured.numpy().reshape(grid)

    def cheap(self) -> Floats | None:
        """The target's values by the cheap session on the grid, NaN where not measured; None without one."""
        return None if self._cheap is None else self._cheap.double().numpy().reshape(self._window.grid_shape)

    def expect(self, estimate: SsimEstimate, predicted: Floats) -> None:
        """Note the estimate for the map so far, and the values predicted where nothing has been measured.

        Raises:
            ValueError: The builder has no positions to interpolate, so that its map would have gaps.

        Examples:
            >>> base, everywhere = torch.zeros(1, 2), np.arange(4)
            >>> builder = MapBuilder(heatmap.window, base, lambda out: out[:, 1], fill=everywhere)
            >>> builder.record(np.array([2]), torch.tensor([[3.0, 4.0]]))
            >>> builder.expect(SsimEstimate(0.9, 0.8, 0.95, "online"), np.full((2, 2), 3.5))
            >>> builder.heatmap().values.tolist()
            [[3.5, 3.5], [4.0, 3.5]]
        """
        if self._fill is None:
            raise ValueError("a map builder without fill= interpolates nothing")
        self._estimate, self._predicted = estimate, predicted

    def resume(self, heatmap: Heatmap, name: str = "resume") -> None:
        """Take over the values of a part of the same map.

        Args:
            heatmap: The part, measured by an earlier call.
            name: The argument that a user gave the part as, for messages.

        Raises:
            InputError: The part is of another map.
            OutdatedError: The part's un-occluded output is not this call's.

        Examples:
            >>> base, select = torch.zeros(1, 2), lambda outputs: outputs[:, 1]
            >>> builder, other = (MapBuilder(heatmap.window, base, select) for _ in range(2))
            >>> other.record(np.array([2]), torch.tensor([[3.0, 4.0]]))
            >>> builder.resume(other.heatmap())
            >>> builder.drops()
            tensor([nan, nan, 4., nan])
        """
        self.resumed_as = name
        check_part(name, heatmap, self.heatmap())
        for name in RECORDED:
            known, noted = getattr(self, f"_{name}"), getattr(heatmap, name)
            if known is not None:
                known.copy_(noted.reshape(known.shape))
        self._values[~self._measured] = math.nan
        self._resumed = self._measured.clone()
        if heatmap.trimmed is not None:
            self._trimmed = heatmap.trimmed.reshape(-1).clone()
        if heatmap.cheap is not None:
            self._cheap = heatmap.cheap.reshape(self._values.shape).clone()
        self._began -= heatmap.seconds
        self._last = self._began + heatmap.seconds

    def heatmap(self) -> Heatmap:
        """The heatmap so far; later records do not change it."""
        grid = self._window.grid_shape

        def on_grid(flat: Tensor | None) -> Tensor | None:
            return None if flat is None else flat.reshape((*grid, *flat.shape[1:])).clone()

        values, measured = on_grid(self._values), on_grid(self._measured)
        assert values is not None and measured is not None
        so_far = Heatmap(
            values=values,
            base=self._base,
            measured=measured,
            classes=on_grid(self._classes),
            class_values=on_grid(self._class_values),
            trimmed=on_grid(self._trimmed),
            cheap=None if bool(measured.all()) else on_grid(self._cheap),
            outputs=on_grid(self._outputs),
            base_outputs=self._base_outputs,
            image=self._image,
            window=self._window.plain,
            target=self._target,
            baseline=self._baseline,
            origin=self._origin,
            seconds=self._last - self._began,
            plan=self._plan(),
        )
        if self._fill is None:
            return so_far
        missing = torch.from_numpy(self._fill) & ~measured
        if bool((so_far.status[torch.from_numpy(self._fill)] == Status.EXACT).all()):
            return replace(so_far, ssim_estimate=SsimEstimate(1.0, 1.0, 1.0, "exact"))
        if self._predicted is None and bool(measured.any()):  # watched before there is a prediction
            nearest = distance_transform_edt(~measured.numpy(), return_distances=False, return_indices=True)
            values[missing] = values[tuple(torch.from_numpy(i)[missing] for i in nearest)]
            if so_far.cheap is not None:
                known = missing & so_far.cheap.isfinite()
                values[known] = so_far.cheap[known]
        elif self._predicted is not None:
            values[missing] = torch.from_numpy(self._predicted)[missing].to(values.dtype)
        return replace(so_far, ssim_estimate=self._estimate)


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
