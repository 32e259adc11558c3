"""An explorer's page: the parts that it shows, and the run that may draw on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from krypton_engine.attr.checks import Activation, activation_of
from krypton_engine.common.arrays import Flags
from krypton_engine.common.outputs import activated
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.heatmap.status import Status
from krypton_widget import maps
from krypton_widget.cache import MapKey
from krypton_widget.maps import Sent
from krypton_widget.pictures import png
from krypton_widget.subject import Subject
from krypton_widget.task import Task, Wish, asked


@dataclass(frozen=True)
class Shown:
    """A map on the page.

    Attributes:
        heatmap: The map, filled where that is wanted.
        task: Task that the map answers.
        largest: Its largest change.
        shared: The largest change of all the maps that are remembered.
    """

    heatmap: Heatmap
    task: Task
    largest: float
    shared: float


class Page:
    """A page's picture, the map of it, and the comparison with the exact map.

    One lock is around every change; an older run's changes are dropped inside the lock (`Turn`).

    Args:
        subject: The model and its images.
        activation: Activation that makes probabilities of outputs.
        send: Function that takes the name of a part of the page (``"view"``, ``"frame"``, ``"comparison"``)
            and its new content.

    Attributes:
        lock: Held while the page changes.
        shown: The map.

    Examples:
        >>> from dataclasses import replace
        >>> from krypton_widget.cache import Known
        >>> from krypton_widget.task import task_for
        >>> subject = Subject(model, [x[0]], None)
        >>> page = Page(subject, None, lambda part, content: print(part, content.get("image", "-")))
        >>> key, wish = MapKey(0, 12, 12, "grey"), Wish(ssim_target=1, exact=True, region=None, target=0)
        >>> page.begin(key)
        comparison -
        view 0
        >>> task = task_for(key, wish, Known(), subject, None, keep_all=True)
        >>> page.show(task, replace(heatmap, window=task.window), shared=0.5)
        frame -
        >>> page.answers(key, wish), page.answers(key, replace(wish, target=1))
        (True, False)
        >>> page.keep_only(key, replace(wish, target=1))  # of another class nothing is on the page
        frame -
        comparison -
    """

    def __init__(self, subject: Subject, activation: Activation, send: Callable[[str, Sent], None]) -> None:
        self.lock = threading.RLock()
        self.shown: Shown | None = None
        self.turns = 0
        self._subject, self._activation = subject, activation
        self._parts: dict[str, Sent] = {"view": {}, "frame": {}, "comparison": {}}
        self._send = send

    def next_turn(self) -> Turn:
        """The right to draw, taken from the run that had it. The caller holds the lock.

        Examples:
            >>> page = Page(Subject(model, [x[0]], None), None, lambda part, content: None)
            >>> first, second = page.next_turn(), page.next_turn()
            >>> first.lasts(), second.lasts()
            (False, True)
        """
        self.turns += 1
        return Turn(self, self.turns)

    def begin(self, key: MapKey) -> None:
        """Show the picture of a map to come, and no comparison. The caller holds the lock.

        Examples:
            >>> subject = Subject(model, [x[0]], None)
            >>> page = Page(subject, None, lambda part, content: print(part, sorted(content)[:2]))
            >>> page.begin(MapKey(0, 8, 4, "grey"))
            comparison []
            view ['baseline', 'height']
        """
        self._put("comparison", {})
        self._put("view", self._seen(key))

    def show(
        self,
        task: Task,
        heatmap: Heatmap,
        shared: float,
        *,
        left: float | None = None,
        finished: bool = False,
    ) -> None:
        """Show a map, filled. The caller holds the lock.

        Args:
            task: Task that the map answers.
            heatmap: The map.
            shared: The largest change of all the maps that are remembered.
            left: Remaining seconds, at most; None where unknown.
            finished: Whether the map is all that was asked for.
        """
        heatmap = _filled(heatmap, task.wanted)
        drawn = maps.to_page(heatmap, task.wanted)
        self.shown = Shown(heatmap, task, drawn["largest"], shared)
        extra = {
            "asked": asked(task.key, task.wish),
            "left": left,
            "finished": finished,
            "estimate": maps.estimate(heatmap, task.wanted),
            "note": task.note,
            "shared": shared,
            "inFull": heatmap.plan is None or not heatmap.plan.incremental,
        }
        self._put("frame", drawn | extra)

    def compare(self) -> None:
        """Show the comparison, if there is an exact map. The caller holds the lock.

        Examples:
            >>> from krypton_widget.cache import Known
            >>> from krypton_widget.task import task_for
            >>> subject, parts = Subject(model, [x[0]], None), {}
            >>> page = Page(subject, None, parts.__setitem__)
            >>> wish = Wish(ssim_target=0.9, exact=True, region=None, target=0)
            >>> task = task_for(MapKey(0, 12, 12, "grey"), wish, Known(heatmap), subject, None, keep_all=True)
            >>> task.known.course(task.aim).end(heatmap, ssim_target=0.9)
            >>> page.show(task, heatmap, shared=0.5)
            >>> page.compare()
            >>> parts["comparison"]["ssim"], parts["comparison"]["ssimTarget"]
            (1.0, 0.9)
        """
        if self.shown is None:
            return
        task = self.shown.task
        exact, approximate = task.so_far(), task.approximate()
        if exact is None or approximate is None or task.wish.region is not None or not task.complete():
            return
        found = maps.comparison(approximate, exact, self._subject.pass_seconds(task.window.input_shape))
        self._put("comparison", found | {"ssimTarget": task.ssim_target})

    def clear(self) -> None:
        """Take the map off the page. The caller holds the lock.

        Examples:
            >>> page = Page(Subject(model, [x[0]], None), None, lambda part, content: print(part, content))
            >>> page.clear()
            frame {}
            comparison {}
        """
        self.shown = None
        self._put("frame", {})
        self._put("comparison", {})

    def answers(self, key: MapKey, wish: Wish) -> bool:
        """Whether the page shows this map or a part of it."""
        return self._map_answers(key, wish) and self._parts["view"].get("image") == key.image

    def keep_only(self, key: MapKey, wish: Wish) -> None:
        """Take everything about another map off the page. The caller holds the lock."""
        view, frame, now = self._parts["view"], self._parts["frame"], asked(key, wish)
        if not self._map_answers(key, wish):
            self.clear()
            if view.get("image") != key.image:
                self._put("view", {})
            return
        if frame["asked"] != now:  # more of it was wanted, and has not begun
            self._put("frame", {**frame, "asked": now, "finished": False})
        # What had begun meanwhile was cancelled.
        if (view.get("image"), view.get("baseline")) != (key.image, key.baseline):
            self._put("view", self._seen(key))
        if not self._parts["comparison"]:
            self.compare()

    def _map_answers(self, key: MapKey, wish: Wish) -> bool:
        shown = self._parts["frame"].get("asked")
        how_much = ("exact", "ssim_target")
        now = asked(key, wish).items()
        return shown is not None and all(shown[k] == v for k, v in now if k not in how_much)

    def _put(self, part: str, content: Sent) -> None:
        self._parts[part] = content
        self._send(part, content)

    def _seen(self, key: MapKey) -> Sent:
        """The picture, its patch and the model's own answer."""
        given, outputs = self._subject.input(key.image), self._subject.answer(key.image)
        probabilities = activated(outputs, activation_of(self._activation)).detach()[0].float()
        height, width = given.picture.shape[:2]
        return {
            "image": key.image,
            "baseline": key.baseline,
            "height": height,
            "width": width,
            "picture": png(given.picture),
            "patch": png(given.seen(given.patch(key.baseline))),
            "probabilities": probabilities.numpy().tobytes(),
            "predicted": int(probabilities.argmax()),
        }


@dataclass(frozen=True)
class Turn:
    """A run's right to draw on a page, until a newer run takes it.

    Examples:
        >>> page = Page(Subject(model, [x[0]], None), None, lambda part, content: None)
        >>> first = page.next_turn()
        >>> first.lasts(), page.next_turn().lasts(), first.lasts()
        (True, True, False)
    """

    page: Page
    number: int

    def lasts(self) -> bool:
        """Whether no newer run has begun."""
        return self.number == self.page.turns

    @contextmanager
    def drawing(self) -> Iterator[Page | None]:
        """The page, which changes for nobody else meanwhile; None for a run whose turn is over.

        Examples:
            >>> page = Page(Subject(model, [x[0]], None), None, lambda part, content: None)
            >>> first, second = page.next_turn(), page.next_turn()
            >>> for turn in (first, second):
            ...     with turn.drawing() as drawn:
            ...         print(drawn is page)
            False
            True
        """
        with self.page.lock:
            yield self.page if self.lasts() else None


def _filled(heatmap: Heatmap, wanted: Flags) -> Heatmap:
    """A map that is known at every wanted position: interpolated where it is not measured."""
    where = torch.from_numpy(wanted.reshape(heatmap.window.grid_shape))
    known = bool((heatmap.status[where] != Status.UNKNOWN).all())
    return heatmap if known else heatmap.filled(where.numpy())
