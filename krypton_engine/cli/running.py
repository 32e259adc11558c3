"""A heatmap on the command line, which Ctrl-C cuts short."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from krypton_engine.cli.command import INTERRUPTED
from krypton_engine.cli.text import counted, tell

if TYPE_CHECKING:
    from torch import Tensor

    from krypton_engine.attr.occlusion import KryptonOcclusion
    from krypton_engine.heatmap.heatmap import Heatmap
    from krypton_engine.perturbation.windows import SlidingWindow
    from krypton_engine.tuning.tuning import Tuning


def run_heatmap(
    occlusion: KryptonOcclusion,
    x: Tensor,
    window: SlidingWindow,
    baseline: Tensor,
    target: int,
    activation: str,
    ssim_target: float | None = None,
    tuning: Tuning | None = None,
) -> tuple[Heatmap, bool]:
    """The heatmap and whether it is whole: Ctrl-C leaves it as far as it came."""
    so_far: Heatmap | None = None

    def keep(heatmap: Heatmap, done: int, total: int) -> None:
        nonlocal so_far
        so_far = heatmap

    try:
        heatmap = occlusion.heatmap(
            x,
            window.shape,
            window.strides,
            baseline,
            target,
            activation=None if activation == "none" else "softmax",
            schedule="coarse to fine",
            show_progress=sys.stderr.isatty(),
            on_progress=keep,
            ssim_target=ssim_target,
            tuning=tuning,
        )
    except KeyboardInterrupt:
        if so_far is None:
            raise
        return so_far, False
    return heatmap, True


def progress(heatmap: Heatmap) -> str:
    """How many positions of a heatmap have been measured."""
    return f"{int(heatmap.measured.sum())} of {counted(heatmap.measured.numel(), 'position')}"


def interrupted(heatmap: Heatmap, outputs: Sequence[Path]) -> int:
    """Print what an interrupted run has left where, and return the exit status."""
    tell(
        f"krypton: interrupted; the {progress(heatmap)} measured so far are in {', '.join(map(str, outputs))}"
    )
    return INTERRUPTED
