"""The wish that controls make up, and the map to measure that follows from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from krypton_engine.common.arrays import Flags
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.heatmap.identity import described
from krypton_engine.perturbation.fillings import Filling
from krypton_engine.perturbation.positions import Positions
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.tuning.tuning import Tuning
from krypton_widget import maps
from krypton_widget.cache import Aim, Known, MapKey
from krypton_widget.maps import Region, Sent
from krypton_widget.subject import Subject

LARGEST_KEPT = 256 * 2**20
"""Bytes up to which a map keeps all classes; beyond, another class is computed anew."""


@dataclass(frozen=True)
class Wish:
    """The controls of a map that no measured value depends on.

    Attributes:
        ssim_target: SSIM with the exact map that is wanted at least; 1 for the exact map.
        exact: Whether every position is to be measured.
        region: Part of the image to look at.
        target: The class to explain; None for the predicted one.
        covered: Numbers of the regions to cover at once, beside the map; none for no such question.
        curve: Whether the finished map is judged by deletion.
    """

    ssim_target: float
    exact: bool
    region: Region
    target: int | None
    covered: tuple[int, ...] = ()
    curve: bool = False


@dataclass(frozen=True)
class Task:
    """One map to measure and show.

    Attributes:
        key: All that its values depend on.
        known: The values measured so far.
        x: The model's input.
        filling: What covered cells become; a tensor is an image of the same shape.
        positions: The sliding window, or the regions.
        wanted: Positions to look at, of `krypton_widget.maps.grid_of`'s shape.
        wish: The other controls.
        exact: Whether to measure everything.
        ssim_target: SSIM that the approximate map should have; None without an approximate map.
        tuning: Tuning that says where it may stop; None without one that fits.
        note: Reason why the tuning does not serve, in words; empty where it does.
        aim: All that the course of the approximate map depends on.
        keep_all: Whether all classes are kept.

    Examples:
        >>> key, wish = MapKey(0, 12, 12, "grey"), Wish(ssim_target=0.9, exact=True, region=None, target=0)
        >>> task = task_for(key, wish, Known(), Subject(model, [x[0]], None), None, keep_all=True)
        >>> task.lacks_approximate(), task.lacks_exact(), task.so_far()
        (True, True, None)
        >>> task.known.course(task.aim).end(heatmap, ssim_target=0.9)
        >>> task.known.note(heatmap)
        >>> task.approximate() == heatmap, task.complete(), task.lacks()
        (True, True, False)
    """

    key: MapKey
    known: Known
    x: Tensor
    filling: Filling | Tensor
    positions: Positions
    wanted: Flags
    wish: Wish
    exact: bool
    ssim_target: float | None
    tuning: Tuning | None
    note: str
    aim: Aim
    keep_all: bool

    @property
    def several(self) -> bool:
        """Whether the filling has several samples: before the last, a map is the mean of too few.

        Examples:
            >>> key, wish = MapKey(0, 8, 4, "noise"), Wish(ssim_target=1, exact=True, region=None, target=0)
            >>> task_for(key, wish, Known(), Subject(model, [x[0]], None), None, keep_all=True).several
            False
        """
        return _has_several(self.filling)

    def approximate(self) -> Heatmap | None:
        """The approximate map; None as long as it has not been measured."""
        return None if self.ssim_target is None else self.known.approximate(self.aim, self.ssim_target)

    def complete(self) -> bool:
        """Whether all positions wanted have been measured exactly."""
        return self.known.covers(self.wanted)

    def so_far(self) -> Heatmap | None:
        """The positions measured so far, with the values of the class explained."""
        return self.known.of(self.aim.target)

    def lacks_approximate(self) -> bool:
        """Whether an approximate map is to be measured."""
        return self.ssim_target is not None and self.approximate() is None

    def lacks_exact(self) -> bool:
        """Whether the exact map is to be finished."""
        return self.exact and not self.complete()

    def lacks(self) -> bool:
        """Whether anything is to be measured.

        Examples:
            >>> key, wish = MapKey(0, 8, 4, "grey"), Wish(ssim_target=1, exact=True, region=None, target=None)
            >>> task = task_for(key, wish, Known(), Subject(model, [x[0]], None), None, keep_all=True)
            >>> task.lacks_approximate(), task.lacks_exact(), task.lacks(), task.so_far()
            (False, True, True, None)
        """
        return self.lacks_approximate() or self.lacks_exact()


def positions_for(key: MapKey, subject: Subject) -> Positions:
    """The regions, or the window: a picture's is a square, a volume's a cube that its shorter axes cut.

    Examples:
        >>> subject = Subject(model, [x[0]], None)
        >>> window = positions_for(MapKey(0, window=32, stride=4, baseline="grey"), subject)
        >>> window.shape, window.strides
        ((3, 20, 20), (3, 4, 4))
        >>> positions_for(MapKey(0, 0, 0, "grey", regions="slic:6"), subject) == subject.regions(0, "slic:6")
        True
    """
    if key.regions is not None:
        return subject.regions(key.image, key.regions)
    shape = subject.shape(key.image)
    longest = maps.longest_window(shape[1:])
    sides = [min(key.window, longest, size) for size in shape[1:]]
    return SlidingWindow(shape, (shape[0], *sides), (shape[0], *[min(key.stride, side) for side in sides]))


def keeps_all(positions: Positions, outputs: Tensor) -> bool:
    """Whether there is room for all classes of every position, of outputs ``(1, classes)``.

    Examples:
        >>> window = SlidingWindow((3, 224, 224), (3, 8, 8), (3, 1, 1))
        >>> keeps_all(window, torch.zeros(1, 1000)), keeps_all(window, torch.zeros(1, 1))
        (True, False)
    """
    size = len(positions) * outputs.numel() * outputs.element_size()
    return outputs.shape[1] > 1 and size <= LARGEST_KEPT


def task_for(
    key: MapKey, wish: Wish, known: Known, subject: Subject, tuning: Tuning | None, keep_all: bool
) -> Task:
    """The map to measure for a wish.

    Args:
        key: All that the map's values depend on.
        wish: The other controls.
        known: The values measured so far.
        subject: The model and its images.
        tuning: Tuning that says where approximate maps may stop; None without one.
        keep_all: Whether all classes are kept.

    Examples:
        >>> key, wish = MapKey(0, 8, 4, "grey"), Wish(ssim_target=0.9, exact=False, region=None, target=2)
        >>> task = task_for(key, wish, Known(), Subject(model, [x[0]], None), None, keep_all=True)
        >>> task.positions.counts, task.aim.target, task.lacks_approximate(), task.lacks_exact()
        ((1, 5, 4), 2, True, False)
    """
    predicted = int(subject.answer(key.image).argmax())
    target = predicted if wish.target is None else wish.target
    positions = positions_for(key, subject)
    filling = subject.filling(key.image, key.baseline)
    note = ""
    several = _has_several(filling)
    # Without neighbours, or of several samples, nothing is interpolated.
    everywhere = several or not isinstance(positions, SlidingWindow)
    if everywhere:
        tuning = None
        note = "of several samples every position is measured" if several else ""
    if tuning is not None and isinstance(positions, SlidingWindow):
        note = unfit(tuning, positions, filling, target, predicted)
        note = note or ("" if wish.region is None else "the tuning is for whole maps")
        tuning = None if note else tuning
    ssim_target = None if wish.ssim_target == 1 or everywhere else wish.ssim_target
    # Where all classes are kept, nothing is trimmed.
    if ssim_target is not None and tuning is not None and tuning.goal(ssim_target, not keep_all) is None:
        ssim_target, note = None, "the tuning has too few images to stop before all positions are measured"
    exact = wish.exact or ssim_target is None
    if wish.exact and wish.region is not None:  # comparing is for whole maps
        ssim_target = None
    return Task(
        key=key,
        known=known,
        x=subject.x(key.image),
        filling=filling,
        positions=positions,
        wanted=maps.wanted(positions, wish.region),
        wish=wish,
        exact=exact,
        ssim_target=ssim_target,
        tuning=tuning,
        note="" if wish.exact else note,
        aim=Aim(target, maps.fingerprint(wish.region), None if tuning is None else ssim_target),
        keep_all=keep_all,
    )


def _has_several(filling: Filling | Tensor) -> bool:
    return isinstance(filling, Filling) and filling.samples > 1


_CONTROLS = {
    "input_shape": "image size",
    "window": "patch size",
    "strides": "stride",
    "baseline": "patch colour",
    "target": "class",
}
"""Arguments of a call, by the words that stand on the page."""


def unfit(
    tuning: Tuning, window: SlidingWindow, filling: Filling | Tensor, target: int, predicted: int
) -> str:
    """The differences between a tuning's call and this one, in words; empty where it fits, the model aside.

    Args:
        tuning: The tuning.
        window: The sliding window asked for.
        filling: What covered cells become; a tensor is an image of the input's shape.
        target: The class explained.
        predicted: The class predicted.

    Examples:
        >>> window = SlidingWindow((3, 24, 20), (3, 8, 8), (3, 2, 2))
        >>> unfit(tuning, window, torch.full((1, 3, 24, 20), 0.5), target=1, predicted=1)
        'the tuning is for another stride'
    """
    there = tuning.fingerprint
    here = replace(
        there,
        input_shape=window.input_shape,
        window=window.shape,
        strides=window.strides,
        baseline=described(filling) if isinstance(filling, Tensor) else filling.describe(),
        target=None if there.target is None and target == predicted else target,
    )
    words = [_CONTROLS[name] for name in there.arguments_that_differ(here)]
    return f"the tuning is for another {' and '.join(words)}" if words else ""


def asked(key: MapKey, wish: Wish) -> Sent:
    """The controls that a map answers, by name: the page compares them with its controls as they stand now.

    A map of regions answers whatever the controls say that only windows have.

    Examples:
        >>> controls = asked(MapKey(0, 8, 4, "grey"), Wish(0.9, False, (0, 0, 8, 8), None))
        >>> controls["window"], controls["region"], controls["regions"]
        (8, {'box': [0, 0, 8, 8]}, None)
    """
    how = (
        {"window": key.window, "stride": key.stride, "exact": wish.exact, "ssim_target": wish.ssim_target}
        if key.regions is None
        else {}
    )
    return how | {
        "regions": maps.regions_to_page(key.regions),
        "image_index": key.image,
        "baseline": key.baseline,
        "target": wish.target,
        "region": maps.region_to_page(wish.region),
    }
