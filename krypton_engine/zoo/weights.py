"""State dicts of users: read from a file, checked against a model, loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from krypton_engine.common.text import one_line
from krypton_engine.errors import InputError

_NESTED = ("state_dict", "model_state_dict", "model")
"""Names under which a checkpoint may hold its state dict."""

_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DataParallel and torch.compile put before every name."""


def read_state_dict(weights: str | os.PathLike[str], own: Iterable[str] = ()) -> dict[str, torch.Tensor]:
    """The state dict of a file, bare or inside a checkpoint, without the prefixes of wrappers.

    Args:
        weights: Path of the file.
        own: Names in the model's own state dict: a prefix that all of these have stays.

    Raises:
        InputError: The file is missing, or holds no state dict of plain numbers.

    Examples:
        >>> torch.save({"state_dict": {"module.weight": torch.ones(2)}}, "best.pt")
        >>> read_state_dict("best.pt")
        {'weight': tensor([1., 1.])}
    """
    if not isinstance(weights, (str, os.PathLike)):
        raise InputError(
            "weights",
            type(weights).__name__,
            '"pretrained", "random", or a path (of a state dict, saved with torch.save)',
        )
    path = Path(weights)
    if not os.path.isfile(path):
        raise InputError(
            "weights",
            repr(os.fspath(weights)),
            '"pretrained", "random", or the path of a PyTorch state dict',
            "which is no file",
        )
    try:
        loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may say anything
        raise InputError(
            "weights",
            repr(os.fspath(weights)),
            "a file made by torch.save(model.state_dict(), path)",
            f"which cannot be read as a state dict: {one_line(error)}",
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
            "weights",
            repr(os.fspath(weights)),
            f"a mapping of names to tensors, bare or under {', '.join(map(repr, _NESTED))}",
            "which holds no state dict",
        )
    state = dict(loaded)
    for key, tensor in state.items():
        if tensor.is_meta or tensor.is_quantized or tensor.layout != torch.strided:
            kind = "meta" if tensor.is_meta else "quantised" if tensor.is_quantized else "sparse"
            raise InputError(
                "weights", repr(os.fspath(weights)), "plain numbers", f"which holds a {kind} tensor, {key}"
            )
    own = tuple(own)
    while state and (wrapper := next((w for w in _WRAPPERS if all(k.startswith(w) for k in state)), None)):
        if own and all(key.startswith(wrapper) for key in own):
            break
        state = {key.removeprefix(wrapper): value for key, value in state.items()}
    return state


def load_state_dict(
    model: nn.Module, state: Mapping[str, torch.Tensor], weights: str | os.PathLike[str]
) -> None:
    """Load a state dict into a model.

    Args:
        model: Changed in place.
        state: State dict that `read_state_dict` gave.
        weights: The file, for the message.

    Raises:
        InputError: Names, shapes or kinds of numbers differ from the model's.

    Examples:
        >>> layer = nn.Linear(2, 1)
        >>> load_state_dict(layer, {"weight": torch.ones(1, 2), "bias": torch.ones(1)}, "best.pt")
        >>> layer(torch.ones(2)).tolist()
        [3.0]
    """
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
        raise InputError(
            "weights", repr(os.fspath(weights)), problem=f"which does not fit the model:\n{told}"
        )
    model.load_state_dict(dict(state))


def _kind(tensor: torch.Tensor) -> str:
    return "complex" if tensor.is_complex() else "real" if tensor.is_floating_point() else "whole"
