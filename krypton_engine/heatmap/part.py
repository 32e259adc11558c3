"""A part of a map, measured by an earlier call: whether it is a part of this call's map."""

from __future__ import annotations

from krypton_engine.common.values import same
from krypton_engine.errors import InputError, OutdatedError
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.heatmap.identity import same_outputs

RECORDED = ("values", "measured", "classes", "class_values", "outputs")
"""Attributes of a map that a part of it gives to the whole."""


def check_part(name: str, part: Heatmap, mine: Heatmap) -> None:
    """Refuse a part of another map.

    Args:
        name: The argument that a user gave the part as, for messages.
        part: The part.
        mine: The map of this call, as yet without any value.

    Raises:
        InputError: Window, target, classes, image or baseline are others.
        OutdatedError: The part's un-occluded output is not this call's.

    Examples:
        >>> from dataclasses import replace
        >>> check_part("resume", heatmap, heatmap)
        >>> check_part("resume", replace(heatmap, target=1), heatmap)
        Traceback (most recent call last):
        krypton_engine.errors.InputError: resume is Heatmap(...), which is no part of this call's map: ...
    """
    tensors = [(getattr(mine, field), getattr(part, field)) for field in RECORDED]
    if (mine.window, mine.target) != (part.window, part.target) or any(
        (a is None) != (b is None) or (a is not None and (a.shape, a.dtype) != (b.shape, b.dtype))
        for a, b in tensors
    ):
        raise InputError(
            name,
            repr(part),
            problem="which is no part of this call's map: window, target and classes must be the same",
        )
    if mine.image is not None and part.image is not None and not same(mine.image, part.image):
        raise InputError(name, "the heatmap of another image")
    if None not in (mine.baseline, part.baseline) and mine.baseline != part.baseline:
        raise InputError(
            name, f"a heatmap with another baseline ({part.baseline} there, {mine.baseline} here)"
        )
    if not _alike(mine, part):
        raise OutdatedError(
            name,
            repr(part),
            problem=(
                "whose un-occluded output is not this call's: the model, its weights, activation= or "
                "additional_forward_args= have changed since the map was made"
            ),
        )


def _alike(mine: Heatmap, other: Heatmap) -> bool:
    """Whether two heatmaps have the same un-occluded outputs."""
    pairs = [(mine.base, other.base)]
    if mine.base_outputs is not None and other.base_outputs is not None:
        pairs.append((mine.base_outputs, other.base_outputs))
    return all(same_outputs(a, b) for a, b in pairs)
