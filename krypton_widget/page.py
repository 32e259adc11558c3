"""An explorer's page: the parts that it shows, and the run that may draw on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from krypton_engine.attr.checks import Activation, activation_of
from krypton_engine.attr.curves import Curve
from krypton_engine.common.arrays import Flags
from krypton_engine.common.outputs import activated
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.heatmap.status import Status
from krypton_engine.perturbation.regions import Regions
from krypton_widget import maps
from krypton_widget.cache import MapKey
from krypton_widget.calls import calls
from krypton_widget.coverings import painted
from krypton_widget.fields import Field
from krypton_widget.maps import Sent
from krypton_widget.pictures import png
from krypton_widget.planes import axes_of, planes_of
from krypton_widget.reading import Input
from krypton_widget.subject import Subject
from krypton_widget.task import Task, Wish, asked, positions_for

LEAST_END = 0.05
"""The least change of a probability at which colours end, unless a user sets the end."""

_BESIDE = "comparison", "together", "curves"
"""Parts of a page beside its map, which belong to one run."""


@dataclass(frozen=True)
class Shown:
    """A map on the page.

    Attributes:
        heatmap: The map, filled where that is wanted.
        task: Task that the map answers.
        largest: Its largest change.
        shared: The largest change of all the maps that are remembered.
        least: The least change at which colours end on their own: a nothing is not drawn as if it counted.
    """

    heatmap: Heatmap
    task: Task
    largest: float
    shared: float
    least: float = 0.0


class Page:
    """A page's picture and its map; and beside the map a comparison, deletion curves, and one more question.

    One lock is around every change; an older run's changes are dropped inside the lock (`Turn`).

    Args:
        subject: The model and its images.
        activation: Activation that makes probabilities of outputs.
        send: Function that takes the name of a part of the page (``"cells"``, ``"detail"``, ``"view"``,
            ``"frame"``, ``"comparison"``, ``"together"``, ``"curves"``) and its new content.

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
        view 0
        >>> task = task_for(key, wish, Known(), subject, None, keep_all=True)
        >>> page.show(task, replace(heatmap, window=task.positions), shared=0.5)
        frame -
        >>> page.answers(key, wish), page.answers(key, replace(wish, target=1))
        (True, False)
        >>> page.keep_only(key, replace(wish, target=1))  # of another class nothing is on the page
        frame -
    """

    def __init__(self, subject: Subject, activation: Activation, send: Callable[[str, Sent], None]) -> None:
        self.lock = threading.RLock()
        self.shown: Shown | None = None
        self.turns = 0
        self._cells_of: int | None = None
        self._subject, self._activation = subject, activation
        self._parts: dict[str, Sent] = {part: {} for part in ("cells", "detail", "view", "frame", *_BESIDE)}
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
        """Show the picture of a map to come, and nothing beside it. The caller holds the lock.

        Examples:
            >>> subject = Subject(model, [x[0]], None)
            >>> page = Page(subject, None, lambda part, content: print(part, sorted(content)[:2]))
            >>> page.begin(MapKey(0, 8, 4, "grey"))
            view ['areShares', 'axes']
        """
        self._clear(*_BESIDE)
        self._look_at(key)

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
        least = LEAST_END if maps.are_shares(self._probabilities(task.key.image)) else 0.0
        self.shown = Shown(heatmap, task, drawn["largest"], shared, least)
        extra = {
            "asked": asked(task.key, task.wish),
            "left": left,
            "finished": finished,
            "most": maps.most_important(heatmap, task.wanted) if finished else None,
            "estimate": maps.estimate(heatmap, task.wanted),
            "note": task.note,
            "shared": shared,
            "least": least,
            "calls": calls(task, self._subject, self._activation) if finished else {},
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
        found = maps.comparison(approximate, exact, self._subject.pass_seconds(task.positions.input_shape))
        self._put("comparison", found | {"ssimTarget": task.ssim_target})

    def sharpen(self, image: int, detail: bytes | None) -> None:
        """Show a picture sharper than the model sees it, where it is so. The caller holds the lock.

        Examples:
            >>> page = Page(Subject(model, [x[0]], None), None, lambda part, content: print(part, content))
            >>> page.sharpen(0, b"a picture")
            detail {'image': 0, 'picture': b'a picture'}
            >>> page.sharpen(0, b"a picture")  # it is there
        """
        if detail is not None and not self._parts["detail"]:
            self._put("detail", {"image": image, "picture": detail})

    def clear(self) -> None:
        """Take the map off the page. The caller holds the lock.

        Examples:
            >>> page = Page(Subject(model, [x[0]], None), None, lambda part, content: print(part, content))
            >>> page.begin(MapKey(0, 8, 4, "grey"))  # doctest: +ELLIPSIS
            view {...}
            >>> page.clear()  # there was none
        """
        self.shown = None
        self._clear("frame", *_BESIDE)

    def answer(self, task: Task, outputs: Sequence[Tensor]) -> None:
        """Show what the model says with several regions covered at once. The caller holds the lock.

        Args:
            task: Task whose wish asks for that.
            outputs: The model's outputs, ``(1, classes)`` for every sample of the filling.
        """
        shares = [activated(each, activation_of(self._activation)) for each in outputs]
        self._put(
            "together",
            {
                "asked": asked(task.key, task.wish),
                "covered": [str(number) for number in task.wish.covered],
                "probabilities": torch.stack(shares).mean(0)[0].float().numpy().tobytes(),
            },
        )

    def judge(self, task: Task, curves: Mapping[str, Curve], note: str = "") -> None:
        """Show deletion curves of the map, or a note on why there are none. The caller holds the lock."""
        drawn = [
            {
                "name": name,
                "shares": curve.shares.astype(np.float32).tobytes(),
                "values": curve.values.astype(np.float32).tobytes(),
                "area": curve.area,
            }
            for name, curve in curves.items()
        ]
        self._put("curves", {"asked": asked(task.key, task.wish), "curves": drawn, "note": note})

    @property
    def finished(self) -> bool:
        """Whether the page shows all of the map that was asked for."""
        return bool(self._parts["frame"].get("finished"))

    def kept(self) -> Sent:
        """The map as it is now and its picture, for `Page` to show beside others. The caller holds the lock.

        Examples:
            >>> Page(Subject(model, [x[0]], None), None, lambda part, content: None).kept()
            {'frame': {}, 'view': {}}
        """
        return {part: self._parts[part] for part in ("frame", "view")}

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
            self._look_at(key)
        if not self._parts["comparison"]:
            self.compare()

    def _map_answers(self, key: MapKey, wish: Wish) -> bool:
        shown = self._parts["frame"].get("asked")
        how_much = ("exact", "ssim_target")
        now = asked(key, wish).items()
        return shown is not None and all(shown.get(k) == v for k, v in now if k not in how_much)

    def _clear(self, *parts: str) -> None:
        for part in parts:
            if self._parts[part]:
                self._put(part, {})

    def _put(self, part: str, content: Sent) -> None:
        self._parts[part] = content
        self._send(part, content)

    def _look_at(self, key: MapKey) -> None:
        if self._cells_of != key.image:  # a volume's are many: they are sent once
            self._clear("cells", "detail")
            if cells := self._subject.input(key.image).to_page():
                self._put("cells", {"image": key.image, **cells})
            self._cells_of = key.image
        self._put("view", self._seen(key))

    def _seen(self, key: MapKey) -> Sent:
        """The picture, what covers it, its regions and the model's own answer."""
        given, probabilities = self._subject.input(key.image), self._probabilities(key.image)
        sizes, geometry = given.x.shape[2:], given.geometry if isinstance(given, Field) else None
        positions = positions_for(key, self._subject)
        filling = self._subject.filling(key.image, key.baseline)
        patch, by_window = painted(self._subject.x(key.image), positions, filling)
        regions = positions if isinstance(positions, Regions) else None
        return {
            "image": key.image,
            "baseline": key.baseline,
            "sizes": list(sizes),
            "spacing": [1.0] * len(sizes) if geometry is None else list(geometry.spacing),
            "axes": axes_of(len(sizes), geometry),
            "planes": planes_of(len(sizes), geometry),
            **_drawn(given, None if patch is None else patch.to(given.x)),
            "byWindow": by_window,
            "partition": maps.regions_to_page(key.regions),
            "regions": b"" if regions is None else maps.cells_of(regions).tobytes(),
            "ids": [] if regions is None else [str(number) for number in regions.ids.tolist()],
            "probabilities": probabilities.numpy().tobytes(),
            "predicted": int(probabilities.argmax()),
            "areShares": maps.are_shares(probabilities),
        }

    def _probabilities(self, image: int) -> Tensor:
        """The model's own answer to an image, by class."""
        outputs = self._subject.answer(image)
        return activated(outputs, activation_of(self._activation)).detach()[0].float()


def _drawn(given: Input, patch: Tensor | None) -> Sent:
    """A picture and what covers it as PNGs; of another input, which has been sent, what covers it."""
    if isinstance(given, Field):
        cover = {} if patch is None else given.cells(patch)
        return {"picture": b"", "patch": b"", "cover": cover}
    return {
        "picture": png(given.picture),
        "patch": b"" if patch is None else png(given.seen(patch)),
        "cover": {},
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
