"""``krypton ...``: the command line.

Heavy packages are imported by the commands that use them, so that ``krypton --help`` is quick.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import textwrap
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from krypton_engine import __version__
from krypton_engine.common.figures import figure, together
from krypton_engine.errors import FallbackWarning, InputError
from krypton_engine.executors.base import EXECUTORS

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from krypton_engine.approximation.ssim import SsimEstimate
    from krypton_engine.attr.occlusion import KryptonOcclusion
    from krypton_engine.heatmap.heatmap import Heatmap
    from krypton_engine.perturbation.windows import SlidingWindow
    from krypton_engine.tuning.tuning import Tuning
    from krypton_engine.zoo import ZooModel

USER_ERROR, INTERRUPTED, NOBODY_READS = 2, 130, 141

_DISTRIBUTION = "krypton-occlusion"
_LONGEST_MESSAGE = 4  # lines
_WIDEST = 100  # columns of prose

_EXAMPLES = """\
examples:
  krypton demo
  krypton explain photo.jpg --model efficientnet-lite0 --window 32 --stride 8 --out map.png
  krypton explain scan.png --model mymodels:build --weights best.pt --size 224 --target tumour
  krypton tune scans/ --model mymodels:build --weights best.pt --size 224 --out tuning.json
  krypton explain scan.png --model mymodels:build ... --ssim 0.9 --tuning tuning.json
  krypton plan resnet18 --window 16 --stride 4
"""

_MODEL_HELP = (
    '"vgg16-brain-mri", "efficientnet-lite0", a torchvision model such as "resnet18", or "module:factory": '
    "a function, in a module that can be imported from here, that returns your model, (model, preprocess) "
    "or (model, preprocess, class names)"
)


_WEIGHTS_HELP = '"pretrained", "random", or a checkpoint of yours (pretrained)'


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after ``krypton``; by default the process's own.

    Returns:
        The exit status: 0, 2 after an error that was told on stderr, 130 after Ctrl-C, 141 (as after SIGPIPE)
        where nobody read the text to its end; files are written all the same.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is None:  # closed, as by `>&-`: or the next file that is opened would get what is printed
            os.open(os.devnull, os.O_RDWR)
    text = _Text(sys.stdout)
    with redirect_stdout(text), redirect_stderr(_Text(sys.stderr)):
        try:
            status = _command(words)
        finally:
            text.flush()
        if isinstance(text.fault, BrokenPipeError):
            return NOBODY_READS
        if text.fault is not None:
            _tell(f"krypton: error: the text cannot be written: {text.fault}")
            return USER_ERROR
    return status


def _command(words: Sequence[str]) -> int:
    debug = "--debug" in words
    try:
        arguments = _parser().parse_args(words)
        with _plain_warnings(debug):
            status: int = arguments.run(arguments)
            return status
    except KeyboardInterrupt:
        _tell("krypton: interrupted")
        return INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            _tell(_message(error))
        return USER_ERROR


# ---------------------------------------------------------------------------------------------------------
# Arguments
# ---------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Tells errors as everything else here does: without the usage lines, which may fill a screen."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}\n({self.prog} --help tells what is accepted)")


class _Help(argparse.HelpFormatter):
    """Breaks lines between words only, and commands so that a shell takes them."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _wrapped(" ".join(text.split()), width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = []
        for line in text.splitlines():
            broken = _command_lines if line.startswith(" ") else _wrapped
            lines += broken(indent + line, width, indent)
        return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="krypton",
        description="Occlusion explanations of CNNs by incremental inference: Captum's numbers, sooner.",
        epilog=_EXAMPLES,
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"krypton {__version__}")
    everywhere = _Parser(add_help=False)
    for each in (parser, everywhere):
        each.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            parents=[everywhere],
            formatter_class=_Help,
        )
        made.set_defaults(run=run)
        return made

    demo = command("demo", _demo, "explain a real MRI slice with a real VGG16, and compare with Captum")
    demo.add_argument("--out", metavar="DIR", type=Path, default=Path(), help="where to write (here)")
    demo.add_argument(
        "--stride",
        metavar="N",
        type=_sizes,
        default=(4, 4),
        help="step of the window; 16 is a quick look (4)",
    )

    explain = command("explain", _explain, "compute the heatmap of one picture")
    explain.add_argument(
        "image", metavar="IMAGE", help='a file, or a picture from a package: "chelsea", "mri:axial:100", ...'
    )
    _add_question_options(explain)
    explain.add_argument(
        "--ssim",
        metavar="X",
        type=_up_to_one,
        help="stop when the map is probably this similar to the exact one, and interpolate the rest "
        "(the exact map)",
    )
    explain.add_argument(
        "--tuning", metavar="FILE", help="what krypton tune wrote: when such a map is similar enough"
    )
    _add_out(explain, ".png (a picture) or .npz (the numbers); may be given twice (heatmap.png)")
    _add_model_options(explain, weights=_WEIGHTS_HELP)

    tune = command("tune", _tune, "learn on pictures of a kind when an approximate map is similar enough")
    tune.add_argument(
        "images", metavar="IMAGE", nargs="+", help="a file, a folder of them, or a picture from a package"
    )
    _add_question_options(tune)
    tune.add_argument(
        "--confidence",
        metavar="X",
        type=_up_to_one,
        help="share of pictures that are to reach their target, below 1 (0.9, which takes nine pictures, or "
        "that of the file that is continued)",
    )
    tune.add_argument(
        "--max-seconds",
        metavar="S",
        type=_positive,
        help="begin nothing more after this time; fewer pictures make it more cautious",
    )
    _add_out(
        tune,
        ".json (the tuning; one that is there already gets more pictures) or .png (its figure as well) "
        "(tuning.json)",
    )
    _add_model_options(tune, weights=_WEIGHTS_HELP)

    plan = command("plan", _plan, "show what a window costs on a model, without running it")
    plan.add_argument("model", metavar="MODEL", help=_MODEL_HELP)
    _add_window_options(plan)
    _add_model_options(plan, weights='"pretrained", "random", or a checkpoint (random: it costs the same)')

    command("info", _info, "show versions, executors, and what is missing")
    return parser


def _add_question_options(parser: argparse.ArgumentParser) -> None:
    """What is asked of which model."""
    parser.add_argument("--model", metavar="M", required=True, help=_MODEL_HELP)
    _add_window_options(parser)
    parser.add_argument(
        "--target", metavar="C", help="class to explain, a name or an index (the predicted one)"
    )
    parser.add_argument(
        "--baseline",
        metavar="B",
        default="grey",
        help="what covers the window: grey, black, mean (of this picture), or a number in the units of the "
        "model's input (grey)",
    )
    parser.add_argument(
        "--activation",
        choices=("softmax", "none"),
        help="what is applied to the model's outputs (softmax if there are several)",
    )
    parser.add_argument("--executor", choices=EXECUTORS, default="auto", help="(auto)")
    parser.add_argument(
        "--memory-budget", metavar="MiB", type=_positive, default=2048.0, help="memory to work in (2048)"
    )


def _add_out(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("-o", "--out", metavar="FILE", type=Path, action="append", help=text)


def _add_window_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--window", metavar="N", type=_sizes, default=(16, 16), help="pixels, or height,width (16)"
    )
    parser.add_argument("--stride", metavar="N", type=_sizes, default=(4, 4), help="likewise (4)")


def _add_model_options(parser: argparse.ArgumentParser, weights: str) -> None:
    group = parser.add_argument_group("the model")
    group.add_argument("--weights", metavar="W", help=weights)
    group.add_argument("--size", metavar="N", type=_sizes, help="of the input: pixels, or height,width")
    for name in ("mean", "std"):
        group.add_argument(
            f"--{name}", metavar="X", type=_numbers, help="of pixels in [0, 1]: a number, or one a channel"
        )
    group.add_argument(
        "--classes", metavar="FILE", help="names of the classes: text, one a line, or .json, such as id2label"
    )


def _sizes(text: str) -> tuple[int, int]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) not in (1, 2) or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number, or two: height,width")
    return sizes[0], sizes[-1]


def _numbers(text: str) -> float | list[float]:
    """A number for every channel, or one a channel."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, or several: r,g,b") from None
    return numbers[0] if len(numbers) == 1 else numbers


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return number


def _up_to_one(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and at most 1")
    return number


# ---------------------------------------------------------------------------------------------------------
# krypton demo
# ---------------------------------------------------------------------------------------------------------


def _demo(arguments: argparse.Namespace) -> int:
    from krypton_engine import KryptonOcclusion, zoo
    from krypton_engine.heatmap.files import ENDINGS
    from krypton_engine.plan.plan import describe

    folder: Path = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    picture, numbers = folder / "krypton-demo.png", folder / "krypton-demo.npz"
    _check_outputs([picture, numbers], ENDINGS, [])
    model = zoo.load_model(zoo.DEMO_MODEL)
    image = zoo.load_image(zoo.DEMO_IMAGE)
    x = _input(model, image, zoo.DEMO_IMAGE)
    window = _window((16, 16), arguments.stride, x)
    baseline = _baseline("black", model, image, x)
    scores = _outputs(model, x, zoo.DEMO_IMAGE).softmax(0)
    target = int(scores.argmax())
    name = _class_name(model, target)
    _row("model", model.note)
    _row("image", f"{zoo.DEMO_IMAGE}, {_by(x.shape[2:])} pixels as the model sees it")
    _row("predicted", _best(model, scores))
    covered = len(window.touching(x[0] != baseline[0]))
    _row("window", f"{_window_text(window)}, black: {_count(len(window), 'position')}")
    _row("", f"{len(window) - covered} of them are black already and cost nothing")

    occlusion = KryptonOcclusion(model.model)
    heatmap, whole = _run(occlusion, x, window, baseline, target, "softmax")
    title = f'What "{name}" rests on ({figure(float(heatmap.base))} for the whole picture)'
    title += "" if whole else f"\ninterrupted: {_progress(heatmap)}"
    _save(heatmap, [picture, numbers], model.display(x[0]), title)
    if not whole:
        return _interrupted(heatmap, [picture, numbers])
    _found(heatmap, model, name)
    if heatmap.plan is not None:
        cost = describe(heatmap.plan)
        _row(
            "plan",
            f"{cost['mmacs_full']:.0f} million multiply-adds a full pass, {cost['mmacs_incremental']:.0f} "
            f"incrementally: {cost['redundancy_ratio']:.1f}x fewer",
        )
        _row("", f"{heatmap.plan.bytes_views / 2**20:.0f} MiB of kept activations; `krypton plan` tells more")
    each = heatmap.seconds / max(covered, 1)
    _row("Krypton", f"{_duration(heatmap.seconds)} in all, {1000 * each:.0f} ms a position that changes")

    seconds, count, difference, scale = _captum(occlusion, model, x, baseline, target)
    whole_map = seconds * len(window)
    _row(
        "Captum", f"{1000 * seconds:.0f} ms a position (captum.attr.Occlusion, measured on {count} positions,"
    )
    _row("", f"8 an evaluation): {_duration(whole_map)} for this map, estimated")
    _row(
        "speed-up",
        f"{whole_map / heatmap.seconds:.1f}x, or {seconds / each:.1f}x without the positions that are free",
    )
    _row(
        "agreement",
        f"largest difference {difference:.1g} of a score of {figure(scale)} on those {count} positions",
    )
    _row("picture", picture)
    _row("numbers", f"{numbers} (krypton_engine.Heatmap.load)")
    told = (
        f'The picture: red is what the answer "{name}" rests on, blue what speaks against it. Each position '
        f"is drawn by how much the probability drops with its window black."
    )
    _say("", *_wrapped(told, min(_width(), _WIDEST)), "")
    _say("Now yours:")
    command = "  krypton explain photo.jpg --model efficientnet-lite0 --window 32 --stride 8"
    print("\n".join(_command_lines(command, _width())), flush=True)
    return 0


def _captum(
    occlusion: KryptonOcclusion, model: ZooModel, x: Tensor, baseline: Tensor, target: int
) -> tuple[float, int, float, float]:
    """Captum's seconds a position, of how many, and how far our scores are from Captum's, of how much.

    The windows are larger than the demo's to be few; each costs Captum a full forward pass whatever its size.
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
    count = len(_window(edges, edges, x))
    ours = occlusion.attribute(x, window, window, baselines=baseline, target=target)
    assert isinstance(ours, torch.Tensor)
    with torch.no_grad():
        scale = float(model.model(x)[0, target].abs())
    # One pass more than positions: the picture itself.
    return seconds / (count + 1), count, float((ours - theirs).abs().max()), scale


# ---------------------------------------------------------------------------------------------------------
# krypton explain
# ---------------------------------------------------------------------------------------------------------


def _explain(arguments: argparse.Namespace) -> int:
    from krypton_engine import zoo
    from krypton_engine.heatmap.files import ENDINGS

    outputs = arguments.out or [Path("heatmap.png")]
    _check_outputs(outputs, ENDINGS, [arguments.image])
    if arguments.tuning is not None and arguments.ssim is None:
        raise InputError("--tuning is given without --ssim, the similarity that it is to reach")
    tuning = None if arguments.tuning is None else _read_tuning("--tuning", arguments.tuning)
    image = zoo.load_image(arguments.image)
    model = _load(arguments, arguments.weights or "pretrained")
    x = _input(model, image, arguments.image)
    window = _window(arguments.window, arguments.stride, x)
    raw = _outputs(model, x, arguments.image)
    activation = _activation(arguments, raw)
    scores = raw.softmax(0) if activation == "softmax" else raw
    target = int(scores.argmax()) if arguments.target is None else _target(arguments.target, model, len(raw))
    baseline = _baseline(arguments.baseline, model, image, x)
    occlusion = _occlusion(arguments, model)
    _row("model", f"{model.name}: {model.note}")
    _row("predicted", _best(model, scores))
    _hint(activation, raw)
    name = _class_name(model, target)
    _row(
        "explains",
        f"{name}; window {_window_text(window)}, {arguments.baseline}: {_count(len(window), 'position')}",
    )

    heatmap, whole = _run(occlusion, x, window, baseline, target, activation, arguments.ssim, tuning)
    title = f"{name}: {figure(float(heatmap.base))} ({_plain(Path(arguments.image).name)}, {model.name})"
    kinds = _approximate(heatmap)
    if not whole:
        title += f"\ninterrupted: {_progress(heatmap)}"
    elif kinds:
        title += f"\napproximate: {heatmap.measured.double().mean():.0%} measured{_similarity(heatmap)}"
    _save(heatmap, outputs, model.display(x[0]), title)
    if not whole:
        return _interrupted(heatmap, outputs)
    _found(heatmap, model, name)
    _row("took", _duration(heatmap.seconds))
    if arguments.ssim is not None:
        _row("similarity", _reached(heatmap, arguments.ssim, tuning))
        if kinds:
            _row("", kinds)
    _row("written", ", ".join(map(str, outputs)))
    return 0


def _found(heatmap: Heatmap, model: ZooModel, name: str) -> None:
    """What the picture shows, in numbers; extremes and classes of measured positions alone."""
    drops, base = heatmap.drop.reshape(-1), float(heatmap.base)
    measured = heatmap.measured.reshape(-1)
    finite = (measured & drops.isfinite()).nonzero()[:, 0]
    extremes = [finite[drops[finite].argmax()], finite[drops[finite].argmin()]] if len(finite) else []
    lost = [float(drops[position]) for position in extremes]
    limit = heatmap.limits()[1]
    ((told,), (end,), *written) = together(
        [base], [limit], *(group for drop in lost for group in ([drop], [base, base - drop]))
    )
    if lost and not any(lost) and not bool(drops[drops.isfinite()].any()):
        _row("drop", f"of {name}: nothing changes, {told} wherever the window is")
    else:
        _row("drop", f"of {name}, {told} for the whole picture; the colours end at {end}")
        for word, position in zip(("most", "least"), extremes, strict=False):
            (drop,), (before, after), *written = written
            rows, columns = heatmap.window.boxes(position[None].numpy())[0, 1:].tolist()
            _row(
                "",
                f"{word} {drop}, at rows {rows[0]} to {rows[1] - 1}, columns {columns[0]} to "
                f"{columns[1] - 1}: occluded, {before} becomes {after}",
            )
    if count := int((measured & ~drops.isfinite()).sum()):
        _row("", f"{_count(count, 'position')} {'is' if count == 1 else 'are'} not finite")
    if heatmap.classes is not None and heatmap.base_outputs is not None:
        predicted = int(heatmap.base_outputs.argmax())
        flipped = heatmap.classes[(heatmap.classes >= 0) & (heatmap.classes != predicted)]
        if len(flipped):
            other = _class_name(model, int(flipped.mode().values))
            count, total = int(measured.sum()), len(measured)
            of = _count(total, "position") if count == total else f"the {_count(count, 'measured position')}"
            _row("answer", f"another class at {len(flipped)} of {of}, mostly {other}")


def _count(count: int, noun: str, several: str = "") -> str:
    return f"{count} {noun if count == 1 else several or noun + 's'}"


def _approximate(heatmap: Heatmap) -> str:
    """How the values were come by, where they are not all exact; else nothing."""
    from krypton_engine.heatmap.status import Status

    counts = heatmap.status.flatten().bincount(minlength=len(Status)).tolist()
    total = heatmap.status.numel()
    if counts[Status.EXACT] == total:
        return ""
    told = [f"{counts[Status.EXACT]} exact"] + [
        f"{counts[status]} {word}"
        for status, word in (
            (Status.TRIMMED, "trimmed"),
            (Status.INTERPOLATED, "interpolated"),
            (Status.UNKNOWN, "unknown"),
        )
        if counts[status]
    ]
    return (
        f"{heatmap.measured.double().mean():.0%} of {_count(total, 'position')} measured ({', '.join(told)})"
    )


def _similarity(heatmap: Heatmap) -> str:
    estimate = heatmap.ssim_estimate
    return "" if estimate is None else f", SSIM about {estimate.value:.3f} ({_range(estimate)})"


def _range(estimate: SsimEstimate) -> str:
    return f"{estimate.low:.3f} to {estimate.high:.3f}"


def _reached(heatmap: Heatmap, ssim_target: float, tuning: Tuning | None) -> str:
    """What a finished map's similarity with the exact one is, and how that is known."""
    estimate = heatmap.ssim_estimate
    if not _approximate(heatmap):
        told = "exact: all was measured"
        if ssim_target < 1 and tuning is not None and len(tuning.images) < tuning.fewest:
            return (
                f"{told}, since {tuning.confidence:.0%} confidence takes a tuning of {tuning.fewest} "
                f"pictures, and this one has {len(tuning.images)}"
            )
        return told if ssim_target == 1 else f"{told}, since nothing less was sure enough"
    assert estimate is not None
    how = "estimated on the way" if tuning is None else f"tuned on {_count(len(tuning.images), 'picture')}"
    return f"SSIM with the exact map about {estimate.value:.3f} ({_range(estimate)}), {how}"


def _load(arguments: argparse.Namespace, weights: str) -> ZooModel:
    from krypton_engine import zoo

    return zoo.load_model(
        arguments.model,
        weights=weights,
        size=arguments.size,
        mean=arguments.mean,
        std=arguments.std,
        class_names=arguments.classes,
    )


def _input(model: ZooModel, image: Image, name: str) -> Tensor:
    """The model's input, ``(1, C, H, W)``; ``name`` is the picture's, for messages."""
    import torch

    try:
        x = model.preprocess(image)[None]
    except InputError as error:
        raise InputError(f"IMAGE {name!r}: {error}") from error
    if not bool(torch.isfinite(x).all()):
        raise InputError(f"IMAGE {name!r} gives NaN or infinite numbers after the model's preprocessing")
    weight = next(model.model.parameters(), x)
    return x.to(weight.device, weight.dtype)


def _outputs(model: ZooModel, x: Tensor, name: str) -> Tensor:
    """What the model says of the whole picture: one number a class."""
    import torch

    try:
        with torch.no_grad():
            outputs: Tensor = model.model(x)[0]
    except (Exception, SystemExit) as error:
        raise InputError(
            f"IMAGE {name!r} makes {model.name} fail: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    if not bool(torch.isfinite(outputs).all()):
        raise InputError(
            f"IMAGE {name!r} makes the model return NaN or infinite numbers, so there is nothing to explain"
        )
    return outputs


def _activation(arguments: argparse.Namespace, outputs: Tensor) -> str:
    activation: str = arguments.activation or ("softmax" if len(outputs) > 1 else "none")
    if activation == "softmax" and len(outputs) == 1:
        raise InputError("--activation softmax of a single output is always 1; accepted here is none")
    return activation


def _hint(activation: str, outputs: Tensor) -> None:
    from krypton_engine.approximation.compensation import are_probabilities

    if activation == "softmax" and are_probabilities(outputs[None]):
        _row("", "(the outputs look like probabilities already: --activation none?)")


def _occlusion(arguments: argparse.Namespace, model: ZooModel) -> KryptonOcclusion:
    from krypton_engine import KryptonOcclusion

    budget = int(arguments.memory_budget * 2**20)
    return KryptonOcclusion(model.model, executor=arguments.executor, memory_budget=budget)


def _target(given: str, model: ZooModel, classes: int) -> int:
    """The class that ``--target`` names; a number is an index, from the end if negative."""
    names = model.class_names or []
    folded = [name.casefold() for name in names]
    named = [i for i, name in enumerate(names) if name == given]
    named = named or [i for i, name in enumerate(folded) if name == given.casefold()]
    if len(named) == 1:
        return named[0]
    if named:
        raise InputError(
            f"--target {given!r} is the name of {len(named)} classes of {model.name}; give an index: "
            f"{' or '.join(map(str, named))}"
        )
    try:
        index = int(given)
    except ValueError:
        near = _near(given.casefold(), folded)
        if not names:
            told = "Its classes have no names: give an index"
        elif near and len(names) > _FEW:
            told = f"Near it: {', '.join(names[i] for i in near)}; or give an index"
        else:
            told = f"Its classes: {', '.join(names[:_FEW])}{', ...' * (len(names) > _FEW)}; or an index"
        raise InputError(
            f"--target {given!r} is no class of {model.name}.\n{told} from 0 to {classes - 1}."
        ) from None
    if not -classes <= index < classes:
        raise InputError(f"--target {index} is out of range: {model.name} has classes 0 to {classes - 1}")
    return index % classes


_FEW = 8  # classes that are listed


def _near(given: str, names: Sequence[str]) -> list[int]:
    """Which names hold the words or, if none does, are spelled nearly so."""
    near = [name for name in names if re.search(rf"\b{re.escape(given)}\b", name)]
    near = near or difflib.get_close_matches(given, names, n=_FEW, cutoff=0.7)
    return [names.index(name) for name in near[:_FEW]]


def _baseline(given: str, model: ZooModel, image: Image, x: Tensor) -> Tensor:
    """What covers a window, as an input: ``(1, C, H, W)``."""
    import torch
    from PIL import Image as PILImage

    if given in ("black", "grey"):
        plain = PILImage.new("RGB", image.size, {"black": (0, 0, 0), "grey": (127, 127, 127)}[given])
        baseline = model.preprocess(plain)[None].to(x)
        if baseline.shape != x.shape or not bool(torch.isfinite(baseline).all()):
            raise InputError(
                f"--baseline {given} cannot be used: {model.name} preprocesses no plain "
                f"picture.\nAccepted: mean, or a number."
            )
        return baseline
    if given == "mean":
        return x.mean((2, 3), keepdim=True).expand_as(x)
    try:
        number = float(given)
    except ValueError:
        number = float("nan")
    if not abs(number) <= torch.finfo(x.dtype).max:
        raise InputError(
            f"--baseline is {given!r}; accepted are grey, black, mean or a number that "
            f"{str(x.dtype).removeprefix('torch.')} holds"
        )
    return torch.full_like(x, number)


def _window(shape: Sequence[int], strides: Sequence[int], x: Tensor) -> SlidingWindow:
    from krypton_engine.perturbation.windows import SlidingWindow

    channels, *size = x.shape[1:]
    for edge, step, available in zip(shape, strides, size, strict=True):
        if edge > available:
            raise InputError(
                f"--window {_by(shape)} is larger than the picture, {_by(size)} pixels as the model sees it"
            )
        if step > edge and edge < available:
            raise InputError(
                f"--stride {_by(strides)} is larger than --window {_by(shape)}: it would miss pixels"
            )
    return SlidingWindow(tuple(x.shape[1:]), (channels, *shape), (channels, *strides))


def _run(
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


def _progress(heatmap: Heatmap) -> str:
    return f"{int(heatmap.measured.sum())} of {_count(heatmap.measured.numel(), 'position')}"


def _interrupted(heatmap: Heatmap, outputs: Sequence[Path]) -> int:
    _tell(
        f"krypton: interrupted; the {_progress(heatmap)} measured so far are in "
        f"{', '.join(map(str, outputs))}"
    )
    return INTERRUPTED


def _check_outputs(paths: Sequence[Path], endings: dict[str, str], images: Sequence[str]) -> None:
    """Better now than after the work."""
    for path in paths:
        if any(_same_file(path, image) for image in images):
            raise InputError(f"--out {str(path)!r} is an IMAGE, which would be lost")
        if _ending(path) not in endings:
            accepted = " or ".join(f"{ending} ({what})" for ending, what in endings.items())
            raise InputError(f"--out {str(path)!r} must end in {accepted}")
        if not path.parent.is_dir():
            raise InputError(f"--out {str(path)!r}: there is no folder {str(path.parent)!r}")
        # A file is written beside what is there, and then put in its place.
        where = [path.resolve().parent, *([path] if path.exists() else [])]
        if path.is_dir() or not all(os.access(each, os.W_OK) for each in where):
            raise InputError(f"--out {str(path)!r} cannot be written")


def _ending(path: Path) -> str:
    return path.suffix.lower()


def _same_file(path: Path, other: str) -> bool:
    return path.is_file() and os.path.isfile(other) and path.samefile(other)


def _save(heatmap: Heatmap, paths: Sequence[Path], picture: Any, title: str) -> None:
    """The numbers first: they are what took the time. What cannot be written keeps nothing else from it."""
    faults = []
    for path in sorted(paths, key=_ending):
        try:
            heatmap.save(path, **({"image": picture, "title": title} if _ending(path) == ".png" else {}))
        except Exception as error:
            faults.append(error)
    if faults:
        raise faults[0]


# ---------------------------------------------------------------------------------------------------------
# krypton tune
# ---------------------------------------------------------------------------------------------------------


def _tune(arguments: argparse.Namespace) -> int:
    from krypton_engine import zoo
    from krypton_engine.heatmap.identity import fingerprint_of_image
    from krypton_engine.tuning.tuning import ENDINGS

    # The numbers first: they are what took the time.
    outputs = sorted(arguments.out or [Path("tuning.json")], key=_ending)
    names = _samples(arguments.images)
    _check_outputs(outputs, ENDINGS, names)
    files = [path for path in outputs if _ending(path) == ".json"]
    if len(files) != 1:
        raise InputError(f"--out names {len(files)} .json files; accepted is one, for the tuning")
    if arguments.confidence == 1:
        raise InputError("--confidence is 1; accepted are numbers above 0 and below 1")
    known = _read_tuning("--out", files[0]) if files[0].exists() else None
    model = _load(arguments, arguments.weights or "pretrained")
    inputs, baselines = [], []
    for name in names:  # one picture at a time: a folder of them may not fit into memory
        image = zoo.load_image(name)
        inputs.append(_input(model, image, name))
        baselines.append(_baseline(arguments.baseline, model, image, inputs[-1]))
    shapes = {tuple(x.shape[1:]) for x in inputs}
    if len(shapes) > 1:
        raise InputError(
            f"IMAGEs are {', '.join(map(_by, sorted(shapes)))} as the model sees them; accepted is one size: "
            f"give --size, or a preprocess that resizes"
        )
    if any(not baseline.equal(baselines[0]) for baseline in baselines):
        raise InputError(
            f"--baseline {arguments.baseline} differs from picture to picture; accepted here is one for all: "
            f"grey, black or a number"
        )
    window = _window(arguments.window, arguments.stride, inputs[0])
    raw = [_outputs(model, x, name) for x, name in zip(inputs, names, strict=True)]
    activation = _activation(arguments, raw[0])
    target = None if arguments.target is None else _target(arguments.target, model, len(raw[0]))
    occlusion = _occlusion(arguments, model)
    _row("model", f"{model.name}: {model.note}")
    _row("pictures", f"{len(names)}: {_counted(model, raw)}")
    distinct = len({fingerprint_of_image(x) for x in inputs})
    if distinct < len(inputs):
        _row(
            "",
            f"{_count(len(inputs) - distinct, 'copy', 'copies')} of others among them tell nothing more",
        )
    _hint(activation, raw[0])
    name = "the predicted class" if target is None else _class_name(model, target)
    _row(
        "explains",
        f"{name}; window {_window_text(window)}, {arguments.baseline}: {_count(len(window), 'position')}",
    )
    if known is not None:
        _row("goes on", f"from {_count(len(known.images), 'picture')} in {files[0]}")

    so_far = known

    def keep(tuning: Tuning, done: int, total: int) -> None:
        nonlocal so_far
        so_far = tuning
        tuning.save(files[0])

    status = 0
    try:
        so_far = occlusion.tune(
            inputs,
            window.shape,
            window.strides,
            baselines[0],
            target,
            activation=None if activation == "none" else "softmax",
            confidence=arguments.confidence,
            max_seconds=arguments.max_seconds,
            resume=known,
            show_progress=sys.stderr.isatty(),
            on_progress=keep,
        )
    except InputError as error:
        if known is None:
            raise
        raise InputError(f"--out {str(files[0])!r} is there already: {error}") from None
    except KeyboardInterrupt:
        if so_far is None:
            raise
        status = INTERRUPTED
    written = [path for path in outputs if _ending(path) == ".json" or so_far.curves]
    for path in written:
        so_far.save(path)
    told = ", ".join(map(str, written))
    if status == INTERRUPTED:
        _tell(
            f"krypton: interrupted; what {_count(len(so_far.images), 'picture')} showed is in {told}, and "
            f"the same command goes on from there"
        )
        return status
    _say("", *str(so_far).splitlines(), "")
    _row("written", told)
    return status


def _samples(given: Sequence[str]) -> list[str]:
    """Names of pictures: as given, or all that a folder holds; but for what Krypton itself has drawn."""
    from PIL import Image as PILImage

    endings = PILImage.registered_extensions()
    names, drawn = [], []
    for name in given:
        found = [name]
        if os.path.isdir(name):
            found = sorted(str(path) for path in Path(name).iterdir() if path.suffix.lower() in endings)
        taken = [path for path in found if not _is_drawn(path)]
        drawn += [path for path in found if path not in taken]
        if not taken and os.path.isdir(name):
            raise InputError(f"IMAGE {name!r} is a folder without pictures")
        names += taken
    if drawn:
        told = ", ".join(drawn[:_FEW]) + ", ..." * (len(drawn) > _FEW)
        _tell(f"krypton: note: left out as drawn by Krypton: {told}")
    if not names:
        raise InputError("IMAGE: nothing but what Krypton has drawn")
    return names


def _is_drawn(path: str) -> bool:
    """Whether this is a picture of a map or of a tuning."""
    from PIL import Image as PILImage

    from krypton_engine.common.files import DRAWN

    try:
        with PILImage.open(path) as picture:
            return picture.info.items() >= DRAWN.items()
    except Exception:  # of whatever kind: told when it is read
        return False


def _read_tuning(option: str, path: str | Path) -> Tuning:
    from krypton_engine.tuning.tuning import Tuning

    try:
        return Tuning.load(path)
    except InputError as error:
        raise InputError(f"{option} {str(error).removeprefix('path ')}") from None


def _counted(model: ZooModel, outputs: Sequence[Tensor]) -> str:
    """How many pictures the model takes for what."""
    counts = Counter(int(row.argmax()) for row in outputs)
    told = [f"{count} {_class_name(model, index)}" for index, count in counts.most_common(4)]
    return ", ".join(told) + ", ..." * (len(counts) > 4)


# ---------------------------------------------------------------------------------------------------------
# krypton plan
# ---------------------------------------------------------------------------------------------------------


def _plan(arguments: argparse.Namespace) -> int:
    import torch

    from krypton_engine import KryptonOcclusion

    # What comes out of a factory has weights anyhow.
    weights = arguments.weights or ("pretrained" if ":" in arguments.model else "random")
    model = _load(arguments, weights)
    weight = next(model.model.parameters(), torch.empty(0))
    x = torch.zeros(1, *model.input_shape, dtype=weight.dtype, device=weight.device)
    window = _window(arguments.window, arguments.stride, x)
    plan = KryptonOcclusion(model.model).plan(x, window.shape, window.strides)
    _say(f"{model.name}{', random weights: the cost does not depend on them' * (weights == 'random')}")
    _say(*str(plan).splitlines())
    return 0


# ---------------------------------------------------------------------------------------------------------
# krypton info
# ---------------------------------------------------------------------------------------------------------


def _info(arguments: argparse.Namespace) -> int:
    import torch

    from krypton_engine.executors import cuda, native

    _row("krypton", f"{__version__} in {Path(__file__).parent}")
    _row("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    _row("torch", f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    _row("captum", importlib.metadata.version("captum"))
    _row("threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors")
    _row("memory", _memory())
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    _row("gpu", ", ".join(devices) or "torch sees none")
    print("\nexecutors")
    _row("  reference", "yes: PyTorch on changed boxes, on the model's own device")
    kinds = native.instruction_sets()
    here = f"yes: C++ for float32 images on the CPU, with {kinds[0]} kernels" if kinds else ""
    _row("  native", here or f"no: {native.MISSING}")
    _row("  cuda", _cuda_engine(cuda.MISSING, cuda.architectures(), devices))
    print("\nextras")
    extras = _extras()
    if not extras:
        _row("  unknown", f"{_DISTRIBUTION} is not installed here, this is a source tree")
    for extra, missing in extras.items():
        if missing:
            _row(f"  {extra}", f'without {", ".join(missing)}: pip install "{_DISTRIBUTION}[{extra}]"')
        else:
            _row(f"  {extra}", "complete")
    return 0


def _cuda_engine(missing: str, architectures: str, devices: Sequence[str]) -> str:
    """Whether the CUDA engine is there, for what, and whether there is something to run it on."""
    if missing:
        return f"no: {missing}"
    built = f"built for compute capabilities {_capabilities(architectures)}"
    return f"yes: {built}" if devices else f"no GPU that torch sees; {built}"


def _capabilities(architectures: str) -> str:
    """CMake's names of what was built, ``"75-real;90"``, as NVIDIA writes them: ``"7.5, 9.0 and PTX"``."""
    found = re.findall(r"(\d+)(\d)[af]?(-real|-virtual)?", architectures)
    if not found:  # such as "native"
        return architectures
    kernels = ", ".join(f"{major}.{minor}" for major, minor, kind in found if kind != "-virtual")
    ptx = any(kind != "-real" for *_, kind in found)
    return " and ".join([kernels] * bool(kernels) + ["PTX"] * ptx)


def _memory(root: Path = Path("/")) -> str:
    """Memory that this process may use, and what of it is free where the system tells."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return "unknown"
    found = re.search(r"MemAvailable:\s*(\d+) kB", _read(root / "proc/meminfo"))
    free = [1024 * int(found[1])] if found else []
    limits = [(limit, used) for limit, used in _container(root) if limit < total]
    told = f"{min([total, *(limit for limit, _ in limits)]) / 2**30:.1f} GiB"
    free += [max(0, limit - used) for limit, used in limits]
    told += f", {min(free) / 2**30:.1f} GiB available" if free else ""
    return told + f" (the container's; the machine has {total / 2**30:.1f} GiB)" * bool(limits)


def _container(root: Path) -> Iterator[tuple[int, int]]:
    """Limits of memory of the control groups around this process, and what counts against each.

    A container sees its own group as the uppermost one, whatever it is called outside.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers == "":  # version 2
            mount, limit, used, cache = "", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, limit, used = "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        top = root / "sys/fs/cgroup" / mount
        group = top / name.lstrip("/")
        for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(top))):
            if (most := _read(folder / limit).strip()).isdigit():
                kept = re.search(rf"^{cache} (\d+)", _read(folder / "memory.stat"), re.MULTILINE)
                now = _read(folder / used).strip()
                yield int(most), (int(now) if now.isdigit() else 0) - (int(kept[1]) if kept else 0)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def _extras() -> dict[str, list[str]]:
    """What is missing of every extra."""
    try:
        wanted = importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return {}
    extras: dict[str, list[str]] = {}
    for requirement in wanted:
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        name = re.match(r"[\w.-]+", requirement)
        if extra is None or name is None:
            continue
        missing = extras.setdefault(extra[1], [])
        try:
            importlib.metadata.version(name[0])
        except importlib.metadata.PackageNotFoundError:
            missing.append(name[0])
    return extras


# ---------------------------------------------------------------------------------------------------------
# What is printed
# ---------------------------------------------------------------------------------------------------------


class _Text:
    """A stream that whoever prints may rely on.

    What cannot be written, since nobody reads it or the disk is full, is left out, and so keeps nothing from
    being computed; ``fault`` says why. What the stream's encoding lacks is written as an escape.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115
        self.fault: OSError | None = None

    def write(self, text: str) -> int:
        encoding = self._stream.encoding or "utf-8"
        self._try(lambda: self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding)))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        if self.fault is not None:
            return
        try:
            act()
        except OSError as error:
            self.fault = error
            with suppress(OSError):  # the buffer still holds it, and is written out at the end
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _width() -> int:
    """Columns of the terminal. Text that goes elsewhere is not broken, unless COLUMNS is set."""
    return shutil.get_terminal_size((0, 0)).columns or sys.maxsize


def _wrapped(line: str, width: int, indent: str = "") -> list[str]:
    """Lines of at most ``width`` columns, broken between words only."""
    return textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    ) or [""]


def _command_lines(line: str, width: int, indent: str = "") -> list[str]:
    """A command, broken so that a shell takes it; an option stays with its value."""
    whole = re.sub(r"(--\w+) ", "\\1\0", line)
    *pieces, last = _wrapped(whole, width - 2, indent + " " * 6)
    return [piece.replace("\0", " ") for piece in (*(f"{piece} \\" for piece in pieces), last)]


def _say(*lines: str, indent: str = "    ") -> None:
    """Print lines; what does not fit into the terminal goes on below, further in."""
    for line in lines:
        print(line if len(line) <= _width() else "\n".join(_wrapped(line, _width(), indent)), flush=True)


def _row(name: str, value: object) -> None:
    _say(f"{name:12}{value}", indent=" " * 12)


def _tell(message: str) -> None:
    """Print what is no result, on stderr."""
    wide = _width() if sys.stderr.isatty() else sys.maxsize
    print("\n".join("\n".join(_wrapped(line, wide)) for line in message.splitlines()), file=sys.stderr)


def _plain(name: str) -> str:
    """A name without what no encoding holds: bytes of a file's name that are not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def _class_name(model: ZooModel, index: int) -> str:
    return f"class {index}" if model.class_names is None else model.class_names[index]


def _best(model: ZooModel, scores: Tensor) -> str:
    best = scores.topk(min(3, len(scores)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return ", ".join(f"{_class_name(model, index)} {figure(value)}" for index, value in pairs)


def _window_text(window: SlidingWindow) -> str:
    down, right = window.strides[1:]
    return f"{_by(window.shape[1:])}, stride {down if down == right else _by((down, right))}"


def _by(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


def _duration(seconds: float) -> str:
    return f"{figure(seconds)} s" if seconds < 120 else f"{seconds / 60:.0f} min"


_OPTIONS = {
    "baselines": "--baseline",
    "class_names": "--classes",
    "memory_budget": "--memory-budget",
    "sliding_window_shapes": "--window",
    "source": "IMAGE",
    "spec": "model",
    "strides": "--stride",
    "tuning": "--tuning",
    "weights": "--weights",
    "size": "--size",
    "mean": "--mean",
    "std": "--std",
}
_ANY = "|".join(_OPTIONS)
# `weights='x.pt' is no file`, `strides (3, 9, 9) cannot exceed ...`; but no `size` within a sentence.
_API_NAMES = re.compile(
    rf"(?<![\w./'\"-])(?:{_ANY})(?==)|^(?:{_ANY})\b|\b(?:sliding_window_shapes|strides)\b"
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # PyTorch's messages may hold them


def _message(error: Exception) -> str:
    """An error in at most four lines, in the words of the command line."""
    if isinstance(error, InputError):
        text = _API_NAMES.sub(lambda found: _OPTIONS[found[0]], str(error))
    elif isinstance(error, OSError):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}\n(--debug shows where)"
    text = _COLOURS.sub("", text)
    lines = [line if len(line) <= 300 else line[:297] + "..." for line in text.splitlines() if line.strip()]
    if len(lines) > _LONGEST_MESSAGE:
        lines = [*lines[: _LONGEST_MESSAGE - 1], "(--debug shows the rest)"]
    return "krypton: error: " + "\n".join(lines)


@contextmanager
def _plain_warnings(debug: bool) -> Iterator[None]:
    """Our own warnings in a line each; those of others only if asked for."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        _tell(f"krypton: note: {message}")

    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", FallbackWarning)
            warnings.showwarning = show
        yield
