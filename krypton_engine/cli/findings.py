"""The findings of a heatmap, in words and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from krypton_engine.cli.model import class_name
from krypton_engine.cli.text import counted, row
from krypton_engine.common.figures import together

if TYPE_CHECKING:
    from krypton_engine.approximation.ssim import SsimEstimate
    from krypton_engine.heatmap.heatmap import Heatmap
    from krypton_engine.tuning.tuning import Tuning
    from krypton_engine.zoo import ZooModel


def show_findings(heatmap: Heatmap, model: ZooModel, name: str) -> None:
    """Print the extremes of a heatmap and its changes of class, of measured positions alone.

    Examples:
        >>> show_findings(heatmap, zoo_model, "cat")
        drop        of cat, 1 for the whole picture; the colours end at 0.5
                    most 0.5, at rows 0 to 11, columns 0 to 9: occluded, 1 becomes 0.5
                    least -0.25, at rows 12 to 23, columns 10 to 19: occluded, 1 becomes 1.25
    """
    from krypton_engine.perturbation.regions import Regions

    drops, base = heatmap.drop.reshape(-1), float(heatmap.base)
    measured = heatmap.measured.reshape(-1)
    finite = (measured & drops.isfinite()).nonzero()[:, 0]
    extremes = [finite[drops[finite].argmax()], finite[drops[finite].argmin()]] if len(finite) else []
    lost = [float(drops[position]) for position in extremes]
    is_picture = len(heatmap.window.input_shape) == 3
    ((told,), end, *written) = together(
        [base], [heatmap.limits()[1]], *(group for drop in lost for group in ([drop], [base, base - drop]))
    )
    if lost and not any(lost) and not bool(drops[drops.isfinite()].any()):
        row("drop", f"of {name}: nothing changes, {told} wherever the window is")
    else:
        whole = f"the whole {'picture' if is_picture else 'scan'}; the colours end at {end[0]}"
        row("drop", f"of {name}, {told} for {whole}")
        for word, position in zip(("most", "least"), extremes, strict=False):
            (drop,), (before, after), *written = written
            box = heatmap.window.boxes(position[None].numpy())[0, 1:].tolist()
            named = zip(("slices", "rows", "columns")[-len(box) :], box, strict=True)
            place = ", ".join(f"{axis} {first} to {stop - 1}" for axis, (first, stop) in named)
            within = ""
            if isinstance(heatmap.window, Regions):
                within = f"region {heatmap.window.ids[position]}, within "
            row(
                "",
                f"{word} {drop}, at {within}{place}: occluded, {before} becomes {after}",
            )
    if count := int((measured & ~drops.isfinite()).sum()):
        row("", f"{counted(count, 'position')} {'is' if count == 1 else 'are'} not finite")
    if heatmap.classes is not None and heatmap.base_outputs is not None:
        predicted = int(heatmap.base_outputs.argmax())
        flipped = heatmap.classes[(heatmap.classes >= 0) & (heatmap.classes != predicted)]
        if len(flipped):
            other = class_name(model, int(flipped.mode().values))
            count, total = int(measured.sum()), len(measured)
            of = (
                counted(total, "position") if count == total else f"the {counted(count, 'measured position')}"
            )
            row("answer", f"another class at {len(flipped)} of {of}, mostly {other}")


def approximate(heatmap: Heatmap) -> str:
    """Counts of exact, trimmed, linearised and interpolated values, in words; empty where all are exact.

    Examples:
        >>> from dataclasses import replace
        >>> approximate(replace(heatmap, measured=torch.tensor([[True, True], [True, False]])))
        '75% of 4 positions measured (3 exact, 1 interpolated)'
    """
    from krypton_engine.heatmap.status import Status

    counts = heatmap.status.flatten().bincount(minlength=len(Status)).tolist()
    total = heatmap.status.numel()
    if counts[Status.EXACT] == total:
        return ""
    told = [f"{counts[Status.EXACT]} exact"] + [
        f"{counts[status]} {word}"
        for status, word in (
            (Status.TRIMMED, "trimmed"),
            (Status.LINEARISED, "linearised"),
            (Status.INTERPOLATED, "interpolated"),
            (Status.UNKNOWN, "unknown"),
        )
        if counts[status]
    ]
    return (
        f"{heatmap.measured.double().mean():.0%} of {counted(total, 'position')} measured ({', '.join(told)})"
    )


def similarity(heatmap: Heatmap) -> str:
    """The estimated SSIM with the exact map, for a title; nothing if there is none.

    Examples:
        >>> from dataclasses import replace
        >>> from krypton_engine.approximation.ssim import SsimEstimate
        >>> similarity(replace(heatmap, ssim_estimate=SsimEstimate(0.9, 0.8, 0.95, "online")))
        ', SSIM about 0.900 (0.800 to 0.950)'
    """
    estimate = heatmap.ssim_estimate
    return "" if estimate is None else f", SSIM about {estimate.value:.3f} ({_range(estimate)})"


def _range(estimate: SsimEstimate) -> str:
    return f"{estimate.low:.3f} to {estimate.high:.3f}"


def reached(heatmap: Heatmap, ssim_target: float, tuning: Tuning | None) -> str:
    """The similarity of a finished map with the exact one, and the source of that number, in words.

    Examples:
        >>> reached(heatmap, 0.9, None)
        'exact: all was measured, since no smaller part was certain enough'
    """
    estimate = heatmap.ssim_estimate
    if not approximate(heatmap):
        told = "exact: all was measured"
        if ssim_target < 1 and tuning is not None and len(tuning.images) < tuning.fewest:
            return (
                f"{told}, since {tuning.confidence:.0%} confidence takes a tuning of {tuning.fewest} "
                f"pictures, and this one has {len(tuning.images)}"
            )
        return told if ssim_target == 1 else f"{told}, since no smaller part was certain enough"
    assert estimate is not None
    how = "estimated on the way" if tuning is None else f"tuned on {counted(len(tuning.images), 'picture')}"
    return f"SSIM with the exact map about {estimate.value:.3f} ({_range(estimate)}), {how}"
