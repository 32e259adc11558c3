"""MONAI's ``OcclusionSensitivity`` on this engine. Needs MONAI."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.utils.misc import ensure_tuple_rep
from monai.visualize.occlusion_sensitivity import OcclusionSensitivity as Original
from torch import Tensor, nn

from krypton_engine.attr.checks import memory_budget_of
from krypton_engine.attr.inputs import question_over
from krypton_engine.common.arrays import IntArray
from krypton_engine.executors.base import Session
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.planning import proof
from krypton_engine.planning.answer import Answer
from krypton_engine.planning.planner import Preparer
from krypton_engine.planning.question import Question
from krypton_engine.planning.training import evaluation_mode


class OcclusionSensitivity(Original):
    """``monai.visualize.OcclusionSensitivity``, many times faster: same call, same numbers.

    MONAI covers the image, window by window, and puts the map together; of each covered image only what the
    window can change is computed. Modules that cannot run incrementally run as MONAI runs them, with one
    ``FallbackWarning``.

    Args:
        nn_module: Classification model.
        mask_size: Size of the window; an int, or one for every spatial axis.
        n_batch: Number of covered images that MONAI makes at a time.
        verbose: Whether to draw MONAI's progress bar.
        mode: ``"gaussian"``, ``"mean_patch"``, ``"mean_img"``, a float, or what else MONAI takes.
        overlap: Share of the window by which neighbours overlap, at least 0 and below 1.
        activate: True for softmax (sigmoid where the image has one channel, as MONAI does), False for none,
            or a function of the outputs.
        executor: As of `krypton_engine.KryptonOcclusion`.
        memory_budget: As there.

    Raises:
        NotImplementedError: Another mode.
        InputError: The executor or the budget cannot be used.

    Examples:
        >>> sensitivity = OcclusionSensitivity(model, mask_size=8, overlap=0.5, verbose=False)
        >>> found, most_probable = sensitivity(x)
        >>> found.shape, most_probable.shape
        (torch.Size([1, 5, 24, 20]), torch.Size([1, 1, 24, 20]))
    """

    def __init__(
        self,
        nn_module: nn.Module,
        mask_size: int | Sequence[int] = 16,
        n_batch: int = 16,
        verbose: bool = True,
        mode: str | float | Callable[[Tensor, Tensor], Tensor] = "gaussian",
        overlap: float = 0.6,
        activate: bool | Callable[[Tensor], Tensor] = True,
        executor: str = "auto",
        memory_budget: int | None = None,
    ) -> None:
        super().__init__(nn_module, mask_size, n_batch, verbose, mode, overlap, activate)
        self._preparer = Preparer(executor, memory_budget_of(nn_module, executor, memory_budget))

    def __call__(self, x: Tensor, b_box: Sequence[int] | None = None, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The sensitivity map and the image of most probable classes.

        Args:
            x: One image: ``(1, channels, *spatial)``.
            b_box: ``[min1, max1, min2, max2, ...]``, the part that is looked at; negative numbers for all of
                an axis. None for the whole image.
            **kwargs: Further arguments of the module.

        Returns:
            The activated outputs with each voxel covered, ``(1, classes, *spatial)``, and the class that is
            most probable then, ``(1, 1, *spatial)``; both cropped to ``b_box``.

        Raises:
            ValueError: Several images, or a window larger than the image.
        """
        window = None if x.ndim < 3 or len(x) != 1 else self._window(x)
        if window is None:
            return self._originals(self.nn_module, x, b_box, kwargs)
        forward = partial(self.nn_module, **kwargs) if kwargs else self.nn_module
        with torch.no_grad(), evaluation_mode(self.nn_module, self._preparer.warn):
            question = question_over(forward, x.as_subclass(Tensor), lambda _: (window,), None, None)
            work = partial(self._answered, question, b_box, kwargs)
            return self._preparer.answered(question, 0, None, work)

    def _window(self, x: Tensor) -> SlidingWindow | None:
        """The window at any place; None where MONAI refuses its size."""
        shape, sizes = tuple(x.shape[1:]), tuple(ensure_tuple_rep(self.mask_size, x.ndim - 2))
        if not all(isinstance(m, (int, np.integer)) and m > 0 for m in sizes):
            return None
        sizes = tuple(min(int(m), n) for m, n in zip(sizes, shape[1:], strict=True))
        return SlidingWindow(shape, (shape[0], *sizes), (shape[0], *(1 for _ in sizes)))

    def _answered(
        self, question: Question, b_box: Sequence[int] | None, kwargs: dict[str, Any], answer: Answer
    ) -> tuple[Tensor, Tensor]:
        (x,) = question.inputs
        session = answer.open(answer.rows[0])
        plan = answer.plan(session)
        if plan is None or not plan.incremental:
            return self._originals(self.nn_module, x, b_box, kwargs)
        covered = _Incremental(session, x, partial(question.ask, row=0))
        found = self._originals(covered, x, b_box, kwargs)
        covered.check()
        return found

    def _originals(
        self, module: nn.Module, x: Tensor, b_box: Sequence[int] | None, kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """MONAI's own answer, of a module."""
        original = copy.copy(self)
        original.nn_module = module
        found: tuple[Tensor, Tensor] = Original.__call__(original, x, b_box, **kwargs)
        return found


class _Incremental(nn.Module):
    """A module of images that differ from one in a box each: what the boxes change is computed, no more."""

    def __init__(self, session: Session, x: Tensor, ask: Callable[[tuple[Tensor]], Tensor]) -> None:
        super().__init__()
        self.eval()
        self._session, self._x, self._ask = session, x, ask
        self._most: tuple[float, Tensor, Tensor] | None = None

    def forward(self, images: Tensor, **_: object) -> Tensor:
        """Outputs for images ``(n, channels, *spatial)``; the arguments beside them are known already."""
        images = images.as_subclass(Tensor)
        outputs = self._session.base.expand(len(images), *self._session.base.shape[1:]).clone()
        boxes = _changed(images, self._x, self._session)
        changes = np.flatnonzero((boxes[..., 1] > boxes[..., 0]).all(1))
        # Where the image itself is not a number, it differs from itself everywhere.
        sizes = np.array(self._session.window.plain.shape)  # type: ignore[attr-defined]
        fits = (boxes[changes, :, 1] - boxes[changes, :, 0] <= sizes).all(1)
        for i in changes[~fits].tolist():
            outputs[i] = self._ask((images[i : i + 1],))[0]
        changes = changes[fits]
        if len(changes):
            contents = partial(_content, images, boxes, changes)
            for found in self._session.compute(boxes[changes], None, contents):
                outputs[torch.from_numpy(changes[found.which]).to(outputs.device)] = found.outputs
            self._note(images, outputs, changes)
        return outputs

    def check(self) -> None:
        """Compare the image whose outputs differ most with the module's own answer.

        Raises:
            Disagreement: They differ by more than another order of summation.
        """
        if self._most is not None:
            _, image, outputs = self._most
            proof.check_end(outputs, self._ask((image,)), self._session.base)

    def _note(self, images: Tensor, outputs: Tensor, changes: IntArray) -> None:
        differ = (outputs - self._session.base).abs().flatten(1).amax(1)[torch.from_numpy(changes)]
        largest = int(differ.nan_to_num(torch.inf).argmax())
        if self._most is None or float(differ[largest]) > self._most[0]:
            row = slice(int(changes[largest]), int(changes[largest]) + 1)
            self._most = float(differ[largest]), images[row].clone(), outputs[row].clone()


def _changed(images: Tensor, x: Tensor, session: Session) -> IntArray:
    """Bounding boxes of the cells in which images differ from ``x``: ``(n, axes, 2)``."""
    differs = (images != x).any(1)
    boxes = np.zeros((len(images), x.ndim - 1, 2), dtype=np.int64)
    boxes[:, 0] = 0, x.shape[1]
    for axis in range(1, x.ndim - 1):
        others = [dim for dim in range(1, differs.ndim) if dim != axis]
        along = (differs.any(others) if others else differs).cpu().numpy()
        boxes[:, axis, 0] = along.argmax(1)
        boxes[:, axis, 1] = np.where(along.any(1), along.shape[1] - along[:, ::-1].argmax(1), 0)
        if session.window.spans(axis):
            boxes[along.any(1), axis] = 0, x.shape[axis + 1]
    return boxes


def _content(images: Tensor, boxes: IntArray, changes: IntArray, i: int) -> Tensor:
    """What the cells of a change's box become."""
    row = int(changes[i])
    inside = (slice(lo, hi) for lo, hi in boxes[row].tolist())
    return images[(slice(row, row + 1), *inside)]
