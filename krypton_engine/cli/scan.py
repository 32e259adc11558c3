"""A scan that a command is given: its model's input, and the windows over it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from krypton_engine.cli.options import Extents
from krypton_engine.common.files import ending_of
from krypton_engine.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from krypton_engine.medical import Scan
    from krypton_engine.perturbation.windows import SlidingWindow
    from krypton_engine.zoo import ZooModel

_OF_PICTURES = ("regions", "filling", "samples", "size", "mean", "std")
"""Options that a scan has no use for."""


def read(name: str) -> Scan:
    """The scan of that name.

    Examples:
        >>> np.save("scan.npy", np.zeros((4, 8, 8)))
        >>> read("scan.npy")
        Scan(1 x 4 x 8 x 8, 1 x 1 x 1 mm)
    """
    from krypton_engine.medical import read_scan

    try:
        return read_scan(name)
    except InputError as error:
        raise error.named("IMAGE") from None


def check_outputs(paths: Sequence[Path], scan: Scan) -> None:
    """Refuse files that have no words for where a scan lies, before the work and not after.

    Examples:
        >>> from krypton_engine.medical import read_scan
        >>> check_outputs([Path("map.dcm")], read_scan(np.zeros((4, 8, 8))))
        Traceback (most recent call last):
        krypton_engine.errors.InputError: IMAGE is no DICOM series; accepted: ...
    """
    from krypton_engine.heatmap.placed import ENDINGS, check_source

    try:
        for path in paths:
            check_source(ending_of(path, ENDINGS), scan.geometry)
    except InputError as error:
        raise error.named("IMAGE") from None


def load(arguments: argparse.Namespace, scan: Scan) -> tuple[ZooModel, Tensor]:
    """The model that the options name, and its input of a scan.

    Raises:
        InputError: Options that are for pictures alone.

    Examples:
        >>> from krypton_engine.medical import read_scan
        >>> scan, options = read_scan(np.zeros((4, 8, 8))), {"weights": None, "classes": None}
        >>> none = dict.fromkeys(_OF_PICTURES) | {"method": "occlusion"}
        >>> load(argparse.Namespace(model="torch.nn:Flatten", **options, **none), scan)[1].shape
        torch.Size([1, 1, 4, 8, 8])
    """
    from krypton_engine import zoo

    for option in _OF_PICTURES:
        if getattr(arguments, option) is not None:
            raise InputError(f"--{option}", str(getattr(arguments, option)), "none with a scan")
    if arguments.method != "occlusion":
        raise InputError("--method", arguments.method, "occlusion with a scan")
    weights = arguments.weights or "pretrained"
    try:
        return zoo.load_scan_model(arguments.model, scan, weights=weights, class_names=arguments.classes)
    except InputError as error:
        raise (error.named("--model") if error.argument == "spec" else error) from None


def window_of(window: Extents, stride: Extents, scan: Scan, x: Tensor) -> SlidingWindow:
    """The window that ``--window`` and ``--stride`` describe on the input of a scan, all channels of it.

    Raises:
        InputError: Sizes that do not fit the scan.

    Examples:
        >>> from krypton_engine.medical import read_scan
        >>> scan = read_scan(np.zeros((10, 8, 8)), affine=np.diag([3.0, 1.0, 1.0, 1.0]))
        >>> window_of(Extents((6.0,), True), Extents((1.0, 2.0, 2.0), False), scan, scan.tensor[None]).shape
        (1, 2, 6, 6)
    """
    from krypton_engine.perturbation.windows import SlidingWindow

    axes, sizes = scan.tensor.ndim - 1, []
    for option, given in (("--window", window), ("--stride", stride)):
        numbers = given.numbers * axes if len(given.numbers) == 1 else given.numbers
        if len(numbers) != axes:
            accepted = f"one size, or {axes}, one for every axis of the scan"
            raise InputError(option, str(given), accepted)
        sizes.append(scan.window_mm(numbers)[1:] if given.millimetres else tuple(map(int, numbers)))
    shape, strides = ((x.shape[1], *each) for each in sizes)
    try:
        return SlidingWindow(tuple(x.shape[1:]), shape, strides)
    except InputError as error:
        option, given = ("--stride", stride) if error.argument == "strides" else ("--window", window)
        raise InputError(option, str(given), error.accepted, error.problem, error.verb) from None


def baseline_of(given: str | None, x: Tensor) -> Tensor:
    """What covers a window of a scan: ``black``, its smallest number, ``mean``, or a number.

    Examples:
        >>> [float(baseline_of(given, x)[0, 0, 0, 0]) for given in ("black", "0.5")] == [float(x.min()), 0.5]
        True
    """
    import torch

    if given in (None, "black", "mean"):
        return torch.full_like(x, float(x.mean() if given == "mean" else x.min()))
    try:
        number = float(str(given))
    except ValueError:
        number = float("nan")
    if not abs(number) <= torch.finfo(x.dtype).max:
        accepted = "black (the smallest number of the input), mean, or a number"
        raise InputError("--baseline", repr(given), accepted + ", with a scan")
    return torch.full_like(x, number)
