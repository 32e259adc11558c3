"""``krypton explain``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from krypton_engine.cli import contributions, scan
from krypton_engine.cli.asking import (
    Asked,
    add_map_options,
    check_extents,
    check_tuning,
    of_picture,
    of_scan,
)
from krypton_engine.cli.command import Command
from krypton_engine.cli.contributions import METHODS
from krypton_engine.cli.findings import approximate, reached, show_findings, similarity
from krypton_engine.cli.model import (
    activation_of,
    best_classes,
    class_name,
    hint_probabilities,
    load,
    preparer_of,
    question_of_picture,
    scores_of,
    target_of,
)
from krypton_engine.cli.options import (
    WEIGHTS_HELP,
    add_model_options,
    add_out,
)
from krypton_engine.cli.picture import (
    positions_text,
)
from krypton_engine.cli.running import interrupted, progress, request_for, run_heatmap
from krypton_engine.cli.saving import check_outputs, save
from krypton_engine.cli.text import counted, duration, printable, row
from krypton_engine.common.figures import figure, together
from krypton_engine.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from krypton_engine.perturbation.regions import Regions
    from krypton_engine.zoo import ZooModel


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "image",
        metavar="IMAGE",
        help='a file, or a picture from a package: "chelsea", "mri:axial:100", ...; or a scan: a folder of '
        "DICOM files, .nii.gz, .npy, .ome.tiff",
    )
    add_map_options(parser)
    parser.add_argument(
        "--method",
        choices=("occlusion", *METHODS),
        default="occlusion",
        help="shapley and owen share the answer out among regions: squares of --window, or those of "
        "--regions (occlusion)",
    )
    add_out(
        parser,
        ".png, .svg or .pdf (a picture) or .npz (the numbers), of a scan also .nii.gz, .dcm or .ome.tiff; "
        "may be given twice (heatmap.png; heatmap.nii.gz)",
    )
    add_model_options(parser, weights=WEIGHTS_HELP)


def _of_picture(arguments: argparse.Namespace) -> Asked:
    from krypton_engine import zoo

    check_extents(arguments)
    image = zoo.load_image(arguments.image)
    model = load(arguments, arguments.weights or "pretrained")
    return of_picture(arguments, model, image, arguments.image)


def _of_scan(arguments: argparse.Namespace) -> Asked:
    found = scan.read(arguments.image)
    scan.check_outputs(arguments.out or [], found)
    model, x = scan.load(arguments, found)
    return of_scan(arguments, model, x, found)


def _explain(arguments: argparse.Namespace) -> int:
    from krypton_engine.heatmap.files import ENDINGS
    from krypton_engine.heatmap.placed import ENDINGS as ENDINGS_OF_SCANS
    from krypton_engine.medical import is_scan
    from krypton_engine.perturbation.regions import Regions

    volume = is_scan(arguments.image)
    outputs = arguments.out or [Path("heatmap.nii.gz" if volume else "heatmap.png")]
    check_outputs(outputs, {**ENDINGS, **ENDINGS_OF_SCANS} if volume else ENDINGS, [arguments.image])
    tuning = check_tuning(arguments)
    asked = (_of_scan if volume else _of_picture)(arguments)
    model, x, positions, baseline = asked.model, asked.x, asked.positions, asked.baseline
    began = time.perf_counter()
    question, raw = question_of_picture(model, x, positions, baseline, arguments.image)
    activation = activation_of(arguments, raw)
    scores = scores_of(raw, activation)
    target = (
        int(scores.argmax()) if arguments.target is None else target_of(arguments.target, model, len(raw))
    )
    name = class_name(model, target)
    title = f"{name}: {figure(float(scores[target]))} ({printable(Path(arguments.image).name)}, {model.name})"
    if arguments.method != "occlusion":
        assert isinstance(positions, Regions)
        return _share_out(
            arguments, outputs, model, x, positions, baseline, target, activation, scores, title
        )
    request = request_for(question, target, activation, arguments.ssim, tuning, asked.filling)
    row("model", f"{model.name}: {model.note}")
    row("predicted", best_classes(model, scores))
    hint_probabilities(activation, raw)
    row(
        "explains",
        f"{name}; {positions_text(positions)}, {request.filled or asked.covers}: "
        f"{counted(len(positions), 'position')}",
    )

    heatmap, whole = run_heatmap(preparer_of(arguments), request, began)
    kinds = approximate(heatmap)
    if not whole:
        title += f"\ninterrupted: {progress(heatmap)}"
    elif kinds:
        title += f"\napproximate: {heatmap.measured.double().mean():.0%} measured{similarity(heatmap)}"
    picture = None if volume else model.display(x[0])
    save(heatmap, outputs, picture, title, asked.scan)
    if not whole:
        return interrupted(heatmap, outputs)
    show_findings(heatmap, model, name)
    row("took", duration(heatmap.seconds))
    if arguments.ssim is not None:
        row("similarity", reached(heatmap, arguments.ssim, tuning))
        if kinds:
            row("", kinds)
    row("written", ", ".join(map(str, outputs)))
    return 0


def _share_out(
    arguments: argparse.Namespace,
    outputs: Sequence[Path],
    model: ZooModel,
    x: Tensor,
    regions: Regions,
    baseline: Tensor,
    target: int,
    activation: str,
    scores: Tensor,
    title: str,
) -> int:
    """Shapley or Owen values."""
    import numpy as np
    import torch

    if arguments.filling is not None:
        raise InputError("--filling", arguments.filling, f"none with --method {arguments.method}: --baseline")
    began, method = time.perf_counter(), arguments.method
    count, name = arguments.samples or METHODS[method], class_name(model, target)
    if method == "owen" and count < 2:
        raise InputError("--samples", f"{count}", "at least 2 with --method owen: all covered, and nothing")
    row("model", f"{model.name}: {model.note}")
    row("predicted", best_classes(model, scores))
    unit = "permutations" if method == "shapley" else "evaluations"
    row(
        "explains",
        f"{name}; {counted(len(regions), 'region')}, {arguments.baseline or 'grey'}, {count} {unit}",
    )
    asked = torch.nn.Sequential(model.model, torch.nn.Softmax(1)) if activation == "softmax" else model.model
    values = contributions.contributions(
        method, asked.eval(), x, regions, baseline, target, count, arguments.executor,
        preparer_of(arguments).memory_budget, sys.stderr.isatty(),
    )  # fmt: skip
    legend = f"{method.capitalize()} value", "share of f(x) - f(covered)"
    contributions.save(outputs, values, regions, model, x, scores[target], legend, title)
    ((most, least, total),) = together([float(values.max()), float(values.min()), float(values.sum())])
    boxes = regions.boxes(np.array([int(values.argmax()), int(values.argmin())]))[:, 1:].tolist()
    row("shares", f"add up to {total}")
    for word, value, (rows, columns) in zip(("most", "least"), (most, least), boxes, strict=True):
        place = f"rows {rows[0]} to {rows[1] - 1}, columns {columns[0]} to {columns[1] - 1}"
        row("", f"{word} {value}, within {place}")
    row("took", duration(time.perf_counter() - began))
    row("written", ", ".join(map(str, outputs)))
    return 0


COMMAND = Command("explain", "compute the heatmap of one picture", _add_options, _explain)
