"""``krypton demo``."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from krypton_engine.cli import scan as scans
from krypton_engine.cli.command import Command
from krypton_engine.cli.findings import show_findings
from krypton_engine.cli.model import best_classes, class_name, question_of_picture, scores_of
from krypton_engine.cli.options import Extents, extents
from krypton_engine.cli.picture import baseline_of, input_of, window_of, window_text
from krypton_engine.cli.running import interrupted, progress, request_for, run_heatmap
from krypton_engine.cli.saving import check_outputs, save
from krypton_engine.cli.text import command_lines, counted, duration, paragraph, row, say, size_text, width
from krypton_engine.common.figures import figure

if TYPE_CHECKING:
    from torch import Tensor

    from krypton_engine.attr.occlusion import KryptonOcclusion
    from krypton_engine.medical import Scan
    from krypton_engine.perturbation.windows import SlidingWindow
    from krypton_engine.zoo import ZooModel


_CAPTUM = {2: 5, 3: 3}
"""Windows along each axis of a picture, and of a volume, that Captum is timed on."""


@dataclass(frozen=True)
class _Shown:
    """A model and what it is asked of.

    Attributes:
        model: The model.
        source: Name of the picture or the scan, and a note on it.
        x: The model's input.
        window: The positions.
        baseline: What covers, as an input; black.
        activation: Activation of the outputs, by its name.
        files: Where the map goes, the picture first.
        scan: The scan that the input is of; None for a picture.
        told: What the picture shows; braces stand for the name of what is explained.
        command: The user's next command.
    """

    model: ZooModel
    source: tuple[str, str]
    x: Tensor
    window: SlidingWindow
    baseline: Tensor
    activation: str
    files: list[Path]
    scan: Scan | None
    told: str
    command: str


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path(), help="where to write (here)")
    parser.add_argument(
        "--volume",
        action="store_true",
        help="explain a brain scan in 3-D instead, by a network that finds lesions",
    )
    parser.add_argument(
        "--stride",
        metavar="N",
        type=extents,
        help="step of the window; 16 is a quick look (4; of a volume 16mm)",
    )


def _of_slice(arguments: argparse.Namespace) -> _Shown:
    """A real MRI slice and a real VGG16."""
    from krypton_engine import zoo
    from krypton_engine.heatmap.files import ENDINGS

    files = _files(arguments, "krypton-demo", [".png", ".npz"], ENDINGS)
    stride = (arguments.stride or Extents((4.0,), False)).pixels("--stride")
    model, image = zoo.load_model(zoo.DEMO_MODEL), zoo.load_image(zoo.DEMO_IMAGE)
    x = input_of(model, image, zoo.DEMO_IMAGE)
    return _Shown(
        model,
        (zoo.DEMO_IMAGE, f"{size_text(x.shape[2:])} pixels as the model sees it"),
        x,
        window_of((16, 16), stride, x),
        baseline_of("black", model, image, x),
        "softmax",
        files,
        None,
        'The picture: red is what the answer "{}" rests on, blue what speaks against it. Each position is '
        "drawn by how much the probability drops with its window black.",
        "krypton explain photo.jpg --model efficientnet-lite0 --window 32 --stride 8",
    )


def _of_volume(arguments: argparse.Namespace) -> _Shown:
    """The brain of the MNI152 template with a lesion that nobody has, and a U-Net that finds such."""
    from krypton_engine import zoo
    from krypton_engine.heatmap.files import ENDINGS
    from krypton_engine.heatmap.placed import ENDINGS as ENDINGS_OF_SCANS
    from krypton_engine.zoo import lesions

    endings = {**ENDINGS, **ENDINGS_OF_SCANS}
    files = _files(arguments, "krypton-demo-volume", [".png", ".nii.gz"], endings)
    scan, share = lesions.brain_scan()
    sides = " x ".join(f"{step:g}" for step in scan.geometry.spacing)
    model, x = zoo.load_scan_model(lesions.LESION_FINDER, scan)
    window = scans.window_of(Extents((16.0,), True), arguments.stride or Extents((16.0,), True), scan, x)
    return _Shown(
        model,
        (
            "the MNI152 brain",
            f"of {sides} mm, with a drawn lesion of {float(share.sum()) * lesions.MILLILITRES:.1f} ml",
        ),
        x,
        window,
        scans.baseline_of("black", x),
        "none",
        files,
        scan,
        "The picture: three slices through the place that counts most for {}. Red is what the answer rests "
        "on, blue what speaks against it. Each position is drawn by how much the answer drops with its "
        "window black.",
        "krypton explain scan.nii.gz --model mynets:build --window 16mm --stride 8mm -o map.nii.gz",
    )


def _files(
    arguments: argparse.Namespace, name: str, endings: list[str], accepted: dict[str, str]
) -> list[Path]:
    """The files to write, which can be written."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    files = [arguments.out / f"{name}{ending}" for ending in endings]
    check_outputs(files, accepted, [])
    return files


def _demo(arguments: argparse.Namespace) -> int:
    from krypton_engine import KryptonOcclusion
    from krypton_engine.planning.planner import Preparer

    shown = (_of_volume if arguments.volume else _of_slice)(arguments)
    model, x, window, baseline = shown.model, shown.x, shown.window, shown.baseline
    began = time.perf_counter()
    question, outputs = question_of_picture(model, x, window, baseline, shown.source[0])
    scores = scores_of(outputs, shown.activation)
    target = int(scores.argmax())
    name = class_name(model, target)
    row("model", model.note)
    row("image", ", ".join(shown.source))
    row("predicted", best_classes(model, scores))
    covered = len(window.touching(x[0] != baseline[0]))
    row("window", f"{window_text(window)}, black: {counted(len(window), 'position')}")
    row("", f"{len(window) - covered} of them are black already and cost nothing")

    occlusion = KryptonOcclusion(model.model)
    request = request_for(question, target, shown.activation)
    heatmap, whole = run_heatmap(Preparer("auto", None), request, began)
    what = "picture" if shown.scan is None else "scan"
    title = f'What "{name}" rests on ({figure(float(heatmap.base))} for the whole {what})'
    title += "" if whole else f"\ninterrupted: {progress(heatmap)}"
    drawn = model.display(x[0]) if shown.scan is None else None
    save(heatmap, shown.files, drawn, title, shown.scan)
    if not whole:
        return interrupted(heatmap, shown.files)
    show_findings(heatmap, model, name)
    if (plan := heatmap.plan) is not None:
        row(
            "plan",
            f"{plan.macs / 1e6:.0f} million multiply-adds a full pass, {plan.macs_incremental / 1e6:.0f} "
            f"incrementally: {plan.redundancy_ratio:.1f}x fewer",
        )
        row("", f"{plan.bytes_views / 2**20:.0f} MiB of kept activations; `krypton plan` lists them")
    each = heatmap.seconds / max(covered, 1)
    row("Krypton", f"{duration(heatmap.seconds)} in all, {1000 * each:.0f} ms a position that changes")

    seconds, count, difference, scale = _captum(occlusion, model, x, baseline, target)
    whole_map = seconds * len(window)
    row(
        "Captum", f"{1000 * seconds:.0f} ms a position (captum.attr.Occlusion, measured on {count} positions,"
    )
    row("", f"8 an evaluation): {duration(whole_map)} for this map, estimated")
    row(
        "speed-up",
        f"{whole_map / heatmap.seconds:.1f}x, or {seconds / each:.1f}x without the positions that are free",
    )
    row(
        "agreement",
        f"largest difference {difference:.1g} of a score of {figure(scale)} on those {count} positions",
    )
    picture, written = shown.files
    row("picture", picture)
    row("numbers", f"{written} (krypton_engine.Heatmap.load)" if shown.scan is None else f"{written} (NIfTI)")
    paragraph(shown.told.format(name))
    say("Now yours:")
    print("\n".join(command_lines(f"  {shown.command}", width())), flush=True)
    return 0


def _captum(
    occlusion: KryptonOcclusion, model: ZooModel, x: Tensor, baseline: Tensor, target: int
) -> tuple[float, int, float, float]:
    """The comparison with Captum on a few large windows.

    The windows are larger than the demo's to be few; each costs Captum a full forward pass whatever its size.

    Returns:
        Captum's seconds a position, the number of positions, the largest difference between its scores and
        ours, and the size of the score.
    """
    import torch
    from captum.attr import Occlusion

    from krypton_engine.perturbation.windows import SlidingWindow

    parts = _CAPTUM[x.ndim - 2]
    window = (x.shape[1], *(max(size // parts, 1) for size in x.shape[2:]))
    began = time.perf_counter()
    with torch.no_grad():
        theirs = Occlusion(model.model).attribute(
            x, window, window, baselines=baseline, target=target, perturbations_per_eval=8
        )
    seconds = time.perf_counter() - began
    count = len(SlidingWindow(tuple(x.shape[1:]), window, window))
    ours = occlusion.attribute(x, window, window, baselines=baseline, target=target)
    assert isinstance(ours, torch.Tensor)
    with torch.no_grad():
        scale = float(model.model(x)[0, target].abs())
    # One pass more than positions: the picture itself.
    return seconds / (count + 1), count, float((ours - theirs).abs().max()), scale


COMMAND = Command(
    "demo", "explain an MRI slice or a brain scan, and compare with Captum", _add_options, _demo
)
