"""The planes in which a page shows an input: a picture's own, three of a volume, the line of a signal."""

from __future__ import annotations

import itertools

import numpy as np

from krypton_engine.medical import Geometry
from krypton_widget.maps import Sent

AXES = {1: ("steps",), 2: ("rows", "columns"), 3: ("depth", "rows", "columns")}
"""Names of an input's axes, by their number."""

_LETTERS = ("R", "L"), ("A", "P"), ("S", "I")
"""The two ends of every axis of the world, the one towards which its millimetres rise first."""

_PLANES = ("axial", 2, 1, 0), ("coronal", 1, 2, 0), ("sagittal", 0, 2, 1)
"""Planes of a patient: the axis of the world across each, and those down and to the right on the screen."""


def axes_of(rank: int, geometry: Geometry | None = None) -> tuple[str, ...]:
    """The names of an input's axes.

    Examples:
        >>> axes_of(2), axes_of(3, Geometry.of_spacing((4, 5, 6), order="WHD"))
        (('rows', 'columns'), ('columns', 'rows', 'depth'))
    """
    names = AXES[rank]
    return names[::-1] if geometry is not None and geometry.order == "WHD" else names


def planes_of(rank: int, geometry: Geometry | None = None) -> list[Sent]:
    """The planes of an input of ``rank`` axes.

    Returns:
        For every plane its ``name``; the axis ``across`` it, the one ``down`` the screen and the one to the
        ``right`` (None where there is none); whether the last two are turned round (``flip``); and the
        letters at the screen's top, bottom, left and right (``ends``), if any are known. A patient is seen
        from the front, from below or from the left: left is at the right hand, and forward or up is up.

    Examples:
        >>> [(plane["name"], plane["across"]) for plane in planes_of(3)]
        [('depth', 0), ('row', 1), ('column', 2)]
        >>> planes_of(3, Geometry.of_spacing((4, 5, 6)))[0]["ends"]
        ['A', 'P', 'R', 'L']
    """
    if rank < 3:
        return [_plane("", None, 0 if rank == 2 else None, rank - 1)]
    if geometry is None:  # the first slice of a stack lies below
        return [
            _plane("depth", 0, 1, 2),
            _plane("row", 1, 0, 2, flip=(True, False)),
            _plane("column", 2, 0, 1, flip=(True, False)),
        ]
    directions = geometry.affine[:3, :3] / np.linalg.norm(geometry.affine[:3, :3], axis=0)
    # The axis of the image that runs along every axis of the world, as nearly as all three can.
    axis = max(
        itertools.permutations(range(3)), key=lambda order: sum(abs(directions[range(3), list(order)]))
    )
    rises = [bool(directions[world, axis[world]] > 0) for world in range(3)]
    return [
        _plane(
            name,
            axis[across],
            axis[down],
            axis[right],
            flip=(rises[down], rises[right]),
            ends=[*_LETTERS[down], *_LETTERS[right]],
        )
        for name, across, down, right in _PLANES
    ]


def _plane(
    name: str,
    across: int | None,
    down: int | None,
    right: int,
    flip: tuple[bool, bool] = (False, False),
    ends: list[str] | None = None,
) -> Sent:
    return {
        "name": name,
        "across": across,
        "down": down,
        "right": right,
        "flip": list(flip),
        "ends": ends or [],
    }
