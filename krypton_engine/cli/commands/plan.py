"""``krypton plan``."""

from __future__ import annotations

import argparse
import sys

from krypton_engine.cli.command import Command
from krypton_engine.cli.model import load
from krypton_engine.cli.options import MODEL_HELP, add_model_options, add_window_options
from krypton_engine.cli.picture import window_of
from krypton_engine.cli.text import say, width


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    add_window_options(parser)
    add_model_options(parser, weights='"pretrained", "random", or a checkpoint (random: it costs the same)')
    parser.add_argument(
        "--run",
        dest="measures",
        action="store_true",
        help="measure a map of noise, and the time of every layer on the way",
    )


def _plan(arguments: argparse.Namespace) -> int:
    import torch

    from krypton_engine import KryptonOcclusion
    from krypton_engine.zoo.preprocess import as_taken

    # What comes out of a factory has weights anyhow.
    weights = arguments.weights or ("pretrained" if ":" in arguments.model else "random")
    model = load(arguments, weights)
    x = as_taken(model.model, torch.rand(1, *model.input_shape))
    window = window_of(arguments.window, arguments.stride, x)
    occlusion, question = KryptonOcclusion(model.model), (x, window.shape, window.strides)
    plan = occlusion.plan(*question)
    if arguments.measures:
        heatmap = occlusion.heatmap(*question, show_progress=sys.stderr.isatty(), analyze=True)
        plan = heatmap.plan or plan
    say(f"{model.name}{', random weights: the cost does not depend on them' * (weights == 'random')}")
    say(*plan.table(width()).splitlines())
    return 0


COMMAND = Command("plan", "show what a window costs on a model, before it runs or after", _add_options, _plan)
