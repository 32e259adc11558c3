"""A model and the images that an explorer asks it about."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.common.calling import Forward
from krypton_engine.errors import InputError
from krypton_engine.executors.full import evaluate
from krypton_engine.graph.export import evaluated
from krypton_engine.perturbation.fillings import Filling, filling_of
from krypton_engine.perturbation.regions import Regions
from krypton_engine.planning.training import evaluation_mode
from krypton_engine.zoo.images import SOURCE
from krypton_engine.zoo.patches import COLOURS
from krypton_engine.zoo.pixels import ToInput
from krypton_engine.zoo.preprocess import as_taken
from krypton_engine.zoo.superpixels import slic_count, superpixels
from krypton_widget.coverings import covered, name_of
from krypton_widget.maps import SIZES
from krypton_widget.pictures import ModelInput
from krypton_widget.reading import Input, UserImage, readings
from krypton_widget.stopping import Stoppable, Stopped
from krypton_widget.worker import Cancelled

_FULL_BATCHES = (1, 8)
"""Batch sizes that are tried for the time of full inference."""


class Subject:
    """A model and the images that it is asked about, each prepared when it is first looked at.

    Args:
        model: Function from a batch of images to one row of classes for each.
        images: Images as users have them; see `krypton_widget.reading.readings`.
        preprocess: Function from one of these to the model's input; None for the plain conversion.
    """

    def __init__(self, model: Forward, images: Sequence[UserImage], preprocess: ToInput | None) -> None:
        self.model, self.images, self.preprocess = model, images, preprocess
        self._inputs: dict[int, Input] = {}
        self._answers: dict[int, Tensor] = {}
        self._superpixels: dict[tuple[int, int], Regions] = {}
        self._fillings: dict[str, Filling] = {}
        self._pass_seconds: dict[tuple[int, ...], float] = {}

    def input(self, index: int) -> Input:
        """An image as the model sees it.

        Raises:
            InputError: The image is none, or cannot be preprocessed.

        Examples:
            >>> Subject(model, [np.zeros((24, 20, 3), np.uint8)], None).input(0).x.shape
            torch.Size([1, 3, 24, 20])
        """
        if index not in self._inputs:
            name = f"image[{index}]" if len(self.images) > 1 else "image"
            ways = readings(self.images[index], self.preprocess, name)
            if len(ways) == 1:
                self._inputs[index] = ways[0]()
            else:
                self._read(index, ways)
        return self._inputs[index]

    def _read(self, index: int, ways: list[Callable[[], Input]]) -> None:
        """Read an image in the first of several ways that gives what the model takes."""
        refused: InputError | None = None
        for way in ways:
            try:
                self._inputs[index] = way()
                self._answers[index] = self.ask(index)
                return
            except InputError as error:
                self._inputs.pop(index, None)
                refused = refused or error
        assert refused is not None
        raise refused

    def source(self, index: int) -> str | None:
        """The file or the name that a picture was read from, as the command line takes it; None if unknown.

        Examples:
            >>> from krypton_engine.zoo import load_image
            >>> Subject(model, [load_image("camera")], load_image).source(0)
            'camera'
        """
        image = self.images[index]
        named = getattr(image, "info", {}).get(SOURCE) or getattr(image, "filename", "")
        return str(named) or None

    def shape(self, index: int) -> tuple[int, ...]:
        """Channels and sizes of an image as the model sees it.

        Examples:
            >>> Subject(model, [x[0]], None).shape(0)
            (3, 24, 20)
        """
        return tuple(self.input(index).x.shape[1:])

    def x(self, index: int) -> Tensor:
        """The model's input ``(1, C, ...)``, on the model's device and in its type.

        Examples:
            >>> Subject(model.double(), [x[0]], None).x(0).dtype
            torch.float64
        """
        x = self.input(index).x
        # While a model is exported, its parameters are fakes.
        return evaluated(lambda: as_taken(self.model, x))

    def regions(self, index: int, regions: Regions | str) -> Regions:
        """The regions of an image: themselves, or the superpixels that ``"slic:COUNT"`` asks for.

        Examples:
            >>> subject = Subject(model, [x[0]], None)
            >>> subject.regions(0, "slic:6").input_shape
            (3, 24, 20)
        """
        if isinstance(regions, Regions):
            return regions
        key = index, slic_count(regions) or 1
        if key not in self._superpixels:
            given = self.input(index)
            assert isinstance(given, ModelInput)  # `Parts` refuses superpixels of anything else
            mask = superpixels(given.picture, key[1])
            self._superpixels[key] = Regions.of(mask, self.shape(index), "regions")
        return self._superpixels[key]

    def name_of(self, covering: str | Filling) -> str:
        """The name by which `filling` knows a covering from now on; see `krypton_widget.coverings.name_of`.

        Examples:
            >>> from krypton_engine.perturbation.fillings import LocalMean
            >>> Subject(model, [x[0]], None).name_of(LocalMean(border=4))
            'given: local mean, border 4'
        """
        name = name_of(covering)
        if not isinstance(covering, str):
            self._fillings[name] = covering
        return name

    def filling(self, index: int, name: str) -> Filling | Tensor:
        """What covered cells become: a colour as an image, preprocessed as the picture was; or a filling.

        Examples:
            >>> subject = Subject(model, [x[0]], None)
            >>> subject.filling(0, "grey").shape, subject.filling(0, "local mean")
            (torch.Size([1, 3, 24, 20]), LocalMean(border=None))
        """
        if name in COLOURS:
            return self.input(index).patch(name).to(self.x(index))
        return self._fillings.get(name) or filling_of(name)

    def answer(self, index: int) -> Tensor:
        """The model's outputs for an image as it is, ``(1, classes)``; asked for once.

        Examples:
            >>> subject = Subject(model, [x[0]], None)
            >>> subject.answer(0).shape, subject.answer(0) is subject.answer(0)
            (torch.Size([1, 5]), True)
        """
        if index not in self._answers:
            self._answers[index] = self.ask(index)
        return self._answers[index]

    def ask(self, index: int) -> Tensor:
        """The model's outputs for an image, asked for anew: ``(1, classes)``.

        Raises:
            InputError: The model raises, or gives no row of classes.

        Examples:
            >>> subject = Subject(model, [x[0]], None)
            >>> torch.equal(subject.ask(0), model(x))
            True
        """
        return self._asked(index, self.x(index))

    def ask_covered(
        self, index: int, regions: Regions, which: IntArray, filling: Filling | Tensor
    ) -> list[Tensor]:
        """The model's outputs with several regions covered at once, ``(1, classes)`` for every sample.

        Examples:
            >>> subject = Subject(model, [x[0]], None)
            >>> regions = subject.regions(0, "slic:6")
            >>> everything = np.arange(len(regions))
            >>> (outputs,) = subject.ask_covered(0, regions, everything, torch.zeros_like(x))
            >>> torch.equal(outputs, model(torch.zeros_like(x)))
            True
        """
        return [self._asked(index, image) for image in covered(self.x(index), regions, which, filling)]

    def _asked(self, index: int, x: Tensor) -> Tensor:
        given = self.input(index)
        try:
            with torch.no_grad(), evaluation_mode(self.model, _nothing):
                outputs = evaluate(self.model, (x,), None)
        except (MemoryError, torch.OutOfMemoryError, InputError):
            raise
        except Exception as error:
            raise InputError(
                f"{given.name}: the model",
                f"{type(error).__name__} on an input of shape {tuple(given.x.shape)}, (batch, channels, "
                f"{', '.join(SIZES[given.x.ndim - 2])}): {error}. {given.remedy}",
                verb="raised",
            ) from error
        if outputs.ndim != 2 or outputs.shape[0] != 1:
            raise InputError(
                "model", f"{tuple(outputs.shape)} for one image", "one row of classes, (1, n)", verb="returns"
            )
        return outputs.cpu()

    def forget_answers(self, index: int, answer: Tensor) -> None:
        """Forget an older model's answers, in favour of today's to one image.

        Examples:
            >>> subject = Subject(model, [x[0]], None)
            >>> subject.forget_answers(0, torch.zeros(1, 5))
            >>> subject.answer(0)
            tensor([[0., 0., 0., 0., 0.]])
        """
        self._answers = {index: answer}

    def pass_seconds(self, shape: tuple[int, ...]) -> float | None:
        """Seconds of full inference for an image of this shape; None before `time_full_inference`.

        Examples:
            >>> subject = Subject(model, [x[0]], None)
            >>> subject.time_full_inference(0, lambda: False)
            >>> subject.pass_seconds((3, 24, 20)) > 0, subject.pass_seconds((3, 48, 40))
            (True, None)
        """
        return self._pass_seconds.get(shape)

    def time_full_inference(self, index: int, stopped: Cancelled) -> None:
        """Measure the seconds of full inference for an image, in the best batch; nothing if stopped.

        Examples:
            >>> subject = Subject(model, [x[0]], None)
            >>> subject.pass_seconds((3, 24, 20))
            >>> subject.time_full_inference(0, lambda: False)
            >>> subject.pass_seconds((3, 24, 20)) > 0
            True
        """
        best = float("inf")
        for batch in _FULL_BATCHES:
            x = self.x(index).expand(batch, *self.shape(index)).contiguous()
            try:
                with torch.no_grad(), evaluation_mode(self.model, _nothing), Stoppable(stopped):
                    for _ in range(2):
                        began = time.perf_counter()
                        evaluate(self.model, (x,), None).sum().item()
                        best = min(best, (time.perf_counter() - began) / batch)
            except Stopped:
                return
            except Exception:  # the model takes no such batch, or there is no room; smaller ones were timed
                break
        self._pass_seconds[self.shape(index)] = best


def _nothing(_: str) -> None:
    return None
