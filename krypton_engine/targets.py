"""Numbers to explain of networks that segment, or find boxes.

A head of a segmentation follows the network, ``nn.Sequential(network, volume(1))``, and the two are explained
like a classifier. A covered region changes the segmentation around it; the head's sums over all cells are
updated by that. Of a detector, `box_score` makes a module whose backbone runs incrementally.
"""

from __future__ import annotations

import copy
import itertools
import math
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from krypton_engine.common.arguments import real, whole
from krypton_engine.errors import InputError

__all__ = ["BoxScore", "Dice", "MeanIn", "Volume", "box_score", "dice", "mean_in", "volume"]


_OUTPUTS = '(n, channels, *cells), or a mapping that has that as "out"'


class _OfClass(nn.Module):
    """A number made of the probabilities of one class, cell by cell."""

    def __init__(self, index: int, activate: bool) -> None:
        super().__init__()
        number = whole(index)
        if number is None or number < 0:
            raise InputError("index", repr(index), "the number of a channel, from 0 on")
        self.index, self.activate = number, activate

    def probabilities(self, output: Tensor | Mapping[str, Tensor]) -> Tensor:
        """The class's probability in every cell: ``(n, *cells)``."""
        y = output.get("out") if isinstance(output, Mapping) else output
        if not isinstance(y, Tensor) or y.dim() < 3:
            given = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else f"type {type(output).__name__}"
            raise InputError("the network's output", given, _OUTPUTS, verb="has")
        if self.index >= y.shape[1] > 1:
            raise InputError("index", f"{self.index}", f"below {y.shape[1]}, the channels of the output")
        if self.activate:
            y = y.softmax(1) if y.shape[1] > 1 else y.sigmoid()
        return y[:, self.index if y.shape[1] > 1 else 0]

    def masked(self, mask: Tensor, probabilities: Tensor) -> Tensor:
        """A mask as numbers, of the probabilities' cells."""
        if mask.shape != probabilities.shape[1:]:
            cells = tuple(probabilities.shape[1:])
            raise InputError("mask", f"shape {tuple(mask.shape)}", f"the output's cells, {cells}", verb="has")
        return mask.to(probabilities)


def _as_mask(mask: Tensor, name: str) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or not bool(mask.any()):
        given = f"{mask.dtype}" if isinstance(mask, Tensor) and mask.dtype != torch.bool else "no cell"
        raise InputError(name, given, "a boolean tensor of the output's cells, true somewhere", verb="holds")
    return mask.clone()  # whoever gave it may write to it


class Volume(_OfClass):
    """The head that `volume` makes."""

    def __init__(self, index: int, activate: bool, cell: float) -> None:
        super().__init__(index, activate)
        number = real(cell)
        if number is None or not 0 < number < math.inf:
            raise InputError("cell", repr(cell), "a positive number")
        self.cell = number

    def forward(self, output: Tensor | Mapping[str, Tensor]) -> Tensor:
        """The volume of each example, ``(n, 1)``.

        Examples:
            >>> volume(0, activate=False)(torch.full((2, 1, 3, 3), 0.5)).tolist()
            [[4.5], [4.5]]
        """
        p = self.probabilities(output)
        return p.sum(tuple(range(1, p.dim())))[:, None] * self.cell


class MeanIn(_OfClass):
    """The head that `mean_in` makes."""

    mask: Tensor

    def __init__(self, mask: Tensor, index: int, activate: bool) -> None:
        super().__init__(index, activate)
        self.register_buffer("mask", mask)

    def forward(self, output: Tensor | Mapping[str, Tensor]) -> Tensor:
        """The mean of each example in the region, ``(n, 1)``.

        Examples:
            >>> mean_in(torch.eye(3) > 0, activate=False)(torch.full((2, 1, 3, 3), 0.5)).tolist()
            [[0.5], [0.5]]
        """
        p = self.probabilities(output)
        mask = self.masked(self.mask, p)
        return (p * mask).sum(tuple(range(1, p.dim())))[:, None] / mask.sum()


class Dice(MeanIn):
    """The head that `dice` makes."""

    def forward(self, output: Tensor | Mapping[str, Tensor]) -> Tensor:
        """The coefficient of each example, ``(n, 1)``.

        Examples:
            >>> dice(torch.eye(3) > 0, activate=False)(torch.ones(2, 1, 3, 3)).tolist()
            [[0.5], [0.5]]
        """
        p = self.probabilities(output)
        mask, cells = self.masked(self.mask, p), tuple(range(1, p.dim()))
        return 2 * (p * mask).sum(cells)[:, None] / (p.sum(cells)[:, None] + mask.sum())


def volume(index: int = 1, *, activate: bool = True, cell: float = 1.0) -> Volume:
    """A head for the expected volume of a structure: its probability, summed over all cells.

    Args:
        index: The structure's channel; of an output of one channel, that.
        activate: Whether the output is logits: probabilities are their softmax over the channels, or their
            sigmoid where there is one channel. False where the output is probabilities already.
        cell: Size of a cell, in mm^3 say; the volume is in units of that.

    Returns:
        A module from ``(n, channels, *cells)``, or a mapping that has that as ``"out"``, to ``(n, 1)``.

    Raises:
        InputError: ``index`` is no channel of the output.

    Examples:
        >>> from krypton_engine import KryptonOcclusion
        >>> network = torch.nn.Conv2d(3, 2, 3, padding=1)
        >>> lesion = torch.nn.Sequential(network, volume(1, cell=0.5))
        >>> lesion(x).shape, bool(lesion(x) <= 0.5 * 24 * 20)
        (torch.Size([1, 1]), True)
        >>> KryptonOcclusion(lesion).heatmap(x, (3, 8, 8), (3, 4, 4)).values.shape
        torch.Size([5, 4])
    """
    return Volume(index, activate, cell)


def mean_in(region: Tensor, index: int = 1, *, activate: bool = True) -> MeanIn:
    """A head for the mean probability of a structure in a region.

    Args:
        region: Boolean mask of the output's cells: ``cells``.
        index: As in `volume`.
        activate: As there.

    Returns:
        A module like `volume`'s.

    Raises:
        InputError: The mask is empty, no mask, or of other cells than the output.

    Examples:
        >>> region = torch.zeros(24, 20, dtype=torch.bool)
        >>> region[:4] = True
        >>> logits = torch.zeros(1, 1, 24, 20)
        >>> mean_in(region)(logits)
        tensor([[0.5000]])
    """
    return MeanIn(_as_mask(region, "region"), index, activate)


def dice(mask: Tensor, index: int = 1, *, activate: bool = True) -> Dice:
    """A head for the soft Dice coefficient of a structure and a mask of it.

    Args:
        mask: Boolean mask of the output's cells: ``cells``.
        index: As in `volume`.
        activate: As there.

    Returns:
        A module like `volume`'s: twice the sum of probabilities within the mask, by the sum of all and of the
        mask's cells.

    Raises:
        InputError: As of `mean_in`.

    Source:
        Milletari, Navab and Ahmadi, "V-Net", 2016, without squares.

    Examples:
        >>> mask = torch.eye(4, dtype=torch.bool)
        >>> dice(mask, activate=False)(mask[None, None].float())
        tensor([[1.]])
    """
    return Dice(_as_mask(mask, "mask"), index, activate)


class _Given(nn.Module):
    """A backbone that says what it was given."""

    features: OrderedDict[str, Tensor]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return self.features


_SCORES: weakref.WeakValueDictionary[int, BoxScore] = weakref.WeakValueDictionary()
"""The modules of `box_score`, by number: an operator takes numbers and tensors alone."""

_NUMBERS = itertools.count()
"""Numbers that no module had before: an identity is given again, and not that of PyTorch's proxies."""


@torch.library.custom_op("krypton::box_score", mutates_args=())
def _scored(features: Sequence[Tensor], module: int, height: int, width: int) -> Tensor:
    """The score of one box, from a backbone's features on: ``(n, 1)``."""
    score = _SCORES.get(module)
    if score is None:
        raise InputError(
            "the module of box_score", "gone", "one that is made once and kept, not anew in every call"
        )
    return score._after_backbone(features, (height, width))


@_scored.register_fake
def _(features: Sequence[Tensor], module: int, height: int, width: int) -> Tensor:
    return features[0].new_empty((features[0].shape[0], 1))


class BoxScore(nn.Module):
    """The module that `box_score` makes."""

    box: Tensor

    def __init__(self, detector: Any, box: Tensor, label: int) -> None:
        super().__init__()
        self.detector, self.label = detector, label
        self.register_buffer("box", box.float())
        self._names: list[str] = []
        self._enter()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._enter()  # a copy is another module

    def _enter(self) -> None:
        self._number = next(_NUMBERS)
        _SCORES[self._number] = self

    def forward(self, x: Tensor) -> Tensor:
        """The score of each image, ``(n, 1)``.

        Examples:
            >>> from torchvision.models import detection
            >>> detector = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
            >>> box_score(detector, (2, 3, 14, 20), label=1)(x).shape
            torch.Size([1, 1])
        """
        features = self.detector.backbone(_as_detectors_do(self.detector.transform, x))
        if isinstance(features, Tensor):
            features = {"0": features}
        self._names = list(features)
        scores: Tensor = _scored(list(features.values()), self._number, *x.shape[2:])
        return scores

    def _after_backbone(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """What the detector makes of a backbone's features, one example after the other."""
        given, rest = _Given(), copy.copy(self.detector)
        rest._modules = {**self.detector._modules, "backbone": given}
        image, scores = torch.zeros(3, *size, device=self.box.device), []
        for i in range(len(features[0])):
            of_one = (level[i : i + 1].contiguous() for level in features)
            given.features = OrderedDict(zip(self._names, of_one, strict=True))
            with torch.no_grad():
                (found,) = rest([image])
            scores.append(self._similarity(found))
        return torch.stack(scores)[:, None]

    def _similarity(self, found: Mapping[str, Tensor]) -> Tensor:
        boxes, like = found["boxes"], found["labels"] == self.label
        if not len(boxes):
            return self.box.new_zeros(())
        low, high = torch.maximum(boxes[:, :2], self.box[:2]), torch.minimum(boxes[:, 2:], self.box[2:])
        common = (high - low).clamp(min=0).prod(1)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (self.box[2:] - self.box[:2]).prod()
        return (common / (areas - common) * found["scores"] * like).max()


def _as_detectors_do(transform: Any, x: Tensor) -> Tensor:
    """Images normalised, resized and padded as ``GeneralizedRCNNTransform`` does, in one batch."""
    mean, std = (torch.tensor(each).to(x) for each in (transform.image_mean, transform.image_std))
    x = (x - mean[:, None, None]) / std[:, None, None]
    if transform.fixed_size is not None:
        how: dict[str, Any] = {"size": transform.fixed_size[::-1]}
    else:
        sides = x.shape[-2:]
        scale = min(transform.min_size[-1] / min(sides), transform.max_size / max(sides))
        how = {"scale_factor": scale, "recompute_scale_factor": True}
    x = nn.functional.interpolate(x, mode="bilinear", align_corners=False, **how)
    below, beside = (-size % transform.size_divisible for size in x.shape[-2:])
    return nn.functional.pad(x, (0, beside, 0, below))


def box_score(detector: nn.Module, box: Tensor | Sequence[float], label: int) -> BoxScore:
    """A module that tells how well a torchvision detector still finds one box.

    The backbone runs incrementally, and what follows (proposals, boxes, their suppression) in full. That
    chooses and sorts, so that rounding may tip it: maps are exact but for such flips.

    Args:
        detector: One of ``torchvision.models.detection``, in evaluation mode.
        box: ``(x1, y1, x2, y2)`` in pixels, as the detector gave it.
        label: The box's label.

    Returns:
        A module from images ``(n, 3, height, width)`` in the detector's range to ``(n, 1)``: the largest
        product of overlap (intersection over union) and score among found boxes of the label, 0 without one.

    Raises:
        InputError: The detector has no backbone and transform of torchvision's, or the box is none.

    Source:
        D-RISE (Petsiuk et al., 2021), whose similarity this is where a detector tells a box's label and score
        alone.

    Examples:
        >>> from torchvision.models import detection
        >>> make = detection.fasterrcnn_resnet50_fpn
        >>> detector = make(weights=None, weights_backbone=None, min_size=64).eval()
        >>> score = box_score(detector, (2, 3, 14, 20), label=1)
        >>> score(x).shape
        torch.Size([1, 1])
    """
    if not all(hasattr(detector, name) for name in ("backbone", "transform")):
        raise InputError("detector", type(detector).__name__, "a detector of torchvision.models.detection")
    corners = torch.as_tensor(box, dtype=torch.float32)
    if corners.shape != (4,) or not bool((corners[:2] < corners[2:]).all()):
        raise InputError("box", str(box), "four numbers, x1 < x2 and y1 < y2: x1, y1, x2, y2")
    number = whole(label)
    if number is None:
        raise InputError("label", repr(label), "the number of a label")
    return BoxScore(detector, corners, number)
