"""A heatmap on the command line, which Ctrl-C cuts short."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from krypton_engine.cli.command import INTERRUPTED
from krypton_engine.cli.text import counted, tell

if TYPE_CHECKING:
    from krypton_engine.attr.request import MapRequest, Schedule
    from krypton_engine.heatmap.heatmap import Heatmap
    from krypton_engine.perturbation.fillings import Filling
    from krypton_engine.planning.planner import Preparer
    from krypton_engine.planning.question import Question
    from krypton_engine.tuning.tuning import Tuning


def request_for(
    question: Question,
    target: int | None,
    activation: str,
    ssim_target: float | None = None,
    tuning: Tuning | None = None,
    filling: Filling | None = None,
    region: Sequence[int] | None = None,
) -> MapRequest:
    """The request for a heatmap; positions of a window come coarse to fine.

    Examples:
        >>> from krypton_engine.attr.inputs import question_of
        >>> question = question_of(model, x, (3, 8, 8), (3, 4, 4), baselines=0.5, additional=None)
        >>> request_for(question, 2, "softmax", ssim_target=0.9).rule.ssim_target
        0.9
    """
    from krypton_engine.attr import checks
    from krypton_engine.attr.request import map_request, request_filled
    from krypton_engine.perturbation.windows import SlidingWindow

    activate = checks.activation_of(None if activation == "none" else "softmax")
    rule = checks.rule_of(ssim_target, tuning)
    has_grid = isinstance(question.windows[0], SlidingWindow)

    def ask(one: Question) -> MapRequest:
        schedule: Schedule = "coarse to fine" if has_grid else "rows"
        return map_request(one, target, activate, region, schedule=schedule, rule=rule, tuning=tuning)

    return ask(question) if filling is None else request_filled(question, filling, ask)


def run_heatmap(preparer: Preparer, request: MapRequest, began: float) -> tuple[Heatmap, bool]:
    """The heatmap and whether it is whole: Ctrl-C leaves it as far as it came.

    Examples:
        >>> from krypton_engine.attr.inputs import question_of
        >>> from krypton_engine.planning.planner import Preparer
        >>> question = question_of(lambda images: images.mean((2, 3)), x, (3, 8, 8), (3, 4, 4), 0.5, None)
        >>> request = request_for(question, target=0, activation="none")
        >>> heatmap, whole = run_heatmap(Preparer("reference", None), request, began=0.0)
        >>> heatmap.drop.shape, whole
        (torch.Size([5, 4]), True)
    """
    import torch

    from krypton_engine.attr import explain
    from krypton_engine.heatmap.identity import Origin

    so_far: Heatmap | None = None

    def keep(heatmap: Heatmap, done: int, total: int) -> None:
        nonlocal so_far
        so_far = heatmap

    try:
        with torch.no_grad():
            heatmap = explain.heatmap(preparer, request, began, keep, sys.stderr.isatty(), Origin())
    except KeyboardInterrupt:
        if so_far is None:
            raise
        return so_far, False
    return heatmap, True


def progress(heatmap: Heatmap) -> str:
    """The number of positions of a heatmap that have been measured, in words.

    Examples:
        >>> progress(heatmap)
        '4 of 4 positions'
    """
    return f"{int(heatmap.measured.sum())} of {counted(heatmap.measured.numel(), 'position')}"


def interrupted(heatmap: Heatmap, outputs: Sequence[Path]) -> int:
    """Print how far an interrupted run came and which files hold it, and return the exit status.

    Examples:
        >>> interrupted(heatmap, [Path("map.png")])
        130
    """
    tell(
        f"krypton: interrupted; the {progress(heatmap)} measured so far are in {', '.join(map(str, outputs))}"
    )
    return INTERRUPTED
