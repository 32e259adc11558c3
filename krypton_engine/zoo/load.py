"""Anybody's model, ready to be explained: one that is known by name, or a user's own."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from krypton_engine.common.text import one_line
from krypton_engine.errors import InputError
from krypton_engine.medical import Scan
from krypton_engine.zoo.calibration import calibrate_batch_norm
from krypton_engine.zoo.messages import FAILURES
from krypton_engine.zoo.names import ClassNames, named_classes
from krypton_engine.zoo.networks import Recipe, recipe_of
from krypton_engine.zoo.preprocess import Preprocess, as_taken, changed, stretched
from krypton_engine.zoo.weights import load_state_dict, read_state_dict

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from numpy.typing import NDArray

_RANDOM_NOTE = "random weights (seed 0, BatchNorm statistics from noise): the map means nothing"


@dataclass(frozen=True)
class ZooModel:
    """A model with its preprocessing, its class names and the way back to pictures.

    Attributes:
        name: Name by which the model was asked for.
        model: The model in eval mode; takes float ``(N, C, H, W)``, returns one row of class scores an image:
            logits, except that a model of the user's returns whatever it returns.
        preprocess: Turns a picture into the model's input ``(C, H, W)``; of `load_scan_model` a scan into one
            of the scan's size.
        input_shape: The shape of that input.
        class_names: One a column of the output, or ``None`` where they are not known.
        note: Source of the weights in one line, or that they are random and what follows.
        display: Turns an input ``(C, H, W)`` into an RGB picture, uint8 ``(H, W, 3)``, to lay maps over.
    """

    name: str
    model: nn.Module
    preprocess: Callable[[Any], torch.Tensor]
    input_shape: tuple[int, ...]
    class_names: list[str] | None
    note: str
    display: Callable[[torch.Tensor], NDArray[np.uint8]]


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
        std: Number that the rest is divided by, as ``mean``; 1 for ``"module:factory"``.
        class_names: One a class, or a mapping from class to name (`names_in_order`), or a file of them:
            ``.json``, or text with one a line.

    Returns:
        The model in eval mode with its preprocessing, class names and a note on its weights.

    Raises:
        InputError: An argument cannot be used, a package is missing, or weights could not be had.

    Examples:
        >>> loaded = load_model("torch.nn:Flatten", size=4)  # or "mymodels:build"
        >>> loaded.input_shape, loaded.note
        ((3, 4, 4), 'weights as torch.nn:Flatten made them')
    """
    if not isinstance(spec, str):
        raise InputError("spec", type(spec).__name__, "a string")
    load = _load_users_model if ":" in spec else _load_known_model
    found = load(spec, weights, size, mean, std, class_names)
    if weights in ("pretrained", "random") and (size, mean, std) == (None, None, None):
        _SPELLED[found.model] = [spec] if weights == "pretrained" else [spec, "--weights", "random"]
    return found


_SPELLED: WeakKeyDictionary[nn.Module, list[str]] = WeakKeyDictionary()
"""What follows ``--model`` on the command line, by the model that was loaded so."""


def spelled(model: object) -> list[str] | None:
    """What follows ``--model`` on the command line for a model of `load_model`; None for any other.

    Examples:
        >>> spelled(load_model("squeezenet1_1", weights="random").model), spelled(torch.nn.Identity())
        (['squeezenet1_1', '--weights', 'random'], None)
    """
    return _SPELLED.get(model) if isinstance(model, nn.Module) else None


def _load_known_model(
    spec: str,
    weights: str | os.PathLike[str],
    size: int | Sequence[int] | None,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
    class_names: ClassNames | str | os.PathLike[str] | None,
) -> ZooModel:
    recipe = recipe_of(spec)
    preprocess = changed(recipe.preprocess, size, mean, std)
    if weights == "pretrained":
        model, note = recipe.pretrained(), recipe.note
    elif weights == "random":
        model, note = recipe.build(None), _RANDOM_NOTE
        calibrate_batch_norm(model, preprocess.input_shape)
    else:
        state = {k: v for k, v in read_state_dict(weights).items() if not k.startswith(recipe.ignored_keys)}
        model, note = _build_for(recipe, state), f"weights from {os.fspath(weights)}"
        load_state_dict(model, state, weights)
    classes = _number_of_classes(spec, model.eval(), preprocess.input_shape)
    names = named_classes(class_names, classes)
    if names is None:
        usual = recipe.class_names()
        names = usual if len(usual) == classes else None
    return ZooModel(spec, model, preprocess, preprocess.input_shape, names, note, preprocess.picture)


def _build_for(recipe: Recipe, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """Builds the model with as many classes as the checkpoint's last layer has."""
    with torch.device("meta"):
        head = list(recipe.build(None).state_dict())[-1]
    known = head in state and state[head].ndim > 0 and state[head].is_contiguous()  # no row stands for many
    return recipe.build(state[head].shape[0] if known else None)


def _number_of_classes(spec: str, model: nn.Module, shape: tuple[int, ...]) -> int:
    """The number of scores that the model gives for an input of this shape: found by running it once."""
    try:
        with torch.no_grad():
            out = model(as_taken(model, torch.zeros(1, *shape)))
    except FAILURES as error:
        raise InputError(
            f"the model {spec!r}",
            f"an input of shape {(1, *shape)}",
            "another size, its height and width" if len(shape) == 3 else "a scan of other sizes",
            one_line(error),
            verb="does not take",
        ) from error
    if not isinstance(out, torch.Tensor) or out.ndim != 2 or out.shape[0] != 1:
        got = f"shape {tuple(out.shape)}" if isinstance(out, torch.Tensor) else type(out).__name__
        raise InputError(f"the model {spec!r}", got, "scores of shape (N, classes)", verb="returns")
    return int(out.shape[1])


# The user's own


def _load_users_model(
    spec: str,
    weights: str | os.PathLike[str],
    size: int | Sequence[int] | None,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
    class_names: ClassNames | str | os.PathLike[str] | None,
) -> ZooModel:
    model, preprocess, names, note = _made(spec, weights)
    if preprocess is None and size is None:
        raise InputError(
            "size",
            "not given",
            "a number, or height and width (or a factory that returns the model and its preprocessing)",
            f"and {spec!r} has none of its own",
        )
    if size is None and (mean is not None or std is not None):
        raise InputError(
            "size",
            "not given",
            "a size beside mean or std",
            f"and the factory of {spec!r} gives the preprocessing",
        )
    display: Callable[[torch.Tensor], NDArray[np.uint8]]
    if preprocess is None or size is not None:
        preprocess, classes = _plain_preprocess(spec, model, size, mean, std)
        shape, display = preprocess.input_shape, preprocess.picture
    else:
        preprocess = functools.partial(_preprocessed, spec, preprocess)
        shape, display = _probe(preprocess), stretched
        classes = _number_of_classes(spec, model, shape)
    named = named_classes(names if class_names is None else class_names, classes)
    return ZooModel(spec, model, preprocess, shape, named, note, display)


def load_scan_model(
    spec: str,
    scan: Scan,
    *,
    weights: str | os.PathLike[str] = "pretrained",
    class_names: ClassNames | str | os.PathLike[str] | None = None,
) -> tuple[ZooModel, torch.Tensor]:
    """Loads a user's own model of scans, and makes its input of one.

    Args:
        spec: ``"module:factory"``, as of `load_model`; the preprocessing is a callable from the scan to a
            float tensor of its size, with any channels; without one the model takes the scan's own numbers.
        scan: The scan.
        weights: As of `load_model`.
        class_names: As of `load_model`.

    Returns:
        The model, and its input ``(1, C, D, H, W)``.

    Raises:
        InputError: An argument cannot be used, or the preprocessing gives no input of the scan's size.

    Examples:
        >>> from krypton_engine.medical import read_scan
        >>> loaded, x = load_scan_model("torch.nn:Flatten", read_scan(np.zeros((2, 3, 4))))
        >>> loaded.note, x.shape
        ('weights as torch.nn:Flatten made them', torch.Size([1, 1, 2, 3, 4]))
    """
    if ":" not in spec:
        raise InputError("spec", repr(spec), '"module:factory" of a network of scans', "which takes pictures")
    model, preprocess, names, note = _made(spec, weights)

    def input_of(scan: Scan) -> torch.Tensor:
        x = scan.tensor if preprocess is None else _preprocessed(spec, preprocess, scan, scan.tensor.ndim)
        if x.shape[1:] != scan.tensor.shape[1:]:
            raise InputError(
                f"the preprocessing of {spec!r}",
                f"shape {tuple(x.shape)}",
                f"the scan's size, {tuple(scan.tensor.shape[1:])}, or a map would not lie on it",
                verb="returns",
            )
        return as_taken(model, x)

    x = input_of(scan)
    shape = tuple(x.shape)
    named = named_classes(
        names if class_names is None else class_names, _number_of_classes(spec, model, shape)
    )
    return ZooModel(spec, model, input_of, shape, named, note, stretched), x[None]


def _made(
    spec: str, weights: str | os.PathLike[str]
) -> tuple[nn.Module, Callable[[Any], torch.Tensor] | None, ClassNames | None, str]:
    """What a factory makes, the model in eval mode with the weights asked for, and a note on these."""
    if weights == "random":
        raise InputError(
            "weights",
            '"random"',
            '"pretrained" (leave them so) or the path of a state dict',
            f"which {spec!r} cannot be given: its weights are what the factory makes",
        )
    model, preprocess, names = _call_factory(spec)
    note = f"weights as {spec} made them"
    if weights != "pretrained":
        load_state_dict(model, read_state_dict(weights, model.state_dict()), weights)
        note = f"weights from {os.fspath(weights)}"
    return model.eval(), preprocess, names, note


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
    colour = changed(Preprocess((1, 1), (0.0,) * 3, (1.0,) * 3), size, mean, std)
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


def _call_factory(
    spec: str,
) -> tuple[nn.Module, Callable[[PIL.Image.Image], torch.Tensor] | None, ClassNames | None]:
    """Imports ``"module:factory"`` with the working directory on the path, and calls it."""
    module_name, _, attribute = spec.partition(":")
    with _on_path(os.getcwd()):
        try:
            found: Any = importlib.import_module(module_name)
            for part in attribute.split("."):
                found = getattr(found, part)
            made = found if isinstance(found, nn.Module) else found()
        except FAILURES as error:
            raise InputError(
                "spec",
                repr(spec),
                '"module:factory", importable from the working directory, the factory callable without '
                "arguments",
                f"which gave no model: {type(error).__name__}: {one_line(error)}",
            ) from error
    parts = made if isinstance(made, tuple) else (made,)
    model, preprocess, names = (*parts, None, None)[:3]
    if not isinstance(model, nn.Module) or len(parts) > 3 or not (preprocess is None or callable(preprocess)):
        returned = ", ".join(type(p).__name__ for p in parts)
        raise InputError(
            "spec",
            repr(spec),
            "a factory of a torch.nn.Module, (model, preprocess) or (model, preprocess, class_names)",
            f"whose factory returns {returned}",
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
    spec: str, preprocess: Callable[[Any], torch.Tensor], image: PIL.Image.Image | Scan, rank: int = 3
) -> torch.Tensor:
    """The input that the user's preprocessing makes of a picture, or of a scan.

    Raises:
        InputError: The preprocessing raises, or gives no float tensor ``(C, H, W)``, or ``(C, D, H, W)``.
    """
    try:
        made = preprocess(image)
    except FAILURES as error:
        given = "a scan" if isinstance(image, Scan) else "an RGB picture"
        raise InputError(
            f"the preprocessing of {spec!r}",
            f"{given}: {type(error).__name__}: {one_line(error)}",
            verb="fails on",
        ) from error
    if not isinstance(made, torch.Tensor) or made.ndim != rank or not made.is_floating_point():
        got = f"{made.dtype} {tuple(made.shape)}" if isinstance(made, torch.Tensor) else type(made).__name__
        accepted = f"a float tensor ({'C, H, W' if rank == 3 else 'C, D, H, W'})"
        raise InputError(f"the preprocessing of {spec!r}", got, accepted, verb="returns")
    return made
