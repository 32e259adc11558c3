"""OcclusionExplorer: move a slider, watch the explanation redraw."""

from __future__ import annotations

import atexit
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import anywidget
import numpy as np
import torch
import traitlets
from torch import Tensor

from krypton_engine.attr.checks import Activation
from krypton_engine.attr.occlusion import KryptonOcclusion
from krypton_engine.common import files
from krypton_engine.common.arrays import IntArray
from krypton_engine.common.calling import Forward
from krypton_engine.common.outputs import usual_activation
from krypton_engine.errors import InputError
from krypton_engine.heatmap.files import ENDINGS
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.perturbation.fillings import Filling
from krypton_engine.perturbation.regions import Regions
from krypton_engine.tuning.tuning import Tuning
from krypton_engine.zoo.names import ClassNames, names_in_order
from krypton_engine.zoo.pixels import ToInput
from krypton_widget import export, kept, maps, niivue, still
from krypton_widget.cache import MapKey
from krypton_widget.coverings import Covering
from krypton_widget.maps import Partition, Region, Sent
from krypton_widget.measuring import Measurer
from krypton_widget.page import Page, Shown, Turn
from krypton_widget.pictures import COLORMAPS, colour_table
from krypton_widget.reading import UserImage, thumbnail
from krypton_widget.subject import Subject
from krypton_widget.task import Wish
from krypton_widget.traits import (
    Area,
    ClassIndex,
    ControlError,
    Cover,
    ImageIndex,
    Numbers,
    OneOf,
    Parts,
    Proposal,
    Real,
    Side,
    Step,
    Switch,
    Word,
    cover_to_page,
)
from krypton_widget.worker import Cancelled, LatestWins

_STATIC = Path(__file__).parent / "static"

_ASKS = (
    "window", "stride", "regions", "baseline", "exact", "ssim_target", "region", "image_index", "target",
    "covered", "curve",
)  # fmt: skip
"""Controls that ask for a map."""

_LOOKS = ("opacity", "colormap", "scale", "limit", "overlay", "threshold", "dots")
"""Controls of a map's look."""


class OcclusionExplorer(anywidget.AnyWidget):
    """A live occlusion map with its controls beside it.

    The map runs at once, coarse first, and again whenever a control moves, here or on the page; the newest
    wins. Every control is a trait: set it, ``observe`` it, ``link`` it.

    Args:
        model: A module (or any callable) from a batch of images to one row of classes for each.
        image: A picture: PIL image, NumPy array (height, width[, channels]), tensor (channels, height,
            width). A volume: `krypton_engine.medical.Scan`, array or tensor (channels, depth, height, width).
            A signal: array or tensor (channels, length). Or a list of these to pick from. Where axes can
            mean two things, as those of (40, 64) do, the image is a picture if the model takes that.
        preprocess: Function from one of these images to the model's input, (channels, height, width),
            (channels, depth, height, width) or (channels, length); None for bytes to floats from 0 to 1, and
            nothing else.
        class_names: One a class, in their order or by their index (as Hugging Face's ``id2label``).
        target: The class explained; None for the predicted one.
        window: Side of the patch, in cells of the model's input: of a square, of a cube in a volume (which
            covers an axis that is shorter), of a stretch of a signal.
        stride: Step of the patch. The stride never exceeds the window, and is lowered with it.
        ssim_target: SSIM with the exact map (`krypton_engine.approximation.ssim.ssim`) to reach, above 0
            and at most 1: positions are measured coarse to fine, then where the map is least certain,
            until the map probably has it; positions between are interpolated, and marked so.
        exact: Measure every position.
        tuning: Result of `KryptonOcclusion.tune` for images of this kind, with this patch, stride, colour
            and class, by which a map is known to be similar enough. For other choices the similarity is
            estimated on the way, and marked so.
        regions: Cover regions in place of windows, one after another: ``"slic"`` (superpixels of the image by
            scikit-image; ``"slic:200"`` for about so many), or a mask of whole numbers of the image's size as
            the model sees it: (height, width), or an atlas (depth, height, width). Every region is measured.
        covered: Numbers of regions to cover at once, beside the map, as by clicking on them.
        baseline: The patch's colour, chosen in the picture and then preprocessed: ``"grey"``, ``"black"``,
            ``"mean"`` (of the picture) or ``"blur"`` (the picture, blurred); or a filling of the model's
            input: ``"local mean"`` (of the surroundings), ``"noise"``, or one of `krypton_engine.fillings`.
            Volumes and signals are covered after preprocessing: black is their smallest number, and grey the
            middle of the ``levels`` of a scan that is not preprocessed, of 0 and 1 of shares, or else nearly
            of their extremes.
        curve: Measure deletion curves of the finished map: what becomes of the class as the most important
            parts are covered first (`krypton_engine.evaluate.deletion`); of a filling with several samples,
            by the first.
        region: Look only where windows touch a box (the begin of every axis, then the end of every axis:
            top, left, bottom, right) or a boolean mask.
        opacity: Opacity of the colours, 0 to 1.
        colormap: Name of one of Matplotlib's colour maps.
        scale: ``"own"``: the colours end at the map's largest change; ``"shared"``: at the largest of all the
            maps seen; ``"fixed"``: at ``limit``.
        limit: See ``scale``. Of probabilities the other two scales end at 0.05 at least: a change of nearly
            nothing is not drawn as if it counted.
        overlay: ``"cells"``: a colour a position; ``"smooth"``: interpolated between them; ``"contours"``:
            lines at a quarter, a half and three quarters of the scale.
        threshold: Share of the scale, 0 to 1, below which a change is not coloured.
        dots: Mark measured positions of a map that is measured in part.
        activation: Function that makes probabilities of outputs; ``"auto"`` is softmax, unless the rows are
            probabilities already or have one number.
        executor: As of `krypton_engine.KryptonOcclusion`.

    Raises:
        InputError: An argument cannot be used, or the model raises on the first image.

    Examples:
        >>> explorer = OcclusionExplorer(model, x[0], window=8, stride=4)
        >>> explorer.wait()
        >>> explorer.window = 6
        >>> explorer.wait()
        >>> explorer.heatmap.drop.shape
        torch.Size([6, 5])
        >>> explorer.close()
    """

    # Text, not paths: anywidget watches files, by a closure on every instance that is never let go.
    _esm = (_STATIC / "widget.js").read_text(encoding="utf-8")
    _css = (_STATIC / "widget.css").read_text(encoding="utf-8")

    window = Side(16, lambda self: self._shape()[1:]).tag(sync=True)
    stride = Step(8, lambda self: self.window).tag(sync=True)
    ssim_target = Real(0.95, lambda v: 0 < v <= 1, "numbers above 0 and at most 1").tag(sync=True)
    exact = Switch(False).tag(sync=True)
    regions = Parts(lambda self: self._shape(), lambda self: self._last_mask).tag(sync=True)
    covered = Numbers(lambda self: self._numbers()).tag(sync=True)
    baseline = Cover("grey", lambda self: self._last_filling).tag(sync=True)
    curve = Switch(False).tag(sync=True)
    region = Area(lambda self: self._shape()).tag(sync=True)
    target = ClassIndex(lambda self: self._classes).tag(sync=True)
    image_index = ImageIndex(lambda self: len(self._subject.images)).tag(sync=True)
    opacity = Real(0.85, lambda v: 0 <= v <= 1, "numbers from 0 to 1").tag(sync=True)
    colormap = Word(COLORMAPS[0]).tag(sync=True)
    scale = OneOf(("own", "shared", "fixed"), "own").tag(sync=True)
    limit = Real(1.0, lambda v: v > 0, "positive numbers").tag(sync=True)
    overlay = OneOf(("cells", "smooth", "contours"), "cells").tag(sync=True)
    threshold = Real(0.0, lambda v: 0 <= v <= 1, "numbers from 0 to 1").tag(sync=True)
    dots = Switch(True).tag(sync=True)

    running = traitlets.Bool(False, help="Whether a run is under way; read only.").tag(sync=True)
    error = traitlets.Unicode("", help="What went wrong, in words.").tag(sync=True)

    _failed = traitlets.Bool(False, help="Whether that was the run.").tag(sync=True)

    _class_names: traitlets.List[str] = traitlets.List().tag(sync=True)
    _colours = traitlets.Dict().tag(sync=True)
    _thumbnails: traitlets.List[bytes] = traitlets.List().tag(sync=True)
    _image_names: traitlets.List[str] = traitlets.List().tag(sync=True)
    _cells = traitlets.Dict(help="Of the page: see `Page`.").tag(sync=True)
    _detail = traitlets.Dict(help="Of the page: see `Page`.").tag(sync=True)
    _view = traitlets.Dict(help="Of the page: see `Page`.").tag(sync=True)
    _frame = traitlets.Dict(help="Of the page: see `Page`.").tag(sync=True)
    _comparison = traitlets.Dict(help="Of the page: see `Page`.").tag(sync=True)
    _together = traitlets.Dict(help="Of the page: see `Page`.").tag(sync=True)
    _curves = traitlets.Dict(help="Of the page: see `Page`.").tag(sync=True)
    _kept = traitlets.Dict(help="A map beside the page's own: see `keep`.").tag(sync=True)
    _given = traitlets.Dict(help="Mask and filling that the page can choose beside its own.").tag(sync=True)

    def __init__(
        self,
        model: Forward,
        image: UserImage | list[UserImage] | tuple[UserImage, ...],
        *,
        preprocess: ToInput | None = None,
        class_names: ClassNames | None = None,
        target: int | None = None,
        window: int = 16,
        stride: int = 8,
        ssim_target: float = 0.95,
        exact: bool = False,
        tuning: Tuning | None = None,
        regions: Partition | Tensor = None,
        covered: Sequence[int] = (),
        baseline: Covering = "grey",
        curve: bool = False,
        region: Region = None,
        opacity: float = 0.85,
        colormap: str = COLORMAPS[0],
        scale: Literal["own", "shared", "fixed"] = "own",
        limit: float = 1.0,
        overlay: Literal["cells", "smooth", "contours"] = "cells",
        threshold: float = 0.0,
        dots: bool = True,
        activation: Activation | Literal["auto"] = "auto",
        executor: str = "auto",
    ) -> None:
        self._worker = LatestWins("krypton explorer")  # first: `close` ends it, whatever happens below
        if not callable(model):
            raise InputError("model", type(model).__name__, "a module or another callable")
        if preprocess is not None and not callable(preprocess):
            raise InputError("preprocess", type(preprocess).__name__, "None or a callable")
        if tuning is not None and not isinstance(tuning, Tuning):
            raise InputError("tuning", type(tuning).__name__, "None or a Tuning")
        images: list[UserImage] = list(image) if isinstance(image, (list, tuple)) else [image]
        if not images:
            raise InputError("image", "an empty list", "an image or a list of them")
        self._subject = Subject(model, images, preprocess)
        occlusion = KryptonOcclusion(model, executor)
        first = self._subject.answer(0)
        activation = usual_activation(first) if activation == "auto" else activation
        self._measurer = Measurer(self._subject, occlusion, activation, tuning)
        self._page = Page(self._subject, activation, lambda part, now: setattr(self, f"_{part}", now))
        self._classes = first.shape[1]
        self._covered_of: object = None
        self._last_mask: IntArray | None = None
        self._last_filling: Filling | None = None
        self._still: still.Place | None = None
        given = range(self._classes) if class_names is None else names_in_order(class_names, self._classes)
        super().__init__(
            window=window,
            stride=stride,
            ssim_target=ssim_target,
            exact=exact,
            regions=regions,
            covered=covered,
            baseline=baseline,
            curve=curve,
            region=region,
            target=target,
            opacity=opacity,
            colormap=colormap,
            scale=scale,
            limit=limit,
            overlay=overlay,
            threshold=threshold,
            dots=dots,
            _class_names=_distinct([str(name) for name in given]),
            _colours={name: colour_table(name) for name in COLORMAPS},
        )
        self._own_layout = self.layout
        if len(images) > 1:
            axes = len(self._subject.shape(0)) - 1
            self._image_names = [Path(self._subject.source(i) or "").name for i in range(len(images))]
            self._thumbnails = [thumbnail(item, axes) for item in images]
        self.observe(self._lower_stride, "window")
        self.observe(self._another_image, "image_index")
        self.observe(self._nothing_covered, ["image_index", "regions"])
        self.observe(self._remember_given, ["baseline", "regions"])
        self._remember_given()
        self.observe(self._ask, list(_ASKS))
        self.on_msg(self._on_message)
        atexit.register(self._worker.close)
        self._ask()

    # -- what a user calls -----------------------------------------------------------------------------

    @property
    def heatmap(self) -> Heatmap | None:
        """The map on the page, as far as a run has come; its ``status`` marks interpolated values."""
        shown = self._page.shown
        return None if shown is None else shown.heatmap

    def wait(self, timeout: float | None = None) -> None:
        """Return when the latest run has ended, or been cancelled.

        Raises:
            TimeoutError: The run has not ended after ``timeout`` seconds.
            Exception: The run's own error.
        """
        self._worker.wait(timeout)

    def cancel(self) -> None:
        """Stop the run; its measurements stay, and the next run goes on from there."""
        with self._page.lock:
            if self._worker.cancel():  # it will not run, so nobody else will say that it has ended
                self._page.keep_only(*self._controls())
                self.running = False

    def resume(self) -> None:
        """Go on with the map that the controls ask for, where it was cancelled."""
        self._ask()

    def keep(self, heatmap: Heatmap | None = None, name: str = "") -> None:
        """Keep a map on the page, beside those to come: with one pointer and one scale.

        Args:
            heatmap: Any map of one value a position, as of another model or another image with as many axes;
                None for the map on the page as it is now.
            name: Words above it; by default what it explains, and how.

        Raises:
            InputError: No such map, or nothing has been measured yet.

        Examples:
            >>> explorer = OcclusionExplorer(model, x[0], window=8, stride=4)
            >>> explorer.wait()
            >>> explorer.keep()
            >>> explorer.target = 3  # beside the class before
            >>> explorer.let_go()
            >>> explorer.close()
        """
        if heatmap is not None and not isinstance(heatmap, Heatmap):
            raise InputError("heatmap", type(heatmap).__name__, "None or a Heatmap")
        with self._page.lock:
            if heatmap is None:
                shown = self._shown_now()
                self._kept = {**self._page.kept(), "name": name or self._name_of(shown)}
                return
            found = kept.of(heatmap, axes=len(self._shape()) - 1)
            self._kept = {**found, "name": name or kept.name_of(heatmap, self._class_names)}

    def let_go(self) -> None:
        """Take the map that was kept off the page."""
        self._kept = {}

    def save(self, path: str | os.PathLike[str], width: int | None = None) -> None:
        """Write the map to a file.

        Args:
            path: Path of the file, whose ending decides: ``.png``, ``.svg`` or ``.pdf`` (a picture with its
                legend), ``.npz`` (the numbers), or ``.html`` (the page, without a kernel).
            width: Pixels of a PNG's width; None for about 1250.

        Raises:
            InputError: No path, another ending, a folder that does not exist, a width that no picture has, or
                nothing has been measured yet.
            OSError: Writing fails; what was there is still there.
        """
        given, ending = files.destination(path, {**ENDINGS, ".html": "the page"})
        files.write(given, self._file(ending, width))

    def niivue(self) -> Any:
        """The volume and the map as it is now in NiiVue, the viewer of scans (``pip install ipyniivue``).

        Returns:
            An ``ipyniivue.NiiVue``: a widget of its own, which shows the drop in warm colours where it is
            positive and in cold ones where it is negative, up to the end of the explorer's scale.

        Raises:
            InputError: The image is no volume, nothing has been measured yet, or ``ipyniivue`` is missing.

        Examples:
            >>> explorer = OcclusionExplorer(model, x[0], window=8, stride=4)  # a picture
            >>> explorer.wait()
            >>> explorer.niivue()
            Traceback (most recent call last):
            krypton_engine.errors.InputError: the image is 24 x 20 (height x width); accepted: a volume: ...
            >>> explorer.close()
        """
        with self._page.lock:
            shown = self._shown_now()
        return niivue.viewer(shown, self._subject.input(shown.task.key.image), self._look())

    def close(self) -> None:
        """Stop the run, end its thread and take the widget off the page."""
        if "_worker" in vars(self):  # not where the arguments were refused by Python itself
            atexit.unregister(self._worker.close)
            self._worker.close()
        if "_own_layout" in vars(self):  # a widget too, which ipywidgets would keep
            self._own_layout.close()
        super().close()

    # -- controls --------------------------------------------------------------------------------------

    def _shape(self) -> tuple[int, ...]:
        """Channels and sizes of the image that is looked at, as the model sees it."""
        return self._subject.shape(self.image_index)

    def _numbers(self) -> IntArray | None:
        """The numbers of the regions that are covered; None while windows are."""
        found = self._regions()
        return None if found is None else self._subject.regions(self.image_index, found).ids

    def _regions(self) -> Regions | str | None:
        # Set together with other controls, the value may not have been fitted yet.
        given = self.traits()["regions"].fitted(self, self.regions)
        if isinstance(given, np.ndarray):
            return Regions.of(torch.from_numpy(given), self._shape(), "regions")
        return given  # type: ignore[no-any-return]

    @traitlets.validate("window", "stride", "target", "image_index", "region", "regions", "covered")
    def _fitted(self, proposal: Proposal) -> object:
        """The value that a control takes, beside the others and the image."""
        control = proposal["trait"]
        try:
            found = control.fitted(self, proposal["value"])
        except InputError as error:
            raise ControlError(*error.args) from None
        if control.name == "covered":
            self._covered_of = self._pieces()
        return found

    @traitlets.validate("colormap")
    def _known_colours(self, proposal: Proposal) -> str:
        """A colour map whose colours the page has; they are sent before its name if need be."""
        name: str = proposal["value"]
        if name not in self._colours:
            try:
                self._colours = {**self._colours, name: colour_table(name)}
            except InputError as error:
                raise ControlError(*error.args) from None
        return name

    def _lower_stride(self, _: object) -> None:
        self.stride = min(self.stride, self.window)

    def _another_image(self, _: object) -> None:
        self.region = None
        if self.regions is not None:
            sizes = self._shape()[1:]
            fits = len(sizes) == 2 if isinstance(self.regions, str) else np.shape(self.regions) == sizes
            self.regions = self.regions if fits else None

    def _nothing_covered(self, _: object) -> None:
        """Numbers mean other regions now, unless they were set together with these."""
        if self._covered_of != self._pieces():
            self.covered = ()

    def _pieces(self) -> object:
        """What numbers of regions refer to."""
        return self.image_index, maps.regions_to_page(self._regions())

    def _remember_given(self, _: object = None) -> None:
        """Keep the mask and the filling that were given, for the page to come back to."""
        if isinstance(self.regions, np.ndarray):
            self._last_mask = self.regions
        if not isinstance(self.baseline, str):
            self._last_filling = self.baseline
        self._given = {
            "regions": maps.regions_to_page(self._last_mask),
            "baseline": None if self._last_filling is None else cover_to_page(self._last_filling),
        }

    def _on_message(self, _: object, content: Sent, buffers: list[memoryview]) -> None:
        """Events of the page: something is stopped, or a file made for the view that asks."""
        kind = content.get("kind")
        if kind in _EVENTS:
            try:
                _EVENTS[kind](self)
            except InputError as error:
                self.error = str(error)
        elif kind == "save":
            ending = f".{content.get('as')}"
            try:
                file, name = self._file(ending, content.get("width")), self._file_name()
            except Exception as error:
                self.error = in_words(error)
            else:
                to = str(content.get("view"))
                self.send({"kind": "file", "name": f"{name}{ending}", "view": to}, [file])
                self.error = self.error if self._failed else ""

    def set_state(self, sync_data: dict[str, object]) -> None:
        """Take the page's controls; a refusal is shown on the page, and the control goes back."""
        try:
            # A refusal undoes all changes meanwhile, and those of a run are not the page's.
            with self._page.lock:
                if foreign := sorted(sync_data.keys() - {*_ASKS, *_LOOKS}):
                    raise ControlError(
                        ", ".join(foreign), "set by the page", problem="which the kernel alone sets"
                    )
                super().set_state(sync_data)
        except traitlets.TraitError as error:
            self.error = str(error)
            self.send_state(sorted(sync_data.keys() & set(self.keys)))

    # -- running ---------------------------------------------------------------------------------------

    def _ask(self, _: object = None) -> None:
        """Start a run for the controls as they are; the newest wins."""
        with self._page.lock:
            turn = self._page.next_turn()
            key, wish = self._controls()
            self.error, self._failed = "", False

            def work(cancelled: Cancelled) -> None:
                self._run(key, wish, turn, cancelled)

            self.running = self._worker.submit(work)

    def _controls(self) -> tuple[MapKey, Wish]:
        """The key and the wish that the controls make up."""
        regions, baseline = self._regions(), self._subject.name_of(self.baseline)
        sizes = (self.window, self.stride) if regions is None else (0, 0)
        key = MapKey(self.image_index, sizes[0], sizes[1], baseline, regions=regions)
        return key, Wish(self.ssim_target, self.exact, self.region, self.target, self.covered, self.curve)

    def _run(self, key: MapKey, wish: Wish, turn: Turn, cancelled: Cancelled) -> None:
        try:
            self._measurer.run(key, wish, turn, lambda: cancelled() or not turn.lasts())
        except Exception as error:
            with turn.drawing() as page:
                if page is not None:
                    self.error, self._failed = in_words(error), True
            raise
        finally:
            with turn.drawing() as page:
                if page is not None:
                    page.keep_only(key, wish)
                    self.running = False
        self._fill_still()

    # -- notebooks -------------------------------------------------------------------------------------

    def _ipython_display_(self) -> None:
        """Show the widget, and after it the still picture of its first finished map."""
        still.show(self._repr_mimebundle_())
        with self._page.lock:
            self._still = still.Place()
        self._fill_still()

    def _fill_still(self) -> None:
        """Draw the map where a still picture waits for one, if it is finished."""
        with self._page.lock:
            place = self._still
            if place is None or not self._page.finished:
                return
            self._still = None
            words = self._name_of(self._shown_now())
        place.fill(self._file(".png"), f"Occlusion map of {words}")

    # -- files -----------------------------------------------------------------------------------------

    def _shown_now(self, of_controls: bool = False) -> Shown:
        """The map on the page, and that of the controls as they stand where this is asked for."""
        shown = self._page.shown
        if shown is None or (of_controls and not self._page.answers(*self._controls())):
            raise InputError("nothing", "of the map asked for has been measured yet; wait for it", verb="")
        return shown

    def _look(self) -> export.Look:
        return export.Look(self.opacity, self.colormap, self.scale, self.limit)

    def _file_name(self) -> str:
        """The name of a file of the map on the page, without its ending."""
        with self._page.lock:
            shown = self._shown_now()
        return export.file_name(shown, self._image_name(shown.task.key.image), self._class_names)

    def _image_name(self, index: int) -> str:
        return self._subject.source(index) or f"image {index + 1}"

    def _name_of(self, shown: Shown) -> str:
        """What a map on the page explains, and how."""
        key = shown.task.key
        image = f", {Path(self._image_name(key.image)).stem}" if len(self._subject.images) > 1 else ""
        return f"{kept.name_of(shown.heatmap, self._class_names)}, {key.baseline}{image}"

    def _file(self, ending: str, width: int | None = None) -> bytes:
        with self._page.lock:
            shown = self._shown_now(of_controls=ending == ".html")
            if ending == ".html":
                return export.html(self.get_state(), _STATIC)
        below = self._subject.input(shown.task.key.image).drawing()
        return export.map_file(ending, shown, self._look(), below, self._class_names, width)


_EVENTS: dict[object, Callable[[OcclusionExplorer], None]] = {
    "cancel": OcclusionExplorer.cancel,
    "resume": OcclusionExplorer.resume,
    "keep": OcclusionExplorer.keep,
    "let go": OcclusionExplorer.let_go,
}
"""What the page's buttons do, by the message that they send."""


def _distinct(names: list[str]) -> list[str]:
    """Names of classes; one that several classes have comes with the class's number."""
    times = Counter(names)
    return [f"{name} ({i})" if times[name] > 1 else name for i, name in enumerate(names)]


def in_words(error: BaseException) -> str:
    """An error as a person may read it.

    Examples:
        >>> in_words(KeyError("layer")), in_words(InputError("stride", "0", "integers from 1"))
        ("The run failed with KeyError: 'layer'", 'stride is 0; accepted: integers from 1')
    """
    text = str(error).strip() or type(error).__name__
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
        return f"Out of memory. A larger stride or a smaller model input takes less. ({text.splitlines()[0]})"
    if isinstance(error, InputError):
        return text
    return f"The run failed with {type(error).__name__}: {text}"
