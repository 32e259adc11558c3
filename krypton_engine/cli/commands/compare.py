"""``krypton compare``."""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from krypton_engine.cli import contributions
from krypton_engine.cli.command import Command
from krypton_engine.cli.model import (
    activation_of,
    class_name,
    load,
    preparer_of,
    question_of_picture,
    scores_of,
    target_of,
)
from krypton_engine.cli.options import (
    WEIGHTS_HELP,
    add_answer_options,
    add_model_options,
    add_out,
    whole_number,
)
from krypton_engine.cli.picture import baseline_of, input_of, regions_of
from krypton_engine.cli.saving import check_outputs
from krypton_engine.cli.text import counted, printable, row
from krypton_engine.common.figures import figure, together
from krypton_engine.errors import InputError

if TYPE_CHECKING:
    from krypton_engine.attr.curves import Attribution
    from krypton_engine.evaluate import Curve

_ENDINGS = {".png": "a picture"}


_PATCH = 16
"""Side of the patches where none is given, in pixels."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("maps", metavar="MAP", nargs="+", help=".npz files that krypton explain wrote")
    parser.add_argument("image", metavar="IMAGE", help="the picture that they explain")
    add_answer_options(parser)
    parser.add_argument(
        "--patch", metavar="N", type=whole_number, help=f"side of the patches in pixels ({_PATCH})"
    )
    parser.add_argument("--regions", metavar="R", help="regions in place of patches, as for krypton explain")
    add_out(parser, ".png, the curves (curves.png)")
    add_model_options(parser, weights=WEIGHTS_HELP)


def _compare(arguments: argparse.Namespace) -> int:
    from krypton_engine import evaluate, zoo
    from krypton_engine.attr.curves import regions_of as patches_of
    from krypton_engine.common import files
    from krypton_engine.heatmap.heatmap import Heatmap

    outputs = arguments.out or [Path("curves.png")]
    check_outputs(outputs, _ENDINGS, [arguments.image])
    maps = _maps(arguments.maps)
    model = load(arguments, arguments.weights or "pretrained")
    image = zoo.load_image(arguments.image)
    x = input_of(model, image, arguments.image)
    for name, found in maps.items():
        shape_of = found.window.input_shape if isinstance(found, Heatmap) else tuple(found.shape)
        if shape_of != tuple(x.shape[1:]):
            shape = "x".join(map(str, x.shape[1:]))
            raise InputError("MAP", repr(name), f"maps over the model's input, {shape}")
    baseline = baseline_of(arguments.baseline, model, image, x)
    if arguments.regions is None:
        regions = patches_of(arguments.patch or _PATCH, x)
    else:
        if arguments.patch is not None:
            raise InputError("--patch", f"{arguments.patch}", "none with --regions, which take its place")
        regions = regions_of(arguments.regions, model, x)
    _, raw = question_of_picture(model, x, regions, baseline, arguments.image)
    activation = activation_of(arguments, raw)
    scores = scores_of(raw, activation)
    given = {each.target for each in maps.values() if isinstance(each, Heatmap)}
    if arguments.target is not None:
        target = target_of(arguments.target, model, len(raw))
    elif len(given) == 1 and isinstance(only := given.pop(), int):
        if only >= len(raw):
            raise InputError(
                "MAP", f"of class {only}", f"maps of classes of {model.name}, 0 to {len(raw) - 1}"
            )
        target = only
    elif not given:  # Shapley and Owen values do not tell
        target = int(scores.argmax())
    else:
        raise InputError("--target", "missing", "a class, since the maps explain different ones")
    found_by = {}
    for kind, measure in (("deletion", evaluate.deletion), ("insertion", evaluate.insertion)):
        curves = measure(
            model.model, x, maps, regions, baseline, target,
            activation=None if activation == "none" else "softmax",
            executor=arguments.executor, memory_budget=preparer_of(arguments).memory_budget,
        )  # fmt: skip
        assert isinstance(curves, dict)
        found_by[kind] = curves
    row("model", f"{model.name}: {model.note}")
    name = class_name(model, target)
    row(
        "asks",
        f"{name}, {figure(float(scores[target]))}; {counted(len(regions), 'region')}, {arguments.baseline}",
    )
    for kind, better in (("deletion", "lower"), ("insertion", "higher")):
        _show(kind, better, found_by[kind])
    title = f"{name} ({printable(Path(arguments.image).name)}, {model.name})"
    for path in outputs:
        files.write(path, _picture(found_by, title))
    row("written", ", ".join(map(str, outputs)))
    return 0


def _maps(paths: Sequence[str]) -> dict[str, Attribution]:
    """The maps by the names of their files."""
    from krypton_engine.heatmap.heatmap import Heatmap

    maps: dict[str, Attribution] = {}
    for path in paths:
        if path in maps:
            raise InputError("MAP", repr(path), "files that are named once")
        try:
            maps[path] = Heatmap.load(path)
        except InputError as error:
            try:
                maps[path] = contributions.read(path)
            except InputError:
                raise error.named("MAP") from None
    return maps


def _show(kind: str, better: str, curves: Mapping[str, Curve]) -> None:
    """Print the areas under curves, and which is best."""
    areas = {name: curve.area for name, curve in curves.items()}
    best = (min if better == "lower" else max)(areas, key=lambda name: areas[name])
    (written,) = together(list(areas.values()))
    for i, (name, area) in enumerate(zip(areas, written, strict=True)):
        mark = ", the best" if name == best and len(areas) > 1 else ""
        row(kind if i == 0 else "", f"area {area}, {better} is better: {printable(name)}{mark}")


def _picture(found: Mapping[str, Mapping[str, Curve]], title: str) -> bytes:
    """The curves of both kinds, side by side, as a PNG."""
    from matplotlib.figure import Figure

    from krypton_engine.common.files import DRAWN

    drawn = Figure(figsize=(9.6, 4.2), layout="constrained")
    for axes, curves in zip(drawn.subplots(1, 2, sharey=True), found.values(), strict=True):
        for name, curve in curves.items():
            curve.plot(axes, Path(name).name)
    drawn.suptitle(title, fontsize=12, fontweight="bold", parse_math=False)
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=130, metadata=DRAWN)
    return buffer.getvalue()


COMMAND = Command(
    "compare",
    "tell which of several maps knows best what counts: deletion and insertion curves",
    _add_options,
    _compare,
)
