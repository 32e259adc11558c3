"""One run of an explorer: the unknown part of a map is measured, and shown on its way."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from krypton_engine.attr.checks import Activation
from krypton_engine.attr.curves import Curve
from krypton_engine.attr.occlusion import KryptonOcclusion
from krypton_engine.errors import InputError, OcclusionCancelled, OutdatedError
from krypton_engine.evaluate import deletion
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.heatmap.identity import same_outputs
from krypton_engine.perturbation.positions import Positions
from krypton_engine.perturbation.regions import Regions
from krypton_engine.perturbation.windows import SlidingWindow, as_sliding
from krypton_engine.tuning.tuning import Tuning
from krypton_widget import maps
from krypton_widget.cache import Judged, MapKey, Memory, untrimmed
from krypton_widget.coverings import painted
from krypton_widget.page import Page, Turn
from krypton_widget.pictures import ModelInput
from krypton_widget.stopping import Stoppable, Stopped
from krypton_widget.subject import Subject
from krypton_widget.task import Task, Wish, keeps_all, positions_for, task_for
from krypton_widget.worker import Cancelled, Pace

_REDRAW_SECONDS = 0.08
"""Least time between two updates of the screen: there is no back-pressure, and people see no faster."""

_LARGEST_MEMORY = 128 * 2**20
"""Bytes of earlier maps that are kept, so that a slider moved back shows its map at once."""

_MOST_STEPS = 1024
"""Steps up to which a deletion curve is measured beside a map."""

_PIECES = 196
"""Pieces at most that a deletion curve covers one after another in a map of windows."""

_FINEST_TARGET = 0.99
"""The slider's last stop below exact: a map on its way to exact passes by all of them."""


class Measurer:
    """The measuring of one subject's maps, with all that the next run can use of the last.

    Args:
        subject: The model and its images.
        occlusion: The engine, with the subject's model.
        activation: Activation that makes probabilities of outputs.
        tuning: Tuning that says where approximate maps may stop; None without one.

    Examples:
        >>> subject = Subject(model, [x[0]], None)
        >>> page = Page(subject, None, lambda part, content: None)
        >>> measurer = Measurer(subject, KryptonOcclusion(model), None, None)
        >>> wish = Wish(ssim_target=1, exact=True, region=None, target=2)
        >>> measurer.run(MapKey(0, 8, 4, "grey"), wish, page.next_turn(), stopped=lambda: False)
        >>> page.shown.heatmap.drop.shape, page.shown.task.complete()
        (torch.Size([5, 4]), True)
    """

    def __init__(
        self, subject: Subject, occlusion: KryptonOcclusion, activation: Activation, tuning: Tuning | None
    ) -> None:
        self._subject, self._occlusion = subject, occlusion
        self._activation, self._tuning = activation, tuning
        self._memory = Memory(_LARGEST_MEMORY)
        self._captured: set[tuple[int, ...]] = set()

    def run(self, key: MapKey, wish: Wish, turn: Turn, stopped: Cancelled, asked_model: bool = False) -> None:
        """Measure and show the part of a map that a wish still lacks.

        The model's answer to the image is compared with the earlier one first; where it differs, all begins
        anew.

        Args:
            key: All that the map's values depend on.
            wish: The controls beside it.
            turn: The run's right to draw.
            stopped: Function that says whether to end.
            asked_model: Whether that comparison has been made.

        Raises:
            InputError: The image, its size or the model cannot be used.
        """
        task = self._begun(key, wish, turn)
        if task is None:
            return
        if not task.lacks():  # it is there at once, and then the model is asked whether it is still so
            with turn.drawing() as page:
                if page is None:
                    return
                self._finish(task, page)
        if not asked_model:
            try:
                with Stoppable(stopped):
                    answer = self._subject.ask(key.image)
            except Stopped:
                return
            # Another model than was measured, whoever is the latest.
            if not same_outputs(self._subject.answer(key.image), answer):
                self._begin_anew(key, answer, turn.page)
                return self.run(key, wish, turn, stopped, asked_model=True)
        self._capture(key.image, task.positions)
        if not self._answer(task, turn, stopped):
            return
        if task.lacks() and (so_far := task.so_far()) is not None:
            self._show(turn, task, so_far)  # seen by another class, say, or not fine enough
        try:
            self._measure_all(task, turn, stopped)
        except OutdatedError:  # another model, though it says the same of the image as it is
            if asked_model:
                raise
            self._begin_anew(key, self._subject.ask(key.image), turn.page)
            return self.run(key, wish, turn, stopped, asked_model=True)
        with turn.drawing() as page:
            if page is None:
                return
            self._finish(task, page)
        self._judge(task, turn, stopped)
        given = self._subject.input(key.image)
        if isinstance(given, ModelInput) and not stopped():
            detail = given.detail
            with turn.drawing() as page:
                if page is not None:
                    page.sharpen(key.image, detail)
        everywhere = task.known.heatmap is not None and bool(task.known.heatmap.measured.all())
        if everywhere and not stopped() and self._subject.pass_seconds(task.positions.input_shape) is None:
            self._subject.time_full_inference(key.image, stopped)
            with turn.drawing() as page:
                if page is not None:
                    page.compare()

    def _begun(self, key: MapKey, wish: Wish, turn: Turn) -> Task | None:
        """The task of a wish, its picture being on the page; None for a run whose turn is over."""
        outputs, shape = self._subject.answer(key.image), self._subject.shape(key.image)
        positions = positions_for(key, self._subject)
        keep_all = keeps_all(positions, outputs)
        if not keep_all:
            target = int(outputs.argmax()) if wish.target is None else wish.target
            key = replace(key, target=target)
        with turn.drawing() as page:
            if page is None:
                return None
            known = self._memory.of(key)
            page.begin(key)
        if isinstance(positions, SlidingWindow) and maps.longest_window(shape[1:]) < key.window:
            raise InputError(
                "window",
                f"{key.window}",
                problem=f"larger than this image as the model sees it, {maps.sizes_in_words(shape[1:])}",
            )
        return task_for(key, wish, known, self._subject, self._tuning, keep_all)

    def _begin_anew(self, key: MapKey, answer: Tensor, page: Page) -> None:
        """Forget another model's maps and answers; the model of today answered ``answer`` to the image."""
        with page.lock:
            self._memory.forget()
            self._subject.forget_answers(key.image, answer)
            page.clear()

    def _capture(self, image: int, positions: Positions) -> None:
        """Capture the model's graph once for every shape, so that no map's time contains it."""
        if positions.input_shape in self._captured:
            return
        self._captured.add(positions.input_shape)
        # The graph is of the shape; which window it is planned for first does not matter.
        whole = SlidingWindow(positions.input_shape, positions.input_shape, positions.input_shape)
        window = positions if isinstance(positions, SlidingWindow) else whole
        # Without a graph it runs in full, with the engine's own warning.
        with contextlib.suppress(InputError):
            self._occlusion.plan(self._subject.x(image), window.shape, window.strides)

    def _answer(self, task: Task, turn: Turn, stopped: Cancelled) -> bool:
        """Ask the model with the wish's regions covered at once, and show it; False where stopped."""
        if not task.wish.covered or not isinstance(task.positions, Regions):
            return True
        which = np.searchsorted(task.positions.ids, task.wish.covered)
        try:
            with Stoppable(stopped):
                outputs = self._subject.ask_covered(task.key.image, task.positions, which, task.filling)
        except Stopped:
            return False
        with turn.drawing() as page:
            if page is not None:
                page.answer(task, outputs)
        return True

    def _judge(self, task: Task, turn: Turn, stopped: Cancelled) -> None:
        """Measure the deletion curves of a finished map of the whole image, and show them."""
        if not task.wish.curve or task.wish.region is not None or stopped():
            return
        finished = {"approximate": task.approximate(), "exact": task.so_far() if task.complete() else None}
        named = {name: heatmap for name, heatmap in finished.items() if heatmap is not None}
        if not named:
            return
        judged, note = Judged(task.aim.target, task.ssim_target, "exact" in named), ""
        if judged not in task.known.curves:
            try:
                with Stoppable(stopped):
                    found = self._curves(task, named)
            except Stopped:
                return
            if isinstance(found, str):
                note = found
            else:
                task.known.curves[judged] = found
        with turn.drawing() as page:
            if page is not None:
                page.judge(task, task.known.curves.get(judged, {}), note)

    def _curves(self, task: Task, named: dict[str, Heatmap]) -> dict[str, Curve] | str:
        """The deletion curves of maps, and of a random order beside them; or why there are none, in words."""
        tiles = _tiles(task.positions)
        if len(tiles) > _MOST_STEPS:
            return f"A curve of {len(tiles):,} steps: krypton_engine.evaluate.deletion makes it."
        filling, by_window = painted(task.x, task.positions, task.filling)
        if by_window or filling is None:
            return "A curve covers pieces of the image for good: the filling may not depend on the window."
        chance = torch.rand(task.x.shape, generator=torch.Generator().manual_seed(0))
        found = deletion(
            self._subject.model,
            task.x,
            {**named, "at random": chance},
            tiles,
            filling,
            task.aim.target,
            activation=self._activation,
        )
        assert isinstance(found, dict)
        return found

    def _measure_all(self, task: Task, turn: Turn, stopped: Cancelled) -> None:
        """Measure the approximate map, then the exact one, as far as they are wanted and unknown."""
        target = task.wish.ssim_target
        if task.lacks_approximate():
            # From a map that is there in full nobody learns what an approximate one costs; and what a tuning
            # promises holds for maps from the start.
            anew = task.tuning is not None or (task.wish.region is None and task.complete())
            passes_by = task.exact and task.tuning is None
            sought = max(target, _FINEST_TARGET) if passes_by else target
            self._measure(task, None if anew else task.so_far(), sought, turn, stopped)
        if task.lacks_exact() and not stopped():
            self._measure(task, task.so_far(), None, turn, stopped)

    def _measure(
        self, task: Task, known: Heatmap | None, ssim_target: float | None, turn: Turn, stopped: Cancelled
    ) -> None:
        """Measure a map from ``known`` on, up to ``ssim_target`` or (None) exactly; show it on its way."""
        course = None if ssim_target is None else task.known.course(task.aim)
        window = task.positions if isinstance(task.positions, SlidingWindow) else None
        mask = maps.mask_of(task.positions) if isinstance(task.positions, Regions) else None
        pace = Pace(_REDRAW_SECONDS)
        wanted = int(task.wanted.sum())
        first: tuple[float, int] | None = None  # when the first output came, and how many there were
        if course is not None:
            course.begin()

        def progress(so_far: Heatmap, *_: int) -> bool:
            nonlocal first
            if not task.several:
                task.known.note(so_far)
            if course is not None:
                course.note(so_far)
            now, count = time.perf_counter(), int(so_far.measured.sum())
            first = first or (now, count)
            new = count - first[1]
            left = (now - first[0]) / new * max(0, wanted - count) if new else None
            if not stopped() and pace.ready() and not (task.exact and task.complete()):
                self._show(turn, task, so_far, left=left)
            return not stopped()

        try:
            with Stoppable(stopped):
                found = self._occlusion.heatmap(
                    task.x,
                    window.shape if window else None,
                    window.strides if window else None,
                    baselines=task.filling,
                    regions=None if mask is None else torch.from_numpy(mask),
                    target=task.aim.target,
                    activation=self._activation,
                    region=maps.as_engine(task.wish.region),
                    classes="all" if task.keep_all else "predicted",
                    schedule="coarse to fine" if window else "rows",
                    resume=None if known is None else untrimmed(known),
                    on_progress=progress,
                    ssim_target=ssim_target,
                    tuning=None if ssim_target is None else task.tuning,
                )
        except Stopped:
            return
        except OcclusionCancelled as ended:
            if not task.several:
                task.known.note(ended.partial)
            return
        task.known.note(found)
        if course is not None and ssim_target is not None:
            course.end(found, ssim_target)

    def _show(self, turn: Turn, task: Task, heatmap: Heatmap, *, left: float | None = None) -> None:
        """Show a map on its way, if the turn lasts."""
        with turn.drawing() as page:
            if page is not None:
                page.show(task, heatmap, self._largest_of_all(task, heatmap), left=left)

    def _finish(self, task: Task, page: Page) -> None:
        """Show the map that was asked for, or as much of it as there is. The caller holds the lock."""
        approximate, so_far = task.approximate(), task.so_far()
        finished = task.complete() if task.exact else approximate is not None
        found = so_far if task.exact or approximate is None else approximate
        if found is not None:
            page.show(task, found, self._largest_of_all(task, found), left=0.0, finished=finished)
            page.compare()

    def _largest_of_all(self, task: Task, shown: Heatmap) -> float:
        """The largest change in the map shown and in any that is remembered."""
        every = [shown, *self._memory.heatmaps()]
        return max(maps.largest_drop(heatmap, task.aim.target) for heatmap in every)


def _tiles(positions: Positions) -> Regions:
    """The pieces that a curve covers one after another: the regions, or cubes as large as the window."""
    if isinstance(positions, Regions):
        return positions
    channels, *sizes = positions.input_shape
    least = math.ceil((math.prod(sizes) / _PIECES) ** (1 / len(sizes)))
    side = max(*as_sliding(positions).shape[1:], least)
    return Regions.tiles(positions.input_shape, (channels, *[min(side, size) for size in sizes]))
