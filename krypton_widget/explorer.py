"""OcclusionExplorer: move a slider, watch the explanation redraw."""

from __future__ import annotations

import atexit
import contextlib
import functools
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import anywidget
import numpy as np
import torch
import traitlets
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from krypton_engine.approximation.compensation import are_probabilities
from krypton_engine.attr.occlusion import Activation, KryptonOcclusion
from krypton_engine.common import files
from krypton_engine.common.arguments import real, whole
from krypton_engine.common.figures import figure
from krypton_engine.errors import InputError, OcclusionCancelled, OutdatedError
from krypton_engine.executors.base import Executor
from krypton_engine.executors.full import evaluate
from krypton_engine.graph.export import evaluation, exporting
from krypton_engine.heatmap.files import ENDINGS
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.heatmap.identity import same_outputs
from krypton_engine.heatmap.status import Status
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.planning.planner import evaluation_mode
from krypton_engine.tuning.tuning import Tuning
from krypton_engine.zoo import names_in_order
from krypton_widget import maps, takeaway
from krypton_widget.maps import Aim, Flags, Known, Memory, Question, Region
from krypton_widget.pictures import BASELINES, ModelInput, Preprocess, png, thumbnail
from krypton_widget.worker import Cancelled, LatestWins, Pace

_STATIC = Path(__file__).parent / "static"

COLORMAPS = ("coolwarm", "RdBu_r", "PuOr_r", "berlin", "vanimo")
"""Offered by the page: diverging, and light or dark in the middle. Any other of Matplotlib's may be set."""

_REDRAW_SECONDS = 0.08
"""Between two updates of the screen; there is no back-pressure, so no faster than people see."""

_REMEMBERED = 128 * 2**20
"""Bytes of earlier maps that are kept, so that a slider moved back shows its map at once."""

_ALL_CLASSES = 256 * 2**20
"""Bytes up to which a map keeps all classes; beyond, another class is computed anew."""

_FULL_BATCHES = (1, 8)
"""Batch sizes that are tried for the time of full inference."""

_FINEST_TARGET = 0.99
"""The slider's last stop below exact: a map on its way to exact passes by all of them."""

_ASKS = ("window", "stride", "baseline", "exact", "ssim_target", "region", "image_index", "target")
"""Controls that ask for a map."""

_LOOKS = ("opacity", "colormap", "scale", "limit")
"""Controls of how one looks."""


class ControlError(InputError, traitlets.TraitError):
    """A control cannot have this value; it keeps the one that it had."""


class _Named:
    """Of a trait: its refusals name it, what was given and what is accepted."""

    name: str | None
    accepted: str

    def error(self, obj: Any, value: Any, error: Any = None, info: Any = None) -> NoReturn:
        raise ControlError(str(self.name), repr(value), self.accepted)


class _Whole(_Named, traitlets.Int[Any, Any]):
    """An integer, NumPy's too; no bool."""

    accepted = "integers"

    def validate(self, obj: Any, value: Any) -> int:
        number = whole(value)
        if number is None:
            self.error(obj, value)
        return number


class _Real(_Named, traitlets.Float[Any, Any]):
    """A finite number, NumPy's too, for which ``fits`` is true; no bool."""

    def __init__(self, default: float, fits: Callable[[float], bool], accepted: str) -> None:
        super().__init__(default)
        self._fits, self.accepted = fits, accepted

    def validate(self, obj: Any, value: Any) -> float:
        number = real(value)
        if number is None or not math.isfinite(number) or not self._fits(number):
            self.error(obj, value)
        return number


class _OneOf(_Named, traitlets.Enum[Any]):
    """One of a few words."""

    def __init__(self, values: Sequence[str], default: str) -> None:
        super().__init__(values, default)
        self.accepted = ", ".join(map(repr, values))

    def validate(self, obj: Any, value: Any) -> str:
        if not isinstance(value, str):
            self.error(obj, value)
        return str(super().validate(obj, value))


class _Switch(_Named, traitlets.Bool[Any, Any]):
    """True or False."""

    accepted = "True and False"

    def validate(self, obj: Any, value: Any) -> bool:
        return bool(super().validate(obj, bool(value) if isinstance(value, np.bool_) else value))


class _Word(_Named, traitlets.Unicode[Any, Any]):
    """A string."""

    accepted = "strings"


def _checks(trait: str) -> Callable[[Callable[[Any, Any], Any]], Any]:
    """Makes of a method what validates a trait: its `InputError` is one of traitlets' own too."""

    def decorate(check: Callable[[Any, Any], Any]) -> Any:
        @functools.wraps(check)
        def checked(self: Any, proposal: Any) -> Any:
            try:
                return check(self, proposal)
            except InputError as error:
                raise ControlError(*error.args) from None

        return traitlets.validate(trait)(checked)

    return decorate


@dataclass(frozen=True)
class _Wish:
    """What the controls say of a map, beside its question."""

    ssim_target: float
    exact: bool
    region: Region
    target: int | None


@dataclass(frozen=True)
class _Task:
    """One map to measure and show.

    Attributes:
        question: What its values depend on.
        known: What has been measured of it.
        x: The model's input.
        patch: What covers it, of the same shape.
        window: The sliding window.
        wanted: Where to look (rows, columns).
        wish: What the controls say.
        exact: Whether to measure everything.
        ssim_target: How similar the approximate map should be; None if there is to be none.
        tuning: What says when it is.
        note: On the tuning, in words.
        aim: What the course of the approximate map depends on.
        keep_all: Whether all classes are kept.
    """

    question: Question
    known: Known
    x: Tensor
    patch: Tensor
    window: SlidingWindow
    wanted: Flags
    wish: _Wish
    exact: bool
    ssim_target: float | None
    tuning: Tuning | None
    note: str
    aim: Aim
    keep_all: bool

    def approximate(self) -> Heatmap | None:
        """The approximate map, once it is there."""
        return None if self.ssim_target is None else self.known.approximate(self.aim, self.ssim_target)

    def complete(self) -> bool:
        """Whether all that is wanted has been measured exactly."""
        return self.known.covers(self.wanted)

    def so_far(self) -> Heatmap | None:
        """All that has been measured, seen by the class explained."""
        return self.known.of(self.aim.target)

    def lacks_approximate(self) -> bool:
        """Whether an approximate map is to be measured."""
        return self.ssim_target is not None and self.approximate() is None

    def lacks_exact(self) -> bool:
        """Whether the exact map is to be finished."""
        return self.exact and not self.complete()


@dataclass(frozen=True)
class _Shown:
    """The map on the page."""

    heatmap: Heatmap
    task: _Task


class OcclusionExplorer(anywidget.AnyWidget):
    """A live occlusion map with everything to play with beside it.

    The map runs at once, coarse first, and again whenever a control moves, here or on the page; the newest
    wins. Every control is a trait: set it, ``observe`` it, ``link`` it.

    Args:
        model: A module (or any callable) from a batch of images to one row of classes for each.
        image: PIL image, NumPy array (height, width[, channels]), tensor (channels, height, width), or a list
            of these to pick from.
        preprocess: From one of these images to the model's input (channels, height, width); None for uint8
            height x width x channels to float channels x height x width / 255, and nothing else.
        class_names: One a class, in their order or by their index (as Hugging Face's ``id2label``).
        target: The class explained; None for the predicted one.
        window: Side of the patch, in pixels of the model's input.
        stride: Its step. It never exceeds the window: it is lowered with it.
        ssim_target: How similar to the exact map (`krypton_engine.approximation.ssim.ssim`) to make it,
            above 0 and at most 1: positions are measured coarse to fine, then where the map is least certain,
            until the map probably is; those between are interpolated, and said to be.
        exact: Measure every position.
        tuning: What `KryptonOcclusion.tune` found for images of this kind, with this patch, stride, colour
            and class: it says when a map is similar enough. For other choices the similarity is estimated
            on the way, and said to be.
        baseline: The patch's colour, chosen in the picture and then preprocessed: ``"grey"``, ``"black"``,
            ``"mean"`` (of the picture) or ``"blur"`` (the picture, blurred).
        region: Look only where windows touch a box (top, left, bottom, right) or a boolean mask.
        opacity: Of the colours, 0 to 1.
        colormap: One of Matplotlib's.
        scale: ``"own"``: the colours end at the map's largest change; ``"shared"``: at the largest of all the
            maps seen; ``"fixed"``: at ``limit``.
        limit: See ``scale``.
        activation: Makes probabilities of outputs; ``"auto"`` is softmax, unless the rows are probabilities
            already or have one number.
        executor: As of `krypton_engine.KryptonOcclusion`.

    Raises:
        InputError: An argument cannot be used, or the model raises on the first image.

    Examples::

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

    window = _Whole(16).tag(sync=True)
    stride = _Whole(8).tag(sync=True)
    ssim_target = _Real(0.95, lambda v: 0 < v <= 1, "numbers above 0 and at most 1").tag(sync=True)
    exact = _Switch(False).tag(sync=True)
    baseline = _OneOf(BASELINES, "grey").tag(sync=True)
    region = traitlets.Any(None, allow_none=True).tag(
        sync=True,
        to_json=lambda value, _: _to_page(value),
        from_json=lambda value, explorer: explorer._region_of_page(value),
    )
    target = _Whole(None, allow_none=True).tag(sync=True)
    image_index = _Whole(0).tag(sync=True)
    opacity = _Real(0.85, lambda v: 0 <= v <= 1, "numbers from 0 to 1").tag(sync=True)
    colormap = _Word(COLORMAPS[0]).tag(sync=True)
    scale = _OneOf(("own", "shared", "fixed"), "own").tag(sync=True)
    limit = _Real(1.0, lambda v: v > 0, "positive numbers").tag(sync=True)

    running = traitlets.Bool(False, help="Whether a run is under way; read only.").tag(sync=True)
    error = traitlets.Unicode("", help="What went wrong, in words.").tag(sync=True)

    _failed = traitlets.Bool(False, help="Whether that was the run.").tag(sync=True)

    _class_names: traitlets.List[str] = traitlets.List().tag(sync=True)
    _colours = traitlets.Dict().tag(sync=True)
    _thumbnails: traitlets.List[bytes] = traitlets.List().tag(sync=True)
    _view = traitlets.Dict().tag(sync=True)
    _frame = traitlets.Dict().tag(sync=True)
    _comparison = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        model: Callable[..., Any],
        image: Any,
        *,
        preprocess: Preprocess | None = None,
        class_names: Sequence[str] | Mapping[int | str, str] | None = None,
        target: int | None = None,
        window: int = 16,
        stride: int = 8,
        ssim_target: float = 0.95,
        exact: bool = False,
        tuning: Tuning | None = None,
        baseline: Literal["grey", "black", "mean", "blur"] = "grey",
        region: Region = None,
        opacity: float = 0.85,
        colormap: str = COLORMAPS[0],
        scale: Literal["own", "shared", "fixed"] = "own",
        limit: float = 1.0,
        activation: Activation | Literal["auto"] = "auto",
        executor: Executor = "auto",
    ) -> None:
        self._worker = LatestWins("krypton explorer")  # first: `close` ends it, whatever happens below
        if not callable(model):
            raise InputError("model", type(model).__name__, "a module or another callable")
        if preprocess is not None and not callable(preprocess):
            raise InputError("preprocess", type(preprocess).__name__, "None or a callable")
        if tuning is not None and not isinstance(tuning, Tuning):
            raise InputError("tuning", type(tuning).__name__, "None or a Tuning")
        self._tuning = tuning
        self._images = list(image) if isinstance(image, (list, tuple)) else [image]
        if not self._images:
            raise InputError("image", "an empty list", "an image or a list of them")
        self._model, self._preprocess = model, preprocess
        self._inputs: dict[int, ModelInput] = {}
        self._bases: dict[int, Tensor] = {}
        self._occlusion = KryptonOcclusion(model, executor)
        self._memory = Memory(_REMEMBERED)
        self._pass_seconds: dict[tuple[int, ...], float] = {}
        self._captured: set[tuple[int, ...]] = set()
        # One lock around every update of the page; what belongs to an older run is dropped inside it.
        self._lock = threading.RLock()
        self._generation = 0
        self._shown: _Shown | None = None

        first = self._answered(0)
        self._activation = _auto(first) if activation == "auto" else activation
        classes = first.shape[1]
        given = range(classes) if class_names is None else names_in_order(class_names, classes)
        names = _distinct([str(name) for name in given])
        self._classes = classes
        super().__init__(
            window=window,
            stride=stride,
            ssim_target=ssim_target,
            exact=exact,
            baseline=baseline,
            region=region,
            target=target,
            opacity=opacity,
            colormap=colormap,
            scale=scale,
            limit=limit,
            _class_names=names,
            _colours={name: _table(name) for name in COLORMAPS},
        )
        self._own_layout = self.layout
        if len(self._images) > 1:
            self._thumbnails = [thumbnail(item) for item in self._images]
        self.observe(self._lower_stride, "window")
        self.observe(self._another_image, "image_index")
        self.observe(self._ask, list(_ASKS))
        self.on_msg(self._on_message)
        atexit.register(self._worker.close)
        self._ask()

    # -- what a user calls -----------------------------------------------------------------------------

    @property
    def heatmap(self) -> Heatmap | None:
        """The map on the page, as far as it has come; its ``status`` tells what is interpolated."""
        shown = self._shown
        return None if shown is None else shown.heatmap

    def wait(self, timeout: float | None = None) -> None:
        """Return when the latest run has ended, or been cancelled.

        Raises:
            TimeoutError: It has not after ``timeout`` seconds.
            Exception: What the run raised.
        """
        self._worker.wait(timeout)

    def cancel(self) -> None:
        """Stop the run; what it measured stays, and the next run goes on from there."""
        with self._lock:
            if self._worker.cancel():  # it will not run, so nobody else will say that it has ended
                self._answer_only(*self._controls())
                self.running = False

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``.png`` (a picture), ``.npz`` (the numbers), or ``.html`` (the page, without a kernel).

        Raises:
            InputError: No path, another ending, a folder that does not exist, or nothing has been measured
                yet.
            OSError: Writing fails; what was there is still there.
        """
        given, ending = files.destination(path, {**ENDINGS, ".html": "the page"})
        files.write(given, self._file(ending))

    def close(self) -> None:
        """Stop the run, end its thread and take the widget off the page."""
        if "_worker" in vars(self):  # not where the arguments were refused by Python itself
            atexit.unregister(self._worker.close)
            self._worker.close()
        if "_own_layout" in vars(self):  # a widget too, which ipywidgets would keep
            self._own_layout.close()
        super().close()

    # -- controls --------------------------------------------------------------------------------------

    @_checks("window")
    def _valid_window(self, proposal: Any) -> int:
        value: int = proposal["value"]
        height, width = self._input(self.image_index).x.shape[2:]
        if not 1 <= value <= min(height, width):
            raise InputError(
                "window",
                f"{value}",
                f"1 to {min(height, width)}, the image as the model sees it being {height} x {width} "
                "(height x width)",
            )
        return value

    @_checks("stride")
    def _valid_stride(self, proposal: Any) -> int:
        value: int = proposal["value"]
        if value < 1:
            raise InputError("stride", f"{value}", "integers from 1")
        return min(value, self.window)

    @_checks("target")
    def _valid_target(self, proposal: Any) -> int | None:
        value: int | None = proposal["value"]
        if value is not None and not 0 <= value < self._classes:
            raise InputError(
                "target",
                f"{value}",
                f"classes 0 to {self._classes - 1} of the model, or None: the predicted one",
            )
        return value

    @_checks("image_index")
    def _valid_image_index(self, proposal: Any) -> int:
        value: int = proposal["value"]
        if not 0 <= value < len(self._images):
            raise InputError("image_index", f"{value}", f"0 to {len(self._images) - 1}")
        return value

    @_checks("colormap")
    def _valid_colormap(self, proposal: Any) -> str:
        name: str = proposal["value"]
        if name not in self._colours:
            self._colours = {**self._colours, name: _table(name)}
        return name

    @_checks("region")
    def _valid_region(self, proposal: Any) -> Region:
        value = proposal["value"]
        if value is None:
            return None
        x = self._input(self.image_index).x
        if isinstance(value, (np.ndarray, Tensor)) and value.ndim == 1:
            value = value.tolist()
        if isinstance(value, (np.ndarray, Tensor)):
            mask = np.asarray(value)
            if mask.dtype != np.bool_ or mask.shape != tuple(x.shape[2:]):
                raise InputError(
                    "region",
                    f"a mask of shape {mask.shape} and type {mask.dtype}",
                    f"booleans of the input's height and width, {tuple(x.shape[2:])}",
                )
            value = mask
        elif isinstance(value, Sequence) and len(value) == 4 and None not in (box := list(map(whole, value))):
            value = tuple(box)
        else:
            raise InputError(
                "region", repr(value), "None, a box (top, left, bottom, right) of integers or a boolean mask"
            )
        shape = tuple(x.shape[1:])
        maps.wanted(SlidingWindow(shape, shape, shape), value)
        return value

    def _lower_stride(self, _: Any) -> None:
        self.stride = min(self.stride, self.window)

    def _another_image(self, _: Any) -> None:
        self.region = None

    def _on_message(self, _: Any, content: dict[str, Any], buffers: list[memoryview]) -> None:
        """Events of the page: something is stopped, or a file made for the view that asks."""
        kind = content.get("kind")
        if kind == "cancel":
            self.cancel()
        elif kind == "save":
            ending = f".{content.get('as')}"
            try:
                file = self._file(ending)
            except Exception as error:
                self.error = in_words(error)
            else:
                to = str(content.get("view"))
                self.send({"kind": "file", "name": f"krypton-map{ending}", "view": to}, [file])
                self.error = self.error if self._failed else ""

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take what the page says of its controls. What is refused is said there, and goes back."""
        try:
            with self._lock:  # a refusal undoes all changes meanwhile, and those of a run are not the page's
                if foreign := sorted(sync_data.keys() - {*_ASKS, *_LOOKS}):
                    raise ControlError(
                        ", ".join(foreign), "set by the page", problem="which the kernel alone sets"
                    )
                super().set_state(sync_data)
        except traitlets.TraitError as error:
            self.error = str(error)
            self.send_state(sorted(sync_data.keys() & set(self.keys)))

    def _region_of_page(self, value: Any) -> Region:
        """A region as the page has it, ``{"box": [...]}`` or ``{"mask": bytes}``; an empty mask is none."""
        if not isinstance(value, dict) or "mask" not in value:
            return value["box"] if isinstance(value, dict) and "box" in value else value
        shape = tuple(self._input(self.image_index).x.shape[2:])
        mask = np.frombuffer(value["mask"], dtype=np.uint8) > 0
        if mask.size != math.prod(shape):
            raise ControlError("region", f"a mask of {mask.size} pixels", f"{math.prod(shape)}")
        return mask.reshape(shape) if mask.any() else None

    # -- running ---------------------------------------------------------------------------------------

    def _ask(self, _: Any = None) -> None:
        """Start what the controls say; the newest wins."""
        with self._lock:
            self._generation += 1
            generation = self._generation
            question, wish = self._controls()
            self.error, self._failed = "", False

            def work(cancelled: Cancelled) -> None:
                self._run(generation, question, wish, cancelled)

            self.running = self._worker.submit(work)

    def _controls(self) -> tuple[Question, _Wish]:
        """What the controls say."""
        question = Question(self.image_index, self.window, self.stride, self.baseline)
        return question, _Wish(self.ssim_target, self.exact, self.region, self.target)

    def _run(self, generation: int, question: Question, wish: _Wish, cancelled: Cancelled) -> None:
        def latest() -> bool:
            return generation == self._generation

        try:
            self._explore(question, wish, lambda: cancelled() or not latest(), latest)
        except Exception as error:
            with self._lock:
                if latest():
                    self.error, self._failed = in_words(error), True
            raise
        finally:
            with self._lock:
                if latest():
                    self._answer_only(question, wish)
                    self.running = False

    def _explore(
        self,
        question: Question,
        wish: _Wish,
        stopped: Cancelled,
        latest: Callable[[], bool],
        asked_model: bool = False,
    ) -> None:
        """Measure what ``question`` still lacks for ``wish``, if the model is the same, and show it."""
        asked = question
        given = self._input(question.image)
        base = self._answered(question.image)
        shape = tuple(given.x.shape[1:])
        side = min(question.window, *shape[1:])
        stride = min(question.stride, side)
        window = SlidingWindow(shape, (shape[0], side, side), (shape[0], stride, stride))
        keep_all = base.shape[1] > 1 and len(window) * base.numel() * base.element_size() <= _ALL_CLASSES
        if not keep_all:
            question = replace(question, target=int(base.argmax()) if wish.target is None else wish.target)
        with self._lock:
            if not latest():
                return
            known = self._memory.of(question)
            self._comparison = {}
            self._view = self._seen(question)
        if side < question.window:
            raise InputError(
                "window",
                f"{question.window}",
                problem=f"larger than this image as the model sees it, {shape[1]} x {shape[2]} (height x "
                "width)",
            )
        task = self._task(question, wish, known, window, keep_all)
        if not asked_model and (task.lacks_approximate() or task.lacks_exact()):
            try:
                with _Stoppable(stopped):
                    answer = self._ask_model(question.image)
            except _Stopped:
                return
            if not same_outputs(base, answer):  # another model than what was measured, whoever is the latest
                self._begin_anew(question, answer)
                return self._explore(asked, wish, stopped, latest, asked_model=True)
        self._capture(given, window)
        if (task.lacks_approximate() or task.lacks_exact()) and (so_far := task.so_far()) is not None:
            with self._lock:  # seen by another class, say, or not fine enough
                if latest():
                    self._show(task, so_far)
        try:
            if task.lacks_approximate():
                # From a map that is there in full nobody learns what an approximate one costs; and what a
                # tuning promises holds for maps from the start.
                anew = task.tuning is not None or (wish.region is None and task.complete())
                passes_by = task.exact and task.tuning is None
                self._measure(
                    task,
                    None if anew else task.so_far(),
                    max(wish.ssim_target, _FINEST_TARGET) if passes_by else wish.ssim_target,
                    stopped,
                    latest,
                )
            if task.lacks_exact() and not stopped():
                self._measure(task, task.so_far(), None, stopped, latest)
        except OutdatedError:  # another model, though it says the same of the image as it is
            if asked_model:
                raise
            self._begin_anew(question, self._ask_model(question.image))
            return self._explore(asked, wish, stopped, latest, asked_model=True)
        with self._lock:
            if not latest():
                return
            approximate, so_far = task.approximate(), task.so_far()
            finished = task.complete() if task.exact else approximate is not None
            found = so_far if task.exact or approximate is None else approximate
            if found is not None:
                self._show(task, found, left=0.0, finished=finished)
                self._compare()
        everywhere = known.heatmap is not None and bool(known.heatmap.measured.all())
        if everywhere and not stopped() and shape not in self._pass_seconds:
            self._time_full_inference(given, stopped)
            with self._lock:
                if latest():
                    self._compare()

    def _task(
        self, question: Question, wish: _Wish, known: Known, window: SlidingWindow, keep_all: bool
    ) -> _Task:
        """What a wish comes to."""
        given = self._input(question.image)
        predicted = int(self._answered(question.image).argmax())
        target = predicted if wish.target is None else wish.target
        x = _as_taken(self._model, given.x)
        patch = given.patch(question.baseline).to(x)
        tuning, note = self._tuning, ""
        if tuning is not None:
            note = maps.unfit(tuning, window, patch, target, predicted)
            note = note or ("" if wish.region is None else "the tuning is for whole maps")
            tuning = None if note else tuning
        ssim_target = None if wish.ssim_target == 1 else wish.ssim_target
        # Where all classes are kept, nothing is trimmed.
        if ssim_target is not None and tuning is not None and tuning.goal(ssim_target, not keep_all) is None:
            ssim_target, note = None, "the tuning knows too few images to be sure of less than all positions"
        exact = wish.exact or ssim_target is None
        note = "" if wish.exact else note
        if wish.exact and wish.region is not None:  # comparing is for whole maps
            ssim_target = None
        return _Task(
            question=question,
            known=known,
            x=x,
            patch=patch,
            window=window,
            wanted=maps.wanted(window, wish.region),
            wish=wish,
            exact=exact,
            ssim_target=ssim_target,
            tuning=tuning,
            note=note,
            aim=Aim(target, maps.fingerprint(wish.region), None if tuning is None else ssim_target),
            keep_all=keep_all,
        )

    def _begin_anew(self, question: Question, answer: Tensor) -> None:
        """Forget what another model said, but for the answer of today's to an image."""
        with self._lock:
            self._memory.forget()
            self._bases = {question.image: answer}
            self._shown, self._frame, self._comparison = None, {}, {}

    def _measure(
        self,
        task: _Task,
        known: Heatmap | None,
        ssim_target: float | None,
        stopped: Cancelled,
        latest: Callable[[], bool],
    ) -> None:
        """Measure what ``known`` lacks of ``ssim_target``, or of the exact map; show it on its way."""
        course = None if ssim_target is None else task.known.course(task.aim)
        pace = Pace(_REDRAW_SECONDS)
        wanted = int(task.wanted.sum())
        first: tuple[float, int] | None = None  # when the first output came, and how many there were
        if course is not None:
            course.begin()

        def progress(so_far: Heatmap, *_: int) -> bool:
            nonlocal first
            task.known.note(so_far)
            if course is not None:
                course.note(so_far)
            now, count = time.perf_counter(), int(so_far.measured.sum())
            first = first or (now, count)
            new = count - first[1]
            left = (now - first[0]) / new * max(0, wanted - count) if new else None
            if not stopped() and pace.ready():
                with self._lock:
                    if latest() and not (task.exact and task.complete()):
                        self._show(task, so_far, left=left)
            return not stopped()

        try:
            with _Stoppable(stopped):
                found = self._occlusion.heatmap(
                    task.x,
                    task.window.shape,
                    task.window.strides,
                    baselines=task.patch,
                    target=task.aim.target,
                    activation=self._activation,
                    region=maps.as_engine(task.wish.region),
                    classes="all" if task.keep_all else "predicted",
                    schedule="coarse to fine",
                    resume=None if known is None else maps.untrimmed(known),
                    on_progress=progress,
                    ssim_target=ssim_target,
                    tuning=None if ssim_target is None else task.tuning,
                )
        except _Stopped:
            return
        except OcclusionCancelled as ended:
            task.known.note(ended.partial)
            return
        task.known.note(found)
        if course is not None and ssim_target is not None:
            course.end(found, ssim_target)

    def _capture(self, given: ModelInput, window: SlidingWindow) -> None:
        """Capture the model's graph once for every shape, so that no map's time contains it."""
        shape = window.input_shape
        if shape in self._captured:
            return
        self._captured.add(shape)
        # Without a graph it runs in full, with the engine's own warning.
        with contextlib.suppress(InputError):
            x = _as_taken(self._model, given.x)
            self._occlusion.plan(x, window.shape, window.strides)

    def _show(
        self, task: _Task, heatmap: Heatmap, *, left: float | None = None, finished: bool = False
    ) -> None:
        """Send a map to the page, filled. The caller holds the lock.

        Args:
            task: What it is for.
            heatmap: The map.
            left: Seconds to come at most; None where nobody knows.
            finished: Whether it is what was asked for.
        """
        heatmap = _filled(heatmap, task.wanted)
        self._shown = _Shown(heatmap, task)
        self._frame = maps.to_page(heatmap, task.wanted) | {
            "asked": _asked(task.question, task.wish),
            "left": left,
            "finished": finished,
            "estimate": maps.estimate(heatmap, task.wanted),
            "note": task.note,
            "shared": max(maps.largest_drop(h, task.aim.target) for h in self._memory.heatmaps()),
            "inFull": heatmap.plan is None or not heatmap.plan.incremental,
        }

    def _answer_only(self, question: Question, wish: _Wish) -> None:
        """Take what answers something else off the page. The caller holds the lock."""
        asked, frame = _asked(question, wish), self._frame
        if not _answers(frame.get("asked"), asked):
            self._shown, self._frame, self._comparison = None, {}, {}
            if self._view.get("image") != question.image:
                self._view = {}
            return
        if frame["asked"] != asked:  # more of it was wanted, and has not begun
            self._frame = {**frame, "asked": asked, "finished": False}
        # What had begun meanwhile was cancelled.
        if (self._view.get("image"), self._view.get("baseline")) != (question.image, question.baseline):
            self._view = self._seen(question)
        if not self._comparison:
            self._compare()

    def _compare(self) -> None:
        """Send the comparison to the page, if there is an exact map. The caller holds the lock."""
        if self._shown is None:
            return
        task = self._shown.task
        exact, approximate = task.so_far(), task.approximate()
        if exact is None or approximate is None or task.wish.region is not None or not task.complete():
            return
        seconds = self._pass_seconds.get(task.window.input_shape)
        self._comparison = maps.comparison(approximate, exact, seconds) | {"ssimTarget": task.ssim_target}

    def _time_full_inference(self, given: ModelInput, stopped: Cancelled) -> None:
        """Seconds that full inference takes for an image, in the best batch; nothing if stopped."""
        best = float("inf")
        for batch in _FULL_BATCHES:
            x = _as_taken(self._model, given.x).expand(batch, -1, -1, -1).contiguous()
            try:
                with torch.no_grad(), evaluation_mode(self._model, _nothing), _Stoppable(stopped):
                    for _ in range(2):
                        began = time.perf_counter()
                        evaluate(self._model, (x,), None).sum().item()
                        best = min(best, (time.perf_counter() - began) / batch)
            except _Stopped:
                return
            except Exception:  # the model takes no such batch, or there is no room; smaller ones were timed
                break
        self._pass_seconds[tuple(given.x.shape[1:])] = best

    # -- images ----------------------------------------------------------------------------------------

    def _input(self, index: int) -> ModelInput:
        if index not in self._inputs:
            name = f"image[{index}]" if len(self._images) > 1 else "image"
            self._inputs[index] = ModelInput(self._images[index], self._preprocess, name)
        return self._inputs[index]

    def _answered(self, index: int) -> Tensor:
        """The model's outputs for an image as it is, asked once: ``(1, classes)``."""
        if index not in self._bases:
            self._bases[index] = self._ask_model(index)
        return self._bases[index]

    def _ask_model(self, index: int) -> Tensor:
        given = self._input(index)
        shape = tuple(given.x.shape)
        try:
            with torch.no_grad(), evaluation_mode(self._model, _nothing):
                x = _as_taken(self._model, given.x)
                outputs = evaluate(self._model, (x,), None)
        except (MemoryError, torch.OutOfMemoryError, InputError):
            raise
        except Exception as error:
            raise InputError(
                f"{given.name}: the model",
                f"{type(error).__name__} on an input of shape {shape}, (batch, channels, height, width): "
                f"{error}. {given.remedy}",
                verb="raised",
            ) from error
        if outputs.ndim != 2 or outputs.shape[0] != 1:
            raise InputError(
                "model", f"{tuple(outputs.shape)} for one image", "one row of classes, (1, n)", verb="returns"
            )
        return outputs.cpu()

    def _seen(self, question: Question) -> dict[str, Any]:
        """The picture, its patch and the model's own answer, for the page."""
        given, outputs = self._input(question.image), self._answered(question.image)
        probabilities = _activated(outputs, self._activation)[0].float()
        height, width = given.picture.shape[:2]
        return {
            "image": question.image,
            "baseline": question.baseline,
            "height": height,
            "width": width,
            "picture": png(given.picture),
            "patch": png(given.seen(given.patch(question.baseline))),
            "probabilities": probabilities.numpy().tobytes(),
            "predicted": int(probabilities.argmax()),
        }

    # -- files -----------------------------------------------------------------------------------------

    def _file(self, ending: str) -> bytes:
        with self._lock:
            shown, frame = self._shown, self._frame
            answers = _answers(self._frame.get("asked"), _asked(*self._controls()))
            answers = answers and self._view.get("image") == self.image_index
            if shown is None or (ending == ".html" and not answers):
                raise InputError(
                    "nothing", "of the map asked for has been measured yet; wait for it", verb=""
                )
            if ending == ".html":
                return takeaway.html(self.get_state(), _STATIC)
        heatmap = shown.heatmap
        if ending not in ENDINGS:
            raise InputError(
                "path", f"a name that ends in {ending!r}", "names that end in .png, .npz or .html"
            )
        if ending == ".npz":
            return heatmap.content(ending)
        scale = {"own": frame["largest"], "fixed": self.limit, "shared": frame["shared"]}[self.scale]
        picture = {
            "image": self._input(shown.task.question.image).picture,
            "scale": scale or 1.0,
            "cmap": self.colormap,
            "opacity": self.opacity,
            "title": self._title(shown),
        }
        return maps.within(heatmap, shown.task.wanted).content(ending, **picture)

    def _title(self, shown: _Shown) -> str:
        heatmap, wanted = shown.heatmap, shown.task.wanted
        name = self._class_names[heatmap.target] if heatmap.target is not None else "output"
        status = maps.on_grid(heatmap, heatmap.status)[wanted]
        exact, share = (status == Status.EXACT).all(), (status >= Status.TRIMMED).mean()
        how = "exact" if exact else f"approximate, {share:.0%} of the positions measured"
        how += "" if wanted.all() else " in the region"
        strange = maps.not_finite(heatmap, wanted)
        how += f", {strange} not finite" if strange else ""
        size = heatmap.window.shape[1]
        return f"{name}: {figure(float(heatmap.base))}, {size} x {size} patch, {how}"


class _Stopped(BaseException):
    """What was begun has been given up. As with Ctrl-C, nobody on the way shall take it for a failure."""


class _Stoppable(TorchFunctionMode):
    """Ends what runs inside it between two operators: a pass may take longer than a slider waits.

    It does so once, so that what is put in order on the way out is; and an export comes to its end.
    """

    def __init__(self, stopped: Cancelled) -> None:
        super().__init__()
        self._stopped, self._ended = stopped, False

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        # What takes no tensor may be the way out already: no_grad() turns gradients on again so.
        computes = any(isinstance(each, Tensor) for each in args)
        if computes and not self._ended and not exporting() and self._stopped():
            self._ended = True
            raise _Stopped
        return function(*args, **(kwargs or {}))


def _to_page(region: Region) -> dict[str, Any] | None:
    if isinstance(region, np.ndarray):
        return {"mask": region.astype(np.uint8).tobytes()}
    return None if region is None else {"box": list(region)}


def _nothing(_: str) -> None:
    return None


def _as_taken(model: Any, x: Tensor) -> Tensor:
    """A model's input on the device and in the type that it should have."""
    if isinstance(model, nn.Module):
        with evaluation():  # while a model is exported, its parameters are fakes
            for parameter in model.parameters():
                if parameter.is_floating_point():
                    return x.to(parameter)
    return x


def _auto(outputs: Tensor) -> Activation:
    """Softmax, unless the outputs are probabilities already or a single number."""
    return None if outputs.shape[1] == 1 or are_probabilities(outputs) else "softmax"


def _activated(outputs: Tensor, activation: Activation) -> Tensor:
    if activation is None:
        return outputs
    return outputs.softmax(1) if activation == "softmax" else activation(outputs)


def _asked(question: Question, wish: _Wish) -> dict[str, Any]:
    """The controls that a map answers, by their names: the page compares them with where they stand."""
    return {
        "image_index": question.image,
        "window": question.window,
        "stride": question.stride,
        "baseline": question.baseline,
        "target": wish.target,
        "region": _to_page(wish.region),
        "exact": wish.exact,
        "ssim_target": wish.ssim_target,
    }


def _answers(frame: dict[str, Any] | None, asked: dict[str, Any]) -> bool:
    """Whether a map is of what is asked, however much of it."""
    how_much = ("exact", "ssim_target")
    return frame is not None and all(frame[k] == v for k, v in asked.items() if k not in how_much)


def _distinct(names: list[str]) -> list[str]:
    """The same names; those that several classes have, with the class's number."""
    times = Counter(names)
    return [f"{name} ({i})" if times[name] > 1 else name for i, name in enumerate(names)]


def _filled(heatmap: Heatmap, wanted: Flags) -> Heatmap:
    """The same, interpolated where that is wanted and has not been done."""
    where = torch.from_numpy(wanted.reshape(heatmap.window.grid_shape))
    known = bool((heatmap.status[where] != Status.UNKNOWN).all())
    return heatmap if known else heatmap.filled(where.numpy())


def _table(name: str) -> bytes:
    """256 colours, three bytes each, of one of Matplotlib's maps."""
    from matplotlib import colormaps

    if name not in colormaps:
        raise InputError("colormap", repr(name), f"Matplotlib's, such as {COLORMAPS[0]!r}")
    colours = colormaps[name](np.linspace(0, 1, 256))[:, :3] * 255
    return bytes(colours.round().astype(np.uint8).tobytes())


def in_words(error: BaseException) -> str:
    """An error as a person may read it."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
        return f"Out of memory. A larger stride or a smaller model input takes less. ({text.splitlines()[0]})"
    if isinstance(error, InputError):
        return text
    return f"The run failed with {type(error).__name__}: {text}"
