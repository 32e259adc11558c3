"""``krypton demo``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from krypton_engine.cli.command import Command
from krypton_engine.cli.findings import show_findings
from krypton_engine.cli.model import best_classes, class_name, question_of_picture, scores_of
from krypton_engine.cli.options import sizes
from krypton_engine.cli.picture import baseline_of, input_of, window_of, window_text
from krypton_engine.cli.running import interrupted, progress, request_for, run_heatmap
from krypton_engine.cli.saving import check_outputs, save
from krypton_engine.cli.text import command_lines, counted, duration, paragraph, row, say, size_text, width
from krypton_engine.common.figures import figure

if TYPE_CHECKING:
    from torch import Tensor

    from krypton_engine.attr.occlusion import KryptonOcclusion
    from krypton_engine.zoo import ZooModel


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path(), help="where to write (here)")
    parser.add_argument(
        "--stride",
        metavar="N",
        type=sizes,
        default=(4, 4),
        help="step of the window; 16 is a quick look (4)",
    )


def _demo(arguments: argparse.Namespace) -> int:
    from krypton_engine import KryptonOcclusion, zoo
    from krypton_engine.heatmap.files import ENDINGS
    from krypton_engine.planning.planner import Preparer

    folder: Path = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    picture, numbers = folder / "krypton-demo.png", folder / "krypton-demo.npz"
    check_outputs([picture, numbers], ENDINGS, [])
    model = zoo.load_model(zoo.DEMO_MODEL)
    image = zoo.load_image(zoo.DEMO_IMAGE)
    x = input_of(model, image, zoo.DEMO_IMAGE)
    window = window_of((16, 16), arguments.stride, x)
    baseline = baseline_of("black", model, image, x)
    began = time.perf_counter()
    question, outputs = question_of_picture(model, x, window, baseline, zoo.DEMO_IMAGE)
    scores = scores_of(outputs, "softmax")
    target = int(scores.argmax())
    name = class_name(model, target)
    row("model", model.note)
    row("image", f"{zoo.DEMO_IMAGE}, {size_text(x.shape[2:])} pixels as the model sees it")
    row("predicted", best_classes(model, scores))
    covered = len(window.touching(x[0] != baseline[0]))
    row("window", f"{window_text(window)}, black: {counted(len(window), 'position')}")
    row("", f"{len(window) - covered} of them are black already and cost nothing")

    occlusion = KryptonOcclusion(model.model)
    request = request_for(question, target, "softmax")
    heatmap, whole = run_heatmap(Preparer("auto", None), request, began)
    title = f'What "{name}" rests on ({figure(float(heatmap.base))} for the whole picture)'
    title += "" if whole else f"\ninterrupted: {progress(heatmap)}"
    save(heatmap, [picture, numbers], model.display(x[0]), title)
    if not whole:
        return interrupted(heatmap, [picture, numbers])
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
    row("picture", picture)
    row("numbers", f"{numbers} (krypton_engine.Heatmap.load)")
    told = (
        f'The picture: red is what the answer "{name}" rests on, blue what speaks against it. Each position '
        f"is drawn by how much the probability drops with its window black."
    )
    paragraph(told)
    say("Now yours:")
    command = "  krypton explain photo.jpg --model efficientnet-lite0 --window 32 --stride 8"
    print("\n".join(command_lines(command, width())), flush=True)
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

    edges = tuple(max(size // 5, 1) for size in x.shape[2:])
    window = (x.shape[1], *edges)
    began = time.perf_counter()
    with torch.no_grad():
        theirs = Occlusion(model.model).attribute(
            x, window, window, baselines=baseline, target=target, perturbations_per_eval=8
        )
    seconds = time.perf_counter() - began
    count = len(window_of(edges, edges, x))
    ours = occlusion.attribute(x, window, window, baselines=baseline, target=target)
    assert isinstance(ours, torch.Tensor)
    with torch.no_grad():
        scale = float(model.model(x)[0, target].abs())
    # One pass more than positions: the picture itself.
    return seconds / (count + 1), count, float((ours - theirs).abs().max()), scale


COMMAND = Command(
    "demo", "explain a real MRI slice with a real VGG16, and compare with Captum", _add_options, _demo
)
