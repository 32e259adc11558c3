"""Options that several commands take, and the values they accept."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from krypton_engine.errors import InputError
from krypton_engine.executors.registry import EXECUTORS

MODEL_HELP = (
    '"vgg16-brain-mri", "efficientnet-lite0", a torchvision model such as "resnet18", or "module:factory": '
    "a function, in a module that can be imported from here, that returns your model, (model, preprocess) "
    "or (model, preprocess, class names)"
)


WEIGHTS_HELP = '"pretrained", "random", or a checkpoint of yours (pretrained)'


def add_question_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the model, the window and the class that are asked about.

    Examples:
        >>> parser = argparse.ArgumentParser()
        >>> add_question_options(parser)
        >>> parser.parse_args(["--model", "resnet18", "--target", "dog"]).target
        'dog'
    """
    add_window_options(parser)
    add_answer_options(parser)


def add_answer_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the model, the class and what covers parts of the picture.

    Examples:
        >>> parser = argparse.ArgumentParser()
        >>> add_answer_options(parser)
        >>> parser.parse_args(["--model", "resnet18"]).baseline
        'grey'
    """
    parser.add_argument("--model", metavar="M", required=True, help=MODEL_HELP)
    parser.add_argument(
        "--target", metavar="C", help="class to explain, a name or an index (the predicted one)"
    )
    parser.add_argument(
        "--baseline",
        metavar="B",
        default="grey",
        help="what covers the window: grey, black, mean (of this picture), blur (this picture, blurred), or "
        "a number in the units of the model's input (grey)",
    )
    parser.add_argument(
        "--activation",
        choices=("softmax", "none"),
        help="what is applied to the model's outputs (softmax if there are several that are no probabilities "
        "yet)",
    )
    parser.add_argument("--executor", choices=EXECUTORS, default="auto", help="(auto)")
    parser.add_argument(
        "--memory-budget",
        metavar="MiB",
        type=positive,
        help="memory to work in (2048, or an eighth of a GPU's where that is more)",
    )


def add_out(parser: argparse.ArgumentParser, text: str) -> None:
    """Add ``--out``, which may be given several times.

    Examples:
        >>> parser = argparse.ArgumentParser()
        >>> add_out(parser, "where to write")
        >>> [path.name for path in parser.parse_args(["-o", "map.png", "-o", "map.npz"]).out]
        ['map.png', 'map.npz']
    """
    parser.add_argument("-o", "--out", metavar="FILE", type=Path, action="append", help=text)


def add_window_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--window`` and ``--stride``.

    Examples:
        >>> parser = argparse.ArgumentParser()
        >>> add_window_options(parser)
        >>> parser.parse_args(["--window", "16,24"])
        Namespace(window=(16, 24), stride=(4, 4))
    """
    parser.add_argument(
        "--window", metavar="N", type=sizes, default=(16, 16), help="pixels, or height,width (16)"
    )
    parser.add_argument("--stride", metavar="N", type=sizes, default=(4, 4), help="likewise (4)")


def add_model_options(parser: argparse.ArgumentParser, weights: str) -> None:
    """Add the options that describe a model besides its name.

    Examples:
        >>> parser = argparse.ArgumentParser()
        >>> add_model_options(parser, weights="a checkpoint")
        >>> parser.parse_args(["--size", "224", "--mean", "0.5"]).size
        (224, 224)
    """
    group = parser.add_argument_group("the model")
    group.add_argument("--weights", metavar="W", help=weights)
    group.add_argument("--size", metavar="N", type=sizes, help="of the input: pixels, or height,width")
    for name in ("mean", "std"):
        group.add_argument(
            f"--{name}", metavar="X", type=numbers, help="of pixels in [0, 1]: a number, or one a channel"
        )
    group.add_argument(
        "--classes", metavar="FILE", help="names of the classes: text, one a line, or .json, such as id2label"
    )


def sizes(text: str) -> tuple[int, int]:
    """A height and a width: ``16`` or ``16,24``.

    Examples:
        >>> sizes("16"), sizes("16,24")
        ((16, 16), (16, 24))
    """
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) not in (1, 2) or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number, or two: height,width")
    return sizes[0], sizes[-1]


@dataclass(frozen=True)
class Extents:
    """Sizes along the axes of an image, of a picture or a scan.

    Attributes:
        numbers: One for all axes, or one for each.
        millimetres: Whether they are millimetres, and not cells.
    """

    numbers: tuple[float, ...]
    millimetres: bool

    def __str__(self) -> str:
        return ",".join(f"{number:g}" for number in self.numbers) + "mm" * self.millimetres

    def pixels(self, option: str) -> tuple[int, int]:
        """Height and width on a picture.

        Args:
            option: The option that the sizes were given by.

        Raises:
            InputError: Sizes that only a scan can have.

        Examples:
            >>> Extents((16.0,), millimetres=False).pixels("--window")
            (16, 16)
        """
        if self.millimetres or len(self.numbers) > 2:
            raise InputError(option, str(self), "pixels, or height,width, with a picture")
        return int(self.numbers[0]), int(self.numbers[-1])


def extents(text: str) -> Extents:
    """Sizes in cells or millimetres: ``16``, ``16,24``, ``8,16,16``, ``16mm`` or ``24,16,16mm``.

    Examples:
        >>> extents("16,24"), str(extents("24, 16, 16 mm"))
        (Extents(numbers=(16.0, 24.0), millimetres=False), '24,16,16mm')
    """
    given = text.strip()
    millimetres = given.endswith("mm")
    try:
        numbers = tuple(float(part) for part in given.removesuffix("mm").split(","))
    except ValueError:
        numbers = ()
    whole = all(number.is_integer() for number in numbers)
    if not 1 <= len(numbers) <= 3 or not all(0 < number < math.inf for number in numbers):
        numbers = ()
    if not numbers or not (millimetres or whole):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a positive whole number, or two: height,width (of a scan, three, or 16mm)"
        )
    return Extents(numbers, millimetres)


def sizes_text(sizes: Sequence[int]) -> str:
    """A height and a width as `sizes` reads them.

    Examples:
        >>> sizes_text((16, 16)), sizes_text((16, 24))
        ('16', '16,24')
    """
    return ",".join(map(str, sizes if len(set(sizes)) > 1 else sizes[:1]))


def numbers(text: str) -> float | list[float]:
    """A number for every channel, or one a channel.

    Examples:
        >>> numbers("0.5"), numbers("0.5,0.4,0.4")
        (0.5, [0.5, 0.4, 0.4])
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, or several: r,g,b") from None
    return numbers[0] if len(numbers) == 1 else numbers


def positive(text: str) -> float:
    """A finite number above 0.

    Examples:
        >>> positive("0.5")
        0.5
    """
    number = _number(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return number


def whole_number(text: str) -> int:
    """A whole number from 1.

    Examples:
        >>> whole_number("10")
        10
    """
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def up_to_one(text: str) -> float:
    """A number above 0 and at most 1.

    Examples:
        >>> up_to_one("0.95")
        0.95
    """
    number = _number(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and at most 1")
    return number


def _number(text: str) -> float:
    """A number; NaN for a text that is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
