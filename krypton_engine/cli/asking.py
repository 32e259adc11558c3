"""What is asked of a picture or a scan: the options of a map, put together with the model and the image."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krypton_engine.cli import scan
from krypton_engine.cli.options import Extents, add_answer_options, extents, up_to_one, whole_number
from krypton_engine.cli.picture import FILLINGS, baseline_of, filling_of, input_of, regions_of, window_of
from krypton_engine.cli.saving import read_tuning
from krypton_engine.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from krypton_engine.medical import Scan
    from krypton_engine.perturbation.fillings import Filling
    from krypton_engine.perturbation.regions import Regions
    from krypton_engine.perturbation.windows import SlidingWindow
    from krypton_engine.tuning.tuning import Tuning
    from krypton_engine.zoo import ZooModel


def add_map_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which map is asked for.

    Examples:
        >>> parser = argparse.ArgumentParser()
        >>> add_map_options(parser)
        >>> str(parser.parse_args(["--model", "resnet18", "--window", "32"]).window)
        '32'
    """
    parser.add_argument(
        "--window",
        metavar="N",
        type=extents,
        help="pixels, or height,width (16); of a scan also slices,rows,columns, and millimetres: 16mm",
    )
    parser.add_argument("--stride", metavar="N", type=extents, help="likewise (4; 8 of a scan)")
    add_answer_options(parser)
    parser.set_defaults(baseline=None)  # grey, or of a scan black
    parser.add_argument(
        "--regions",
        metavar="R",
        help="cover regions in place of windows: slic:100 (about as many superpixels), or a .npy with a "
        "whole number for every pixel of the model's input",
    )
    parser.add_argument(
        "--filling",
        choices=FILLINGS,
        help="what covers the window, in place of --baseline: the mean around it, noise, or draws of what "
        "may be there given what is around it, learnt from this picture",
    )
    parser.add_argument(
        "--samples",
        metavar="N",
        type=whole_number,
        help="draws of --filling that are averaged (1; 10 conditional), permutations of shapley (25), or "
        "evaluations of owen (500)",
    )
    parser.add_argument(
        "--ssim",
        metavar="X",
        type=up_to_one,
        help="stop when the map is probably this similar to the exact one, and interpolate the rest "
        "(the exact map)",
    )
    parser.add_argument(
        "--tuning", metavar="FILE", help="what krypton tune wrote: when such a map is similar enough"
    )


def _filling(arguments: argparse.Namespace, size: tuple[int, int], x: Tensor) -> Filling | None:
    """The filling that the options describe; None for the baseline."""
    if arguments.filling is None:
        if arguments.samples is not None:
            raise InputError("--samples", f"{arguments.samples}", "none without --filling")
        return None
    if arguments.regions is not None and arguments.filling == "conditional":
        raise InputError(
            "--filling", "conditional", "local-mean or noise with --regions, since draws are boxes"
        )
    samples = arguments.samples or (10 if arguments.filling == "conditional" else 1)
    return filling_of(arguments.filling, samples, x, size)


@dataclass(frozen=True)
class Asked:
    """What is asked of a picture or a scan.

    Attributes:
        model: The model.
        x: Its input.
        positions: What is covered, one after the other.
        baseline: What covers it: of the input's shape.
        covers: The same in words.
        filling: What covers it in place of the baseline; None for that.
        scan: The scan; None for a picture.
    """

    model: ZooModel
    x: Tensor
    positions: SlidingWindow | Regions
    baseline: Tensor
    covers: str
    filling: Filling | None = None
    scan: Scan | None = None


def of_picture(arguments: argparse.Namespace, model: ZooModel, image: Image, name: str) -> Asked:
    """What the options ask of a picture.

    Args:
        arguments: Values of `add_map_options`, and the ``method``.
        model: The model.
        image: The picture.
        name: Its name, for messages.

    Raises:
        InputError: Options that fit neither one another nor the picture.

    Examples:
        >>> import PIL.Image
        >>> parser = argparse.ArgumentParser()
        >>> add_map_options(parser)
        >>> arguments = parser.parse_args(["--model", "mine", "--window", "8"])
        >>> asked = of_picture(
        ...     argparse.Namespace(method="occlusion", **vars(arguments)), zoo_model,
        ...     PIL.Image.new("RGB", (60, 50)), "bird.png",
        ... )
        >>> asked.positions.grid_shape, asked.covers
        ((5, 4), 'grey')
    """
    from krypton_engine.perturbation.regions import Regions

    size, stride = check_extents(arguments)
    x = input_of(model, image, name)
    positions: SlidingWindow | Regions
    if arguments.regions is None and arguments.method != "occlusion":
        window = window_of(size, size, x)
        positions = Regions.tiles(window.input_shape, window.shape)
    elif arguments.regions is None:
        positions = window_of(size, stride, x)
    else:
        positions = regions_of(arguments.regions, model, x)
    if arguments.ssim is not None and isinstance(positions, Regions):
        given = f"{arguments.ssim}"
        if arguments.method != "occlusion":
            raise InputError("--ssim", given, "none with --method, whose values are of all regions")
        if positions.grid is None:
            accepted = "none with these regions, which are no equal boxes side by side, numbered by rows"
            raise InputError("--ssim", given, accepted)
        positions = positions.grid
    covers = arguments.baseline or "grey"
    baseline = baseline_of(covers, model, image, x)
    filling = None if arguments.method != "occlusion" else _filling(arguments, size, x)
    return Asked(model, x, positions, baseline, covers, filling)


def of_scan(arguments: argparse.Namespace, model: ZooModel, x: Tensor, found: Scan) -> Asked:
    """What the options ask of a scan.

    Args:
        arguments: Values of `add_map_options`.
        model: The model.
        x: The model's input of the scan, ``(1, C, D, H, W)``.
        found: The scan.

    Raises:
        InputError: Options that do not fit the scan.

    Examples:
        >>> from krypton_engine.medical import read_scan
        >>> parser = argparse.ArgumentParser()
        >>> add_map_options(parser)
        >>> found = read_scan(np.zeros((20, 24, 24)))
        >>> of_scan(parser.parse_args(["--model", "mine"]), zoo_model, found.tensor[None], found).covers
        'black'
    """
    (_, size), (_, stride) = extents_of(arguments, 8)
    covers = arguments.baseline or "black"
    baseline = scan.baseline_of(covers, x)
    return Asked(model, x, scan.window_of(size, stride, found, x), baseline, covers, scan=found)


def extents_of(
    arguments: argparse.Namespace, stride: float
) -> tuple[tuple[str, Extents], tuple[str, Extents]]:
    """Sizes of the window and its stride by option, 16 and ``stride`` cells where none are given.

    Examples:
        >>> window, stride = extents_of(argparse.Namespace(window=None, stride=extents("8")), 4)
        >>> str(window[1]), str(stride[1])
        ('16', '8')
    """
    usual = Extents((16.0,), millimetres=False), Extents((stride,), millimetres=False)
    return ("window", arguments.window or usual[0]), ("stride", arguments.stride or usual[1])


def check_extents(arguments: argparse.Namespace) -> tuple[tuple[int, int], tuple[int, int]]:
    """The window and its stride on a picture, in pixels.

    Raises:
        InputError: Sizes that only a scan can have.

    Examples:
        >>> check_extents(argparse.Namespace(window=extents("16,24"), stride=None))
        ((16, 24), (4, 4))
    """
    window, stride = (given.pixels(f"--{name}") for name, given in extents_of(arguments, 4))
    return window, stride


def check_tuning(arguments: argparse.Namespace) -> Tuning | None:
    """The tuning that ``--tuning`` names; None for none.

    Raises:
        InputError: The file holds none, or there is no ``--ssim`` for it to reach.

    Examples:
        >>> check_tuning(argparse.Namespace(tuning="birds.json", ssim=None))
        Traceback (most recent call last):
        krypton_engine.errors.InputError: --tuning is 'birds.json'; accepted: none without --ssim, ...
    """
    if arguments.tuning is None:
        return None
    if arguments.ssim is None:
        accepted = "none without --ssim, the similarity that a tuning is to reach"
        raise InputError("--tuning", repr(str(arguments.tuning)), accepted)
    return read_tuning("--tuning", arguments.tuning)
