"""A heatmap in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from krypton_engine.common.figures import together
from krypton_engine.heatmap import picture
from krypton_engine.heatmap.status import Status

if TYPE_CHECKING:
    from krypton_engine.heatmap.heatmap import Heatmap


def summary(heatmap: Heatmap) -> str:
    """A map's grid, target, span of values, share of measured positions, time, and probable SSIM if any.

    Examples:
        >>> summary(heatmap)
        'Heatmap(2x2, target=0, base=1, values=0.5..1.25, measured=100%, 0.00 s)'
    """
    known = heatmap.values[heatmap.status != Status.UNKNOWN]
    finite = known[known.isfinite()].double()
    grid = "x".join(map(str, heatmap.window.grid_shape)) or "1"
    share = float(heatmap.measured.double().mean())
    ends = [float(finite.min()), float(finite.max())] if finite.numel() else []
    bases, written = together([float(heatmap.base)] if heatmap.base.numel() == 1 else [], ends)
    span = "..".join(written) or ("none is finite" if known.numel() else "nothing measured")
    base = "".join(bases) or f"{tuple(heatmap.base.shape)}"
    return (
        f"Heatmap({grid}, target={heatmap.target}, base={base}, values={span}, "
        f"measured={share:.0%}, {heatmap.seconds:.2f} s"
        + picture.not_finite(heatmap._shown, ", {} not finite")
        + ("" if heatmap.ssim_estimate is None else f", SSIM {heatmap.ssim_estimate}")
        + ")"
    )
