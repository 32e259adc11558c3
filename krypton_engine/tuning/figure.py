"""The picture of a tuning: SSIM against seconds, and where a target stops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from krypton_engine.tuning.curves import Curve, Stop

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def trade_off(
    curves: Sequence[Curve], stops: Sequence[Stop], ssim_target: float, confidence: float
) -> Figure:
    """The trade-off as a Matplotlib figure.

    Args:
        curves: One for each sample.
        stops: Point at which each of these stops.
        ssim_target: The target to mark.
        confidence: Share of images that meet their target.

    Examples:
        >>> drawn = trade_off(tuning.curves, tuning.choose(0.9).stops, ssim_target=0.9, confidence=0.9)
        >>> drawn.axes[0].get_title(loc="left")
        'Where a target of 0.9 stops (90% confidence)'
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    drawn = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = drawn.subplots()
    lowest = ssim_target
    for curve, stop in zip(curves, stops, strict=True):
        steps = zip(curve.computed, curve.counts, strict=True)
        took = [curve.seconds_of(n, looks, cheaply) for looks, (n, cheaply) in enumerate(steps, 1)]
        axes.plot([*took, curve.exact_seconds], [*curve.ssim, 1.0], color="#3b6ea5", alpha=0.45, linewidth=1)
        axes.plot(curve.exact_seconds, 1.0, "o", color="#3b6ea5", markerfacecolor="white", markersize=4.5)
        axes.plot(stop.seconds, stop.ssim, "o", color="#b5322e", markersize=5, zorder=3)
        lowest = min([lowest, *curve.ssim])
    axes.axhline(ssim_target, color="#b5322e", linewidth=0.8, linestyle=(0, (4, 3)))
    axes.annotate(
        f"target {ssim_target:g}", (1, ssim_target), (0, 3), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="right", fontsize=8.5, color="#b5322e",
    )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
    # What is far below the target is of no use to anybody.
    axes.set_ylim(max(lowest, ssim_target - 0.35) - 0.01, 1.012)
    axes.set_xlabel("seconds", color="0.3")
    axes.set_ylabel("SSIM with the exact map", color="0.3")
    axes.set_title(
        f"Where a target of {ssim_target:g} stops ({confidence:.0%} confidence)",
        fontsize=11.5, fontweight="bold", loc="left", pad=22,
    )  # fmt: skip
    axes.annotate(
        f"a line an image, {len(curves)} in all; red: good enough; ring: its exact map",
        (0, 1), (0, 9), xycoords="axes fraction", textcoords="offset points", fontsize=9, color="0.3",
    )  # fmt: skip
    axes.tick_params(colors="0.3", labelsize=9)
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return drawn
