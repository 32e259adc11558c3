"""The call that explains every image of a collection, and the hashes that a row's key is made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from krypton_engine.attr.learn import OnSample
from krypton_engine.attr.occlusion import KryptonOcclusion
from krypton_engine.attr.request import heatmap_request
from krypton_engine.collection.sources import Item
from krypton_engine.common.arguments import whole
from krypton_engine.common.arrays import AnyArray
from krypton_engine.common.values import digest
from krypton_engine.errors import InputError
from krypton_engine.graph.state import modules_of
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.medical import Scan, is_scan, read_scan
from krypton_engine.perturbation.fillings import Filling
from krypton_engine.tuning import files as tuning_files
from krypton_engine.tuning.tuning import Tuning
from krypton_engine.zoo.images import load_image
from krypton_engine.zoo.load import ZooModel
from krypton_engine.zoo.preprocess import as_taken, stretched

if TYPE_CHECKING:
    import PIL.Image

_PROBE = (40, 56)
"""Height and width of the noise by which preprocessings are told apart."""


@dataclass(frozen=True)
class Explained:
    """An image of a collection, explained.

    Attributes:
        heatmap: Its map.
        predicted: The class that is predicted for the whole image, in words; empty without classes.
        picture: The image to draw over, in grey: uint8 ``(height, width)``, of a volume
            ``(depth, height, width)``; None where it is neither.
    """

    heatmap: Heatmap
    predicted: str = ""
    picture: AnyArray | None = None


class Call(Protocol):
    """The call that explains every image of a collection; pickled, workers have it too."""

    @property
    def asked(self) -> Mapping[str, Any]:
        """The call in JSON, by argument: what differs in it belongs into another folder."""

    @property
    def fingerprint(self) -> str:
        """A hash of the model, its preprocessing and the tuning."""

    @property
    def ssim_target(self) -> float | None:
        """The similarity that maps are to reach; None for exact ones."""

    @property
    def tuning(self) -> Tuning | None:
        """The tuning for that similarity."""

    def check(self, prepared: Any) -> None:
        """Refuse arguments that fit no image; ``prepared`` is one of them, None where they are pictures."""

    def prepared(self, item: Item, path: str) -> Any:
        """The image as the model takes it, and all else that needs no model; ``path`` is that of its file."""

    def explained(self, prepared: Any, item: Item, exact: bool = False) -> Explained:
        """An image explained; ``exact`` in spite of any SSIM target."""

    def tuned(self, images: Sequence[Any], known: Tuning | None, on_progress: OnSample) -> Tuning:
        """A tuning on prepared images."""

    def with_tuning(self, tuning: Tuning) -> Call:
        """The call with a tuning."""


@dataclass(frozen=True)
class OcclusionCall:
    """The maps of `KryptonOcclusion.heatmap`; for its methods see `Call`.

    Attributes:
        occlusion: Of the model.
        arguments: Arguments of its ``heatmap``.
        fingerprint: See `Call`.
        preprocess: From an RGB picture or a scan to the model's input; None where that is the scan's tensor,
            or the images are arrays.
        class_names: Names of the classes; None for their numbers.
        display: From an input to an RGB picture to draw over; None to stretch it.

    Examples:
        >>> arguments = {"sliding_window_shapes": (3, 8, 8), "strides": (3, 4, 4), "ssim_target": 0.9}
        >>> call = OcclusionCall.of(model, arguments, None, "auto", None)
        >>> call.asked["strides"], call.ssim_target, call.tuning
        ((3, 4, 4), 0.9, None)
        >>> call.with_tuning(tuning).fingerprint == call.fingerprint
        False
    """

    occlusion: KryptonOcclusion
    arguments: dict[str, Any]
    fingerprint: str
    preprocess: Callable[[Any], Tensor] | None = None
    class_names: Sequence[str] | None = None
    display: Callable[[Tensor], AnyArray] | None = None

    @staticmethod
    def of(
        model: object,
        arguments: dict[str, Any],
        preprocess: Callable[[Any], Tensor] | None,
        executor: str,
        memory_budget: int | None,
    ) -> OcclusionCall:
        """The call of a model, of the zoo or any other.

        Examples:
            >>> call = OcclusionCall.of(model, {"sliding_window_shapes": (3, 8, 8)}, None, "auto", None)
            >>> call.asked["sliding_window_shapes"], len(call.fingerprint)
            ((3, 8, 8), 16)
        """
        names = display = None
        if isinstance(model, ZooModel):
            preprocess, names, display = preprocess or model.preprocess, model.class_names, model.display
            model = model.model
        occlusion = KryptonOcclusion(model, executor, memory_budget)  # type: ignore[arg-type]
        found = fingerprint_of(model, preprocess)
        return OcclusionCall(occlusion, arguments, found, preprocess, names, display)

    @property
    def asked(self) -> Mapping[str, Any]:
        """See `Call`."""
        return {name: told(given) for name, given in self.arguments.items()}

    @property
    def ssim_target(self) -> float | None:
        """See `Call`."""
        target: float | None = self.arguments.get("ssim_target")
        return target

    @property
    def tuning(self) -> Tuning | None:
        """See `Call`."""
        found: Tuning | None = self.arguments.get("tuning")
        return found

    def check(self, prepared: Tensor | None) -> None:
        """See `Call`.

        Examples:
            >>> call = OcclusionCall.of(model, {"sliding_window_shapes": (3, 80, 8)}, None, "auto", None)
            >>> call.check(x)
            Traceback (most recent call last):
            krypton_engine.errors.InputError: sliding_window_shapes is (3, 80, 8); accepted: ...
        """
        x = self._input(self._pictures()(noise_picture())) if prepared is None else prepared
        names = ("sliding_window_shapes", "strides", "baselines", "target", "activation")
        given: dict[str, Any] = {**dict.fromkeys(names), **self.arguments}
        budget = self.occlusion._preparer.budget
        with torch.no_grad():
            heatmap_request(self.occlusion.forward_func, x, additional=None, budget=budget, **given)

    def prepared(self, item: Item, path: str) -> Tensor:
        """See `Call`.

        Examples:
            >>> call = OcclusionCall.of(model, {}, None, "auto", None)
            >>> call.prepared(Item("a", array=np.zeros((3, 24, 20), np.float32)), "").shape
            torch.Size([1, 3, 24, 20])
        """
        if item.array is not None:
            return self._input(torch.from_numpy(np.array(item.array)))
        if not is_scan(path):
            return self._input(self._pictures()(load_image(path)))
        scan = read_scan(path)
        return self._input(scan.tensor if self.preprocess is None else self.preprocess(scan))

    def _pictures(self) -> Callable[[Any], Tensor]:
        """The preprocessing, which pictures need."""
        if self.preprocess is None:
            raise InputError("preprocess", "None", "a function from a picture to the input, with pictures")
        return self.preprocess

    def _input(self, x: Tensor) -> Tensor:
        """An input with its batch dimension; integers stay what they are, such as words."""
        return as_taken(self.occlusion.forward_func, x[None]) if x.is_floating_point() else x[None]

    def explained(self, prepared: Tensor, item: Item, exact: bool = False) -> Explained:
        """See `Call`.

        Examples:
            >>> arguments = {"sliding_window_shapes": (3, 8, 8), "strides": (3, 4, 4)}
            >>> call = OcclusionCall.of(model, arguments, None, "auto", None)
            >>> found = call.explained(x, Item("a"))
            >>> found.heatmap == call.occlusion.heatmap(x, (3, 8, 8), (3, 4, 4)), found.picture.shape
            (True, (24, 20))
        """
        arguments = dict(self.arguments)
        if exact:
            arguments |= {"ssim_target": None, "tuning": None}
        if item.target:
            arguments["target"] = self._target(item.target)
        if item.region is not None:
            arguments["region"] = item.region
        heatmap = self.occlusion.heatmap(prepared, **arguments)
        return Explained(heatmap, predicted(heatmap, self.class_names), self._picture(prepared[0]))

    def _target(self, given: str) -> int:
        names = list(self.class_names or [])
        try:
            return names.index(given) if given in names else int(given)
        except ValueError:
            raise InputError("target", repr(given), "an index, or the name of a class") from None

    def _picture(self, x: Tensor) -> AnyArray | None:
        if x.ndim == 3 and self.display is not None:
            return grey(self.display(x))
        return grey_of_input(x)

    def tuned(self, images: Sequence[Tensor], known: Tuning | None, on_progress: OnSample) -> Tuning:
        """See `Call`.

        Examples:
            >>> arguments = {"sliding_window_shapes": (3, 8, 8), "strides": (3, 4, 4), "ssim_target": 0.9}
            >>> call = OcclusionCall.of(model, arguments, None, "auto", None)
            >>> tuning = call.tuned([x, x / 2], None, lambda tuning, done, total: None)
            >>> call.with_tuning(tuning).fingerprint == call.fingerprint
            False
        """
        names = ("sliding_window_shapes", "strides", "baselines", "target", "activation")
        given: dict[str, Any] = {name: self.arguments.get(name) for name in names}
        return self.occlusion.tune(images, **given, resume=known, on_progress=on_progress)

    def with_tuning(self, tuning: Tuning) -> OcclusionCall:
        """See `Call`."""
        found = hashed(self.fingerprint, tuning_digest(tuning))
        return replace(self, arguments={**self.arguments, "tuning": tuning}, fingerprint=found)


def grey_of_input(x: Tensor) -> AnyArray | None:
    """A picture or a volume in grey: the mean of its channels, from its least to its most.

    Args:
        x: The input, ``(channels, height, width)`` or ``(channels, depth, height, width)``.

    Returns:
        uint8 of its shape without channels; None for other inputs.

    Examples:
        >>> grey_of_input(torch.arange(12.0).reshape(1, 1, 3, 4)).tolist()
        [[[0, 23, 46, 70], [93, 116, 139, 162], [185, 209, 232, 255]]]
    """
    if x.ndim not in (3, 4):
        return None
    shape = x.shape[1:]
    return grey(stretched(x.float().mean(0).reshape(1, shape[0], -1))).reshape(tuple(shape))


def grey(picture: AnyArray) -> AnyArray:
    """An RGB picture, uint8 ``(height, width, 3)``, in grey: ``(height, width)``.

    Examples:
        >>> grey(np.full((1, 2, 3), 7, np.uint8)).tolist()
        [[7, 7]]
    """
    from PIL import Image

    return np.asarray(Image.fromarray(picture).convert("L"))


def predicted(heatmap: Heatmap, class_names: Sequence[str] | None) -> str:
    """The class that is predicted for the whole image: its name or number; empty without classes.

    Examples:
        >>> predicted(replace(heatmap, base_outputs=torch.tensor([0.5, 2.0])), ["cat", "dog"])
        'dog'
        >>> predicted(heatmap, None)
        ''
    """
    if heatmap.base_outputs is None:
        return ""
    index = int(heatmap.base_outputs.argmax())
    return str(index) if class_names is None else class_names[index]


def told(given: object) -> Any:
    """An argument in JSON: itself, or words and hashes by which others differ.

    Examples:
        >>> told((3, 8, 8)), told(0.5), told(torch.zeros(2)), told(hashed)
        ((3, 8, 8), 0.5, 'float32 (2,) af5570f5a1810b7a', 'krypton_engine.collection.call.hashed')
    """
    if given is None or isinstance(given, (str, bool, int, float)):
        return given
    if isinstance(given, (tuple, list)):
        return type(given)(told(item) for item in given)
    if isinstance(given, Tensor):
        return f"{str(given.dtype).removeprefix('torch.')} {tuple(given.shape)} {digest(given)}"
    if isinstance(given, Tuning):
        return f"tuning {tuning_digest(given)}"
    if isinstance(given, Filling):
        return given.describe()
    if (number := whole(given)) is not None:
        return number
    kind = given if hasattr(given, "__qualname__") else type(given)
    return f"{kind.__module__}.{kind.__qualname__}"


def hashed(*parts: object) -> str:
    """Sixteen hexadecimal digits by which lists of numbers and words differ.

    Examples:
        >>> hashed("a", 1), hashed("a", 2)
        ('2657442bb4a48d62', '0383dfec682ceddb')
    """
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def tuning_digest(tuning: Tuning) -> str:
    """A hash of a tuning.

    Examples:
        >>> tuning_digest(tuning) == tuning_digest(replace(tuning, confidence=0.5))
        False
    """
    return hashlib.sha256(tuning_files.packed(asdict(tuning))).hexdigest()[:16]


def fingerprint_of(model: object, preprocess: Callable[..., Tensor] | None) -> str:
    """A hash of a model and its preprocessing.

    Of modules it takes every weight and the printed form; of functions their code, and the modules that they
    name. Of a preprocessing it takes the answer to a picture or a scan of noise or, without any, its name.

    Args:
        model: A module, or another forward function.
        preprocess: From an RGB picture or a scan to an input; None for none.

    Examples:
        >>> before = fingerprint_of(model, None)
        >>> with torch.no_grad():
        ...     model[0].weight[0, 0, 0, 0] += 1
        >>> before == fingerprint_of(model, None)
        False
    """
    found = hashlib.sha256()
    code = getattr(model, "__code__", None)
    if code is not None:
        found.update(repr((model.__module__, model.__qualname__)).encode() + code.co_code)  # type: ignore[attr-defined]
    modules = [model] if isinstance(model, nn.Module) else modules_of(model)  # type: ignore[arg-type]
    for module in modules:
        found.update(repr(module).encode())
        for name, tensor in module.state_dict().items():
            held = tensor if isinstance(tensor, Tensor) else torch.empty(0)
            found.update(f"{name} {held.dtype} {tuple(held.shape)}".encode())
            found.update(held.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    if preprocess is not None:
        found.update(_answer(preprocess).encode())
    return found.hexdigest()[:16]


def _answer(preprocess: Callable[[Any], Tensor]) -> str:
    """A hash of what a preprocessing makes of noise, or its name where it takes none."""
    for noise in (noise_picture, noise_scan):
        with suppress(Exception):  # of a preprocessing for the other kind, or for images of a certain size
            return digest(preprocess(noise()))
    return str(told(preprocess))


def noise_scan() -> Scan:
    """A scan of noise, always the same.

    Examples:
        >>> noise_scan()
        Scan(1 x 24 x 40 x 56, 1 x 1 x 1 mm)
    """
    return read_scan(np.random.default_rng(0).random((24, *_PROBE), dtype=np.float32))


def noise_picture() -> PIL.Image.Image:
    """An RGB picture of noise, always the same.

    Examples:
        >>> noise_picture().size
        (56, 40)
    """
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (*_PROBE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
