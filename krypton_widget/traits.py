"""The types of an explorer's controls: each checks and converts a value, and names a value that it refuses.

A value is checked by itself when it is set (`validate`), and against the image and the other controls once
all that is set together has been set (`Control.fitted`), so that no order of setting them matters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set
from typing import Any, NoReturn, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import traitlets
from torch import Tensor

from krypton_engine.common.arguments import real, whole
from krypton_engine.common.arrays import AnyArray, IntArray
from krypton_engine.errors import InputError
from krypton_engine.perturbation.fillings import Filling
from krypton_engine.perturbation.regions import whole_numbers
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.zoo.superpixels import slic_count
from krypton_widget import coverings, maps
from krypton_widget.maps import Partition, Region, Sent

T = TypeVar("T")

_SUPERPIXELS = 100
"""Superpixels where no count is given."""

Fact = Callable[[Any], T]
"""A fact that a control's value has to fit, read from the widget."""


class Proposal(TypedDict):
    """A value on its way to a control, as traitlets hand it to a validator."""

    trait: Control
    value: Any


class ControlError(InputError, traitlets.TraitError):
    """A value that a control cannot have; the control keeps the one that it had."""


class Control(traitlets.BaseDescriptor):
    """A trait whose refusals name the trait, the value and the accepted ones."""

    accepted: str

    def error(
        self, obj: object, value: object, error: Exception | None = None, info: str | None = None
    ) -> NoReturn:
        """Refuse a value, as traitlets ask a trait to.

        Raises:
            ControlError: Always.

        Examples:
            >>> class Controls(traitlets.HasTraits):
            ...     window = Whole(8)
            >>> Controls(window=1.5)
            Traceback (most recent call last):
            krypton_widget.traits.ControlError: window is 1.5; accepted: integers
        """
        raise ControlError(str(self.name), repr(value), self.accepted)

    def fitted(self, widget: object, value: Any) -> object:
        """The value that the control takes, beside the widget's other controls and its images.

        Raises:
            InputError: The value does not fit them.

        Examples:
            >>> Switch().fitted(None, True), Word().fitted(None, "grey")  # these depend on no other control
            (True, 'grey')
        """
        return value


class Whole(Control, traitlets.Int[Any, Any]):
    """An integer, NumPy's too; no bool."""

    accepted = "integers"

    def validate(self, obj: object, value: object) -> int:
        """An integer of Python's.

        Raises:
            ControlError: The value is of another kind.

        Examples:
            >>> Whole().validate(None, np.int64(3))
            3
        """
        number = whole(value)
        if number is None:
            self.error(obj, value)
        return number


class Real(Control, traitlets.Float[float, float]):
    """A finite number, NumPy's too, for which ``fits`` is true; no bool."""

    def __init__(self, default: float, fits: Callable[[float], bool], accepted: str) -> None:
        super().__init__(default)
        self._fits, self.accepted = fits, accepted

    def validate(self, obj: object, value: object) -> float:
        """A finite number of Python's that fits.

        Raises:
            ControlError: The value is of another kind.

        Examples:
            >>> Real(0.5, lambda share: 0 <= share <= 1, "shares").validate(None, np.float32(0.25))
            0.25
        """
        number = real(value)
        if number is None or not math.isfinite(number) or not self._fits(number):
            self.error(obj, value)
        return number


class OneOf(Control, traitlets.Enum[str]):
    """A trait whose value is one of a few words."""

    def __init__(self, values: Sequence[str], default: str) -> None:
        super().__init__(values, default)
        self.accepted = ", ".join(map(repr, values))

    def validate(self, obj: object, value: object) -> str:
        """The value, if it is one of the words.

        Raises:
            ControlError: The value is none of them.

        Examples:
            >>> OneOf(("own", "fixed"), "own").validate(None, "fixed")
            'fixed'
        """
        if not isinstance(value, str):
            self.error(obj, value)
        return str(super().validate(obj, value))


class Switch(Control, traitlets.Bool[bool, bool]):
    """True or False."""

    accepted = "True and False"

    def validate(self, obj: object, value: object) -> bool:
        """A truth value of Python's.

        Raises:
            ControlError: The value is of another kind.

        Examples:
            >>> Switch().validate(None, np.False_)
            False
        """
        return bool(super().validate(obj, bool(value) if isinstance(value, np.bool_) else value))


class Word(Control, traitlets.Unicode[str, str]):
    """A string."""

    accepted = "strings"


class Side(Whole):
    """The side of a patch, in cells of the image as the model sees it.

    Args:
        default: First value.
        sizes: Sizes of that image.
    """

    def __init__(self, default: int, sizes: Fact[tuple[int, ...]]) -> None:
        super().__init__(default)
        self._sizes = sizes

    def fitted(self, widget: object, value: int) -> int:
        """The side, no longer than a picture's shorter one, or a volume's longest.

        Examples:
            >>> Side(8, lambda widget: (24, 20)).fitted(None, 20)
            20
        """
        sizes = self._sizes(widget)
        longest = maps.longest_window(sizes)
        if not 1 <= value <= longest:
            raise InputError(
                str(self.name),
                f"{value}",
                f"1 to {longest}, the image as the model sees it being {maps.sizes_in_words(sizes)}",
            )
        return value


class Step(Whole):
    """The step of a patch, which misses no pixel: a larger one becomes the patch's side.

    Args:
        default: First value.
        side: The patch's side.
    """

    def __init__(self, default: int, side: Fact[int]) -> None:
        super().__init__(default)
        self._side = side

    def fitted(self, widget: object, value: int) -> int:
        """The step, at most the patch's side.

        Examples:
            >>> step = Step(4, lambda widget: 8)
            >>> step.fitted(None, 6), step.fitted(None, 12)
            (6, 8)
        """
        if value < 1:
            raise InputError(str(self.name), f"{value}", "integers from 1")
        return min(value, self._side(widget))


class ClassIndex(Whole):
    """A trait whose value is a class of a model; None for the predicted one.

    Args:
        count: Number of classes.
    """

    def __init__(self, count: Fact[int]) -> None:
        super().__init__(None, allow_none=True)
        self._count = count

    def fitted(self, widget: object, value: int | None) -> int | None:
        """The class, if the model has so many.

        Examples:
            >>> ClassIndex(lambda widget: 5).fitted(None, 4)
            4
        """
        count = self._count(widget)
        if value is not None and not 0 <= value < count:
            raise InputError(
                str(self.name),
                f"{value}",
                f"classes 0 to {count - 1} of the model, or None: the predicted one",
            )
        return value


class ImageIndex(Whole):
    """A trait whose value is the number of an image.

    Args:
        count: Number of images.
    """

    def __init__(self, count: Fact[int]) -> None:
        super().__init__(0)
        self._count = count

    def fitted(self, widget: object, value: int) -> int:
        """The index, if there are so many images.

        Examples:
            >>> ImageIndex(lambda widget: 2).fitted(None, 1)
            1
        """
        count = self._count(widget)
        if not 0 <= value < count:
            raise InputError(str(self.name), f"{value}", f"0 to {count - 1}")
        return value


def given_before(value: object, given: object) -> object:
    """The mask or filling that a page's ``{"given": ...}`` stands for, where one was given.

    Examples:
        >>> given_before({"given": "local mean"}, 3), given_before("grey", 3), given_before({"box": 6}, 3)
        (3, 'grey', {'box': 6})
    """
    known = given is not None and isinstance(value, dict) and "given" in value
    return given if known else value


class Cover(Control, traitlets.Any):
    """What covered cells become: a word, or a filling of `krypton_engine.fillings`.

    The page has a filling as ``{"given": description}``, and can choose the one that was given last.

    Args:
        given: That filling, or None.
    """

    allow_none = False
    accepted = f"{', '.join(map(repr, coverings.WORDS))}, or a filling of krypton_engine.fillings"

    def __init__(self, default: str, given: Fact[Filling | None]) -> None:
        super().__init__(default)
        self._given = given
        self.tag(to_json=lambda value, _: cover_to_page(value), from_json=self._from_page)

    def validate(self, obj: object, value: object) -> str | Filling:
        """One of the words, or a filling.

        Raises:
            ControlError: The value is another.

        Examples:
            >>> Cover("grey", lambda widget: None).validate(None, "local mean")
            'local mean'
        """
        if isinstance(value, str) and value in coverings.WORDS:
            return value
        if isinstance(value, (str, type)) or not isinstance(value, Filling):
            self.error(obj, value)
        return value

    def _from_page(self, value: object, widget: object) -> object:
        return given_before(value, self._given(widget))


def cover_to_page(value: str | Filling) -> Sent | str:
    """A covering as the page has it.

    Examples:
        >>> from krypton_engine.perturbation.fillings import LocalMean
        >>> cover_to_page("grey"), cover_to_page(LocalMean())
        ('grey', {'given': 'given: local mean'})
    """
    return value if isinstance(value, str) else {"given": coverings.name_of(value)}


class Parts(Control, traitlets.Any):
    """The regions to cover in place of windows: None, a mask, or of a picture ``"slic"`` or ``"slic:COUNT"``.

    The page has a mask as ``{"given": digest}``, and can choose the one that was given last.

    Args:
        input_shape: Channels and sizes of the model's input.
        given: The mask that was given last, or None.
    """

    accepted = "None, 'slic', 'slic:COUNT' or a mask of whole numbers (height, width)"

    def __init__(self, input_shape: Fact[tuple[int, ...]], given: Fact[IntArray | None]) -> None:
        super().__init__(None, allow_none=True)
        self._input_shape, self._given = input_shape, given
        self.tag(to_json=lambda value, _: maps.regions_to_page(value), from_json=self._from_page)

    def fitted(self, widget: object, value: Any) -> Partition:
        """The regions, if a mask is of the image's sizes.

        Examples:
            >>> parts = Parts(lambda widget: (3, 2, 3), lambda widget: None)
            >>> parts.fitted(None, "slic"), parts.fitted(None, torch.tensor([[7, 7, 2], [7, 2, 2]])).tolist()
            ('slic:100', [[7, 7, 2], [7, 2, 2]])
        """
        if value is None:
            return None
        size = tuple(self._input_shape(widget))[1:]
        if isinstance(value, str) and len(size) != 2:
            raise InputError(
                str(self.name),
                repr(value),
                f"None, or a mask of whole numbers of the image's size, {maps.sizes_in_words(size)}",
                "and superpixels are of pictures",
            )
        if isinstance(value, str):
            text = f"{value}:{_SUPERPIXELS}" if value == "slic" else value
            if slic_count(text) is None:
                self.error(None, value)
            return text
        if not isinstance(value, (np.ndarray, Tensor)):
            self.error(None, value)
        if tuple(value.shape) != size:
            raise InputError(
                str(self.name),
                f"a mask of shape {tuple(value.shape)}",
                f"the {' and '.join(maps.SIZES[len(size)])} of the image as the model sees it, {size}",
            )
        try:
            mask = torch.as_tensor(value)
        except TypeError:
            given = f"a mask of type {value.dtype}"
            raise InputError(str(self.name), given, "one of whole numbers") from None
        found: IntArray = whole_numbers(mask, str(self.name)).cpu().numpy().copy()
        return found

    def _from_page(self, value: object, widget: object) -> object:
        return given_before(value, self._given(widget))


class Numbers(Control, traitlets.Any):
    """Numbers of regions; the page has them as text, since its own numbers have fifteen digits.

    Args:
        known: All that there are; None while windows are covered.
    """

    allow_none = False
    accepted = "numbers of regions, such as (3, 7)"

    def __init__(self, known: Fact[IntArray | None]) -> None:
        super().__init__(())
        self._known = known
        self.tag(
            to_json=lambda value, _: [str(number) for number in value],
            from_json=lambda value, _: _numbers_of(value),
        )

    def fitted(self, widget: object, value: Any) -> tuple[int, ...]:
        """The numbers, rising, each once, if there are such regions.

        Examples:
            >>> Numbers(lambda widget: np.array([2, 7])).fitted(None, [7, 2, 7])
            (2, 7)
        """
        listed = value.tolist() if isinstance(value, (np.ndarray, Tensor)) else value
        numbers = list(map(whole, listed)) if isinstance(listed, (Sequence, Set)) else [None]
        found = sorted({number for number in numbers if number is not None})
        if None in numbers or isinstance(listed, str):
            self.error(None, value)
        if not found:
            return ()
        known = self._known(widget)
        if known is None:
            raise InputError(str(self.name), f"{tuple(found)}", "(): windows are covered; set regions first")
        strange = sorted(set(found) - set(known.tolist()))
        if strange:
            raise InputError(
                str(self.name),
                f"{strange[0]}",
                f"the {len(known):,} numbers of the regions, {known[0]} to {known[-1]}",
                verb="holds",
            )
        return tuple(found)


def _numbers_of(value: object) -> object:
    """Whole numbers of texts; anything else as it is."""
    texts = value if isinstance(value, list) else [None]
    fine = all(isinstance(text, str) and text.removeprefix("-").isdecimal() for text in texts)
    return list(map(int, texts)) if fine else value


class Area(Control, traitlets.Any):
    """The region to look at: None (everywhere), a box or a mask of the image's sizes.

    A box is the begin of every axis, then the end of every axis: of a picture (top, left, bottom, right). The
    page has a box as ``{"box": [...]}`` and a mask as ``{"mask": bytes}``.

    Args:
        input_shape: Channels and sizes of the model's input.
    """

    accepted = "None, a box (top, left, bottom, right) of integers or a boolean mask"

    def __init__(self, input_shape: Fact[tuple[int, ...]]) -> None:
        super().__init__(None, allow_none=True)
        self._input_shape = input_shape
        self.tag(to_json=lambda value, _: maps.region_to_page(value), from_json=self._from_page)

    def fitted(self, widget: object, value: Any) -> Region:
        """The region, as a tuple or an array of booleans, if it touches the image.

        Examples:
            >>> area = Area(lambda widget: (3, 24, 20))
            >>> area.fitted(None, [0, 0, 8, 8]), area.fitted(None, torch.ones(24, 20, dtype=torch.bool)).shape
            ((0, 0, 8, 8), (24, 20))
        """
        if value is None:
            return None
        shape = tuple(self._input_shape(widget))
        if isinstance(value, (np.ndarray, Tensor)):
            found = value.tolist() if value.ndim == 1 else _mask(value, shape[1:])
        else:
            found = value
        if not isinstance(found, np.ndarray):
            found = self._box(found, len(shape) - 1)
        maps.wanted(SlidingWindow(shape, shape, shape), found)
        return found

    def _box(self, value: object, axes: int) -> tuple[int, ...]:
        numbers = list(map(whole, value)) if isinstance(value, Sequence) else []
        box = tuple(number for number in numbers if number is not None)
        if not len(numbers) == len(box) == 2 * axes:
            if axes == 2:
                self.error(None, value)
            accepted = f"a box of {2 * axes} integers (the begin of every axis, then the end)"
            raise ControlError(str(self.name), repr(value), f"None, {accepted} or a boolean mask")
        return box

    def _from_page(self, value: object, widget: object) -> object:
        """A region as the page has it; a mask without any pixel is everywhere."""
        if not isinstance(value, dict) or "mask" not in value:
            return value["box"] if isinstance(value, dict) and "box" in value else value
        shape = tuple(self._input_shape(widget))[1:]
        mask = np.frombuffer(value["mask"], dtype=np.uint8) > 0
        if mask.size != math.prod(shape):
            raise ControlError(str(self.name), f"a mask of {mask.size} pixels", f"{math.prod(shape)}")
        return mask.reshape(shape) if mask.any() else None


def _mask(value: AnyArray | Tensor, size: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    mask = np.asarray(value)
    if mask.dtype != np.bool_ or mask.shape != size:
        raise InputError(
            "region",
            f"a mask of shape {mask.shape} and type {mask.dtype}",
            f"booleans of the input's {' and '.join(maps.SIZES[len(size)])}, {size}",
        )
    return mask
