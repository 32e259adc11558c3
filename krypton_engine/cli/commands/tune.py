"""``krypton tune``."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from krypton_engine.cli.command import INTERRUPTED, Command
from krypton_engine.cli.model import (
    activation_of,
    class_name,
    hint_probabilities,
    load,
    preparer_of,
    question_of_picture,
    target_of,
)
from krypton_engine.cli.options import (
    WEIGHTS_HELP,
    add_model_options,
    add_out,
    add_question_options,
    positive,
    up_to_one,
)
from krypton_engine.cli.picture import baseline_of, input_of, pictures_of, window_of, window_text
from krypton_engine.cli.running import request_for
from krypton_engine.cli.saving import check_outputs, ending, read_tuning
from krypton_engine.cli.text import counted, row, say, size_text, tell
from krypton_engine.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from krypton_engine.tuning.tuning import Tuning
    from krypton_engine.zoo import ZooModel


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="a file, a folder of them, or a picture from a package"
    )
    add_question_options(parser)
    parser.add_argument(
        "--confidence",
        metavar="X",
        type=up_to_one,
        help="share of pictures that are to reach their target, below 1 (0.9, which takes nine pictures, or "
        "that of the file that is continued)",
    )
    parser.add_argument(
        "--max-seconds",
        metavar="S",
        type=positive,
        help="begin nothing more after this time; fewer pictures make it more cautious",
    )
    add_out(
        parser,
        ".json (the tuning; an existing file gets more pictures) or .png (its figure as well) (tuning.json)",
    )
    add_model_options(parser, weights=WEIGHTS_HELP)


def _tune(arguments: argparse.Namespace) -> int:
    import torch

    from krypton_engine import zoo
    from krypton_engine.attr.learn import learn, learning_request
    from krypton_engine.common.values import digest
    from krypton_engine.tuning.tuning import ENDINGS

    # The numbers first: they are what took the time.
    outputs = sorted(arguments.out or [Path("tuning.json")], key=ending)
    names = pictures_of(arguments.images)
    check_outputs(outputs, ENDINGS, names)
    files = [path for path in outputs if ending(path) == ".json"]
    if len(files) != 1:
        raise InputError("--out", f"{len(files)} .json files", "one, for the tuning", verb="names")
    if arguments.confidence == 1:
        raise InputError("--confidence", "1", "numbers above 0 and below 1")
    known = read_tuning("--out", files[0]) if files[0].exists() else None
    model = load(arguments, arguments.weights or "pretrained")
    inputs, baselines = [], []
    for name in names:  # one picture at a time: a folder of them may not fit into memory
        image = zoo.load_image(name)
        inputs.append(input_of(model, image, name))
        baselines.append(baseline_of(arguments.baseline, model, image, inputs[-1]))
    shapes = {tuple(x.shape[1:]) for x in inputs}
    if len(shapes) > 1:
        raise InputError(
            "IMAGEs",
            f"{', '.join(map(size_text, sorted(shapes)))} as the model sees them",
            "one size: give --size, or a preprocess that resizes",
            verb="are",
        )
    if any(not baseline.equal(baselines[0]) for baseline in baselines):
        raise InputError(
            "--baseline",
            arguments.baseline,
            "one for all: grey, black or a number",
            "which differs from picture to picture",
        )
    window = window_of(arguments.window, arguments.stride, inputs[0])
    asked = [
        question_of_picture(model, x, window, baselines[0], name)
        for x, name in zip(inputs, names, strict=True)
    ]
    raw = [outputs for _, outputs in asked]
    activation = activation_of(arguments, raw[0])
    target = None if arguments.target is None else target_of(arguments.target, model, len(raw[0]))
    row("model", f"{model.name}: {model.note}")
    row("pictures", f"{len(names)}: {_counted(model, raw)}")
    distinct = len({digest(x) for x in inputs})
    if distinct < len(inputs):
        row(
            "",
            f"{counted(len(inputs) - distinct, 'copy', 'copies')} of others among them are left out",
        )
    hint_probabilities(activation, raw[0])
    name = "the predicted class" if target is None else class_name(model, target)
    row(
        "explains",
        f"{name}; window {window_text(window)}, {arguments.baseline}: {counted(len(window), 'position')}",
    )
    if known is not None:
        row("goes on", f"from {counted(len(known.images), 'picture')} in {files[0]}")

    so_far, began = known, time.perf_counter()

    def keep(tuning: Tuning, done: int, total: int) -> None:
        nonlocal so_far
        so_far = tuning
        tuning.save(files[0])

    status = 0
    try:
        with torch.no_grad():
            request = learning_request(
                (request_for(question, target, activation) for question, _ in asked),
                target,
                arguments.confidence,
                arguments.max_seconds,
                known,
            )
            so_far = learn(preparer_of(arguments), request, began, keep, sys.stderr.isatty())
    except InputError as error:
        if known is None:
            raise
        raise InputError("--out", repr(str(files[0])), problem=f"which exists already: {error}") from None
    except KeyboardInterrupt:
        if so_far is None:
            raise
        status = INTERRUPTED
    written = [path for path in outputs if ending(path) == ".json" or so_far.curves]
    for path in written:
        so_far.save(path)
    told = ", ".join(map(str, written))
    if status == INTERRUPTED:
        tell(
            f"krypton: interrupted; the tuning of {counted(len(so_far.images), 'picture')} is in {told}, and "
            f"the same command continues it"
        )
        return status
    say("", *str(so_far).splitlines(), "")
    row("written", told)
    return status


def _counted(model: ZooModel, outputs: Sequence[Tensor]) -> str:
    """The number of pictures that the model takes for each class, in words."""
    counts = Counter(int(row.argmax()) for row in outputs)
    told = [f"{count} {class_name(model, index)}" for index, count in counts.most_common(4)]
    return ", ".join(told) + ", ..." * (len(counts) > 4)


COMMAND = Command(
    "tune", "learn on pictures of a kind when an approximate map is similar enough", _add_options, _tune
)
