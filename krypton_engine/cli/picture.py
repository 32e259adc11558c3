"""The pictures that a command is given, as inputs of a model, and what covers parts of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from krypton_engine.cli.model import FEW_NAMES
from krypton_engine.cli.options import sizes_text
from krypton_engine.cli.text import size_text, tell
from krypton_engine.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from krypton_engine.perturbation.fillings import Filling
    from krypton_engine.perturbation.regions import Regions
    from krypton_engine.perturbation.windows import SlidingWindow
    from krypton_engine.zoo import ZooModel


def pictures_of(given: Sequence[str]) -> list[str]:
    """Names of pictures, those in a folder in its place; pictures that Krypton has drawn are left out.

    Examples:
        >>> import PIL.Image
        >>> for name in ("b.png", "a.png"):
        ...     PIL.Image.new("L", (4, 4)).save(name)
        >>> pictures_of(["."])
        ['a.png', 'b.png']
    """
    from PIL import Image as PILImage

    endings = PILImage.registered_extensions()
    names, drawn = [], []
    for name in given:
        found = [name]
        if os.path.isdir(name):
            found = sorted(str(path) for path in Path(name).iterdir() if path.suffix.lower() in endings)
        taken = [path for path in found if not _is_drawn(path)]
        drawn += [path for path in found if path not in taken]
        if not taken and os.path.isdir(name):
            raise InputError("IMAGE", repr(name), problem="a folder without pictures")
        names += taken
    if drawn:
        told = ", ".join(drawn[:FEW_NAMES]) + ", ..." * (len(drawn) > FEW_NAMES)
        tell(f"krypton: note: left out as drawn by Krypton: {told}")
    if not names:
        raise InputError("IMAGE", "nothing but what Krypton has drawn")
    return names


def _is_drawn(path: str) -> bool:
    """Whether this is a picture of a map or of a tuning."""
    from PIL import Image as PILImage

    from krypton_engine.common.files import DRAWN

    try:
        with PILImage.open(path) as picture:
            return picture.info.items() >= DRAWN.items()
    except Exception:  # of whatever kind: told when it is read
        return False


def input_of(model: ZooModel, image: Image, name: str) -> Tensor:
    """The model's input, ``(1, C, H, W)``; ``name`` is the picture's, for messages.

    Examples:
        >>> import PIL.Image
        >>> input_of(zoo_model, PIL.Image.new("RGB", (60, 50)), "bird.png").shape
        torch.Size([1, 3, 24, 20])
    """
    import torch

    from krypton_engine.zoo.preprocess import as_taken

    try:
        x = model.preprocess(image)[None]
    except InputError as error:
        raise InputError("IMAGE", repr(name), problem=f"and {error}") from error
    if not bool(torch.isfinite(x).all()):
        raise InputError(
            "IMAGE", repr(name), problem="which gives NaN or infinite numbers after the model's preprocessing"
        )
    return as_taken(model.model, x)


def baseline_of(given: str, model: ZooModel, image: Image, x: Tensor) -> Tensor:
    """The picture that covers a window, as an input: ``(1, C, H, W)``.

    Examples:
        >>> import PIL.Image
        >>> image = PIL.Image.new("RGB", (60, 50), "white")
        >>> [float(baseline_of(given, zoo_model, image, x).mean()) for given in ("black", "mean", "0.5")]
        [-2.0, 2.0, 0.5]
    """
    import torch

    from krypton_engine.zoo.patches import COLOURS, patch

    if given in COLOURS:
        baseline = patch(image, given, model.preprocess).to(x)
        if baseline.shape != x.shape or not bool(torch.isfinite(baseline).all()):
            raise InputError(
                "--baseline",
                given,
                "blur, or a number",
                f"but {model.name} does not preprocess a picture of one colour",
            )
        return baseline
    try:
        number = float(given)
    except ValueError:
        number = float("nan")
    if not abs(number) <= torch.finfo(x.dtype).max:
        raise InputError(
            "--baseline",
            repr(given),
            f"{', '.join(COLOURS)} or a number that {str(x.dtype).removeprefix('torch.')} holds",
        )
    return torch.full_like(x, number)


def window_of(shape: Sequence[int], strides: Sequence[int], x: Tensor) -> SlidingWindow:
    """The window that ``--window`` and ``--stride`` describe on an input ``(1, C, H, W)``.

    Raises:
        InputError: Sizes that do not fit the input, in the words in which they were typed.

    Examples:
        >>> window_of((8, 8), (4, 4), x).grid_shape
        (5, 4)
    """
    from krypton_engine.perturbation.windows import SlidingWindow

    channels = x.shape[1]
    try:
        return SlidingWindow(tuple(x.shape[1:]), (channels, *shape), (channels, *strides))
    except InputError as error:
        typed = sizes_text(strides if error.argument == "strides" else shape)
        raise InputError(error.argument, typed, error.accepted, error.problem, error.verb) from None


def regions_of(given: str, model: ZooModel, x: Tensor) -> Regions:
    """The regions that ``--regions`` describes: ``slic:COUNT``, or a ``.npy`` of whole numbers.

    Raises:
        InputError: Anything else.

    Examples:
        >>> np.save("halves.npy", np.arange(20) // 10)
        >>> len(regions_of("halves.npy", zoo_model, x))
        2
        >>> regions_of("slick:9", zoo_model, x)
        Traceback (most recent call last):
        krypton_engine.errors.InputError: --regions is 'slick:9'; accepted: slic:COUNT, such as slic:100, ...
    """
    import numpy as np
    import torch

    from krypton_engine.perturbation.regions import Regions
    from krypton_engine.zoo.superpixels import slic_count, superpixels

    if (count := slic_count(given)) is not None:
        mask = superpixels(model.display(x[0]), count)
    else:
        try:
            mask = torch.from_numpy(np.load(given, allow_pickle=False))
        except (OSError, ValueError, TypeError, EOFError):
            accepted = "slic:COUNT, such as slic:100, or a .npy of whole numbers, one a pixel of the input"
            raise InputError("--regions", repr(given), accepted) from None
    return Regions.of(mask, tuple(x.shape[1:]), "--regions")


FILLINGS = ("local-mean", "noise", "conditional")
"""Words of ``--filling``."""

_SURROUNDINGS = 4
"""Pixels around a window that a conditional filling is given."""


def filling_of(given: str, samples: int, x: Tensor, window: Sequence[int]) -> Filling:
    """The filling that ``--filling`` and ``--samples`` describe; a conditional one learns from the picture.

    Raises:
        InputError: A filling of one sample is asked for several, or the window is too large.

    Examples:
        >>> filling_of("noise", 3, x, (8, 8)).describe()
        'noise, 3 samples, seed 0'
        >>> filling_of("local-mean", 3, x, (8, 8))
        Traceback (most recent call last):
        krypton_engine.errors.InputError: --samples is 3; accepted: 1 with --filling local-mean, ...
    """
    from krypton_engine import fillings

    if given == "local-mean":
        if samples != 1:
            raise InputError(
                "--samples", f"{samples}", "1 with --filling local-mean, which is the same each time"
            )
        return fillings.LocalMean()
    if given == "noise":
        return fillings.Noise(samples)
    return fillings.Conditional.fit(x, window, _SURROUNDINGS, samples=samples)


def positions_text(positions: SlidingWindow | Regions) -> str:
    """The window and its stride, in pixels, or the number of regions.

    Examples:
        >>> from krypton_engine.perturbation.windows import SlidingWindow
        >>> positions_text(SlidingWindow((3, 40, 40), (3, 16, 24), (3, 4, 4)))
        'window 16 x 24, stride 4'
    """
    from krypton_engine.perturbation.regions import Regions

    if isinstance(positions, Regions):
        return "regions"
    return f"window {window_text(positions)}"


def window_text(window: SlidingWindow) -> str:
    """The window and its stride, in pixels.

    Examples:
        >>> from krypton_engine.perturbation.windows import SlidingWindow
        >>> window_text(SlidingWindow((3, 40, 40), (3, 16, 24), (3, 4, 4)))
        '16 x 24, stride 4'
    """
    strides = window.strides[1:]
    step = size_text(strides if len(set(strides)) > 1 else strides[:1])
    return f"{size_text(window.shape[1:])}, stride {step}"
