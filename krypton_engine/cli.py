"""``krypton ...``: the command line.

Heavy packages are imported by the commands that use them, so that ``krypton --help`` is quick.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import sys
import textwrap
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from krypton_engine import __version__
from krypton_engine.errors import FallbackWarning, InputError
from krypton_engine.executors import EXECUTORS

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from krypton_engine.heatmap import Heatmap
    from krypton_engine.occlusion import KryptonOcclusion
    from krypton_engine.windows import SlidingWindow
    from krypton_engine.zoo import ZooModel

USER_ERROR, INTERRUPTED = 2, 130

_DISTRIBUTION = "krypton-occlusion"
_LONGEST_MESSAGE = 4  # lines
_WIDTH = 100

_EXAMPLES = """\
examples:
  krypton demo
  krypton explain photo.jpg --model efficientnet-lite0 --window 32 --stride 8 --out map.png
  krypton explain scan.png --model mymodels:build --weights best.pt --size 224 --target tumour
  krypton plan resnet18 --window 16 --stride 4
"""

_MODEL_HELP = (
    '"vgg16-brain-mri", "efficientnet-lite0", a torchvision model such as "resnet18", or "module:factory": '
    "a function, in a module that can be imported from here, that returns your model, (model, preprocess) "
    "or (model, preprocess, class names)"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after ``krypton``; by default the process's own.

    Returns:
        The exit status: 0, 2 after an error that was told on stderr, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        arguments = _parser().parse_args(words)
        with _plain_warnings(debug):
            status: int = arguments.run(arguments)
            sys.stdout.flush()
            return status
    except KeyboardInterrupt:
        print("krypton: interrupted before anything was computed", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `krypton plan ... | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            print(_message(error), file=sys.stderr)
        return USER_ERROR


# ---------------------------------------------------------------------------------------------------------
# Arguments
# ---------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Tells errors as everything else here does: without the usage lines, which may fill a screen."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}\n({self.prog} --help tells what is accepted)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="krypton",
        description="Occlusion explanations of CNNs by incremental inference: Captum's numbers, sooner.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"krypton {__version__}")
    everywhere = _Parser(add_help=False)
    for each in (parser, everywhere):
        each.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", parents=[everywhere]
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
    explain.add_argument("--model", metavar="M", required=True, help=_MODEL_HELP)
    _add_window_options(explain)
    explain.add_argument(
        "--target", metavar="C", help="class to explain, a name or an index (the predicted one)"
    )
    explain.add_argument(
        "--baseline",
        metavar="B",
        default="grey",
        help="what covers the window: grey, black, mean (of this picture), or a number in the units of the "
        "model's input (grey)",
    )
    explain.add_argument(
        "--activation",
        choices=("softmax", "none"),
        help="what is applied to the model's outputs (softmax if there are several)",
    )
    explain.add_argument("--executor", choices=EXECUTORS, default="auto", help="(auto)")
    explain.add_argument(
        "--memory-budget", metavar="MiB", type=_positive, default=2048.0, help="memory to work in (2048)"
    )
    explain.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        action="append",
        help=".png (a picture) or .npz (the numbers); may be given twice (heatmap.png)",
    )
    _add_model_options(explain, weights='"pretrained", "random", or a checkpoint of yours (pretrained)')

    plan = command("plan", _plan, "show what a window costs on a model, without running it")
    plan.add_argument("model", metavar="MODEL", help=_MODEL_HELP)
    _add_window_options(plan)
    _add_model_options(plan, weights='"pretrained", "random", or a checkpoint (random: it costs the same)')

    command("info", _info, "show versions, executors, and what is missing")
    return parser


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
    group.add_argument("--classes", metavar="FILE", help="names of the classes, one a line")


def _sizes(text: str) -> tuple[int, int]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) not in (1, 2) or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number, or two: height,width")
    return sizes[0], sizes[-1]


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, or several: r,g,b") from None


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return number


# ---------------------------------------------------------------------------------------------------------
# krypton demo
# ---------------------------------------------------------------------------------------------------------


def _demo(arguments: argparse.Namespace) -> int:
    from krypton_engine import KryptonOcclusion, zoo
    from krypton_engine.plan import describe

    folder: Path = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    picture, numbers = folder / "krypton-demo.png", folder / "krypton-demo.npz"
    _check_outputs([picture, numbers])
    model = zoo.load_model(zoo.DEMO_MODEL)
    image = zoo.load_image(zoo.DEMO_IMAGE)
    x = _input(model, image)
    window = _window((16, 16), arguments.stride, x)
    baseline = _baseline("black", model, image, x)
    scores = _scores(model, x, "softmax")
    target = int(scores.argmax())
    name = _class_name(model, target)
    _row("model", model.note)
    _row("image", f"{zoo.DEMO_IMAGE}, {_by(x.shape[2:])} pixels as the model sees it")
    _row("predicted", _best(model, scores))
    covered = len(window.touching(x[0] != baseline[0]))
    _row("window", f"{_window_text(window)}, black: {len(window)} positions")
    _row("", f"{len(window) - covered} of them are black already and cost nothing")

    occlusion = KryptonOcclusion(model.model)
    heatmap, whole = _run(occlusion, x, window, baseline, target, "softmax")
    title = f'What "{name}" rests on ({float(heatmap.base):.3f} for the whole picture)'
    _save(heatmap, [picture, numbers], model.display(x[0]), title)
    if not whole:
        return _interrupted(heatmap, [picture, numbers])
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
        f"largest difference {difference:.1g} of a score of {scale:.3g} on those {count} positions",
    )
    _row("picture", picture)
    _row("numbers", f"{numbers} (krypton_engine.Heatmap.load)")
    print()
    print(textwrap.fill(_in_words(heatmap, model, name), _WIDTH))
    print("\nNow yours: krypton explain photo.jpg --model efficientnet-lite0 --window 32 --stride 8")
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


def _in_words(heatmap: Heatmap, model: ZooModel, name: str) -> str:
    worst = int(heatmap.values.argmin())
    row, column = heatmap.positions.reshape(-1, 2)[worst].tolist()
    height, width = heatmap.window.shape[1:]
    text = (
        f'The picture: red is what the answer "{name}" rests on, blue what speaks against it; every pixel '
        f"shows by how much the probability drops, averaged over the windows that cover it. Most of all "
        f"count rows {row} to {row + height - 1}, columns {column} to {column + width - 1}: with them "
        f"black, {float(heatmap.base):.3f} becomes {float(heatmap.values.reshape(-1)[worst]):.3f}."
    )
    if heatmap.classes is not None:
        flipped = heatmap.classes[(heatmap.classes >= 0) & (heatmap.classes != heatmap.target)]
        if len(flipped):
            other = _class_name(model, int(flipped.mode().values))
            text += (
                f" At {len(flipped)} of the {heatmap.classes.numel()} positions the model changes its mind,"
                f' mostly to "{other}".'
            )
    return text


# ---------------------------------------------------------------------------------------------------------
# krypton explain
# ---------------------------------------------------------------------------------------------------------


def _explain(arguments: argparse.Namespace) -> int:
    from krypton_engine import KryptonOcclusion

    outputs = arguments.out or [Path("heatmap.png")]
    _check_outputs(outputs)
    image = _picture(arguments.image)
    model = _load(arguments, arguments.weights or "pretrained")
    x = _input(model, image)
    window = _window(arguments.window, arguments.stride, x)
    raw = _scores(model, x, "none")
    activation = arguments.activation or ("softmax" if len(raw) > 1 else "none")
    if activation == "softmax" and len(raw) == 1:
        raise InputError("--activation softmax of a single output is always 1; accepted here is none")
    scores = _scores(model, x, activation)
    target = int(scores.argmax()) if arguments.target is None else _target(arguments.target, model, len(raw))
    baseline = _baseline(arguments.baseline, model, image, x)
    occlusion = KryptonOcclusion(
        model.model, executor=arguments.executor, memory_budget=int(arguments.memory_budget * 2**20)
    )
    _row("model", f"{model.name}: {model.note}")
    _row("predicted", _best(model, scores))
    if activation == "softmax" and bool((raw >= 0).all()) and abs(float(raw.sum()) - 1) < 1e-3:
        _row("", "(the outputs look like probabilities already: --activation none?)")
    name = _class_name(model, target)
    _row("explains", f"{name}; window {_window_text(window)}, {arguments.baseline}: {len(window)} positions")

    heatmap, whole = _run(occlusion, x, window, baseline, target, activation)
    title = f"{name}: {float(scores[target]):.3g} ({Path(arguments.image).name}, {model.name})"
    _save(heatmap, outputs, model.display(x[0]), title)
    if not whole:
        return _interrupted(heatmap, outputs)
    _row("heatmap", heatmap)
    _row("written", ", ".join(map(str, outputs)))
    return 0


def _picture(source: str) -> Image:
    """The picture, if it holds nothing but numbers."""
    import numpy as np
    import PIL.Image

    from krypton_engine import zoo

    image = zoo.load_image(source)
    if os.path.isfile(source):  # made 8 bits by now, which would hide it
        with PIL.Image.open(source) as file:
            if file.mode == "F" and not np.isfinite(np.asarray(file)).all():
                raise InputError(f"IMAGE={source!r} holds NaN or infinite pixels")
    return image


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


def _input(model: ZooModel, image: Image) -> Tensor:
    """The model's input, ``(1, C, H, W)``."""
    import torch

    x = model.preprocess(image)[None]
    if not bool(torch.isfinite(x).all()):
        raise InputError("IMAGE gives NaN or infinite numbers after the model's preprocessing")
    weight = next(model.model.parameters(), x)
    return x.to(weight.device, weight.dtype)


def _scores(model: ZooModel, x: Tensor, activation: str) -> Tensor:
    """What the model says of the whole picture: one number a class."""
    import torch

    with torch.no_grad():
        scores: Tensor = model.model(x)[0]
    if not bool(torch.isfinite(scores).all()):
        raise InputError(
            "IMAGE makes the model return NaN or infinite numbers, so there is nothing to explain"
        )
    return scores.softmax(0) if activation == "softmax" else scores


def _target(given: str, model: ZooModel, classes: int) -> int:
    """The class that ``--target`` names; a number is an index, from the end if negative."""
    names = model.class_names or []
    named = [i for i, name in enumerate(names) if name.lower() == given.lower()]
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
        known = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise InputError(
            f"--target {given!r} is no class of {model.name}.\n"
            + (f"Its classes: {known}; or an index" if names else "Its classes have no names: give an index")
            + f" from 0 to {classes - 1}."
        ) from None
    if not -classes <= index < classes:
        raise InputError(f"--target {index} is out of range: {model.name} has classes 0 to {classes - 1}")
    return index % classes


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
    if not abs(number) < float("inf"):
        raise InputError(f"--baseline is {given!r}; accepted are grey, black, mean or a number")
    return torch.full_like(x, number)


def _window(shape: Sequence[int], strides: Sequence[int], x: Tensor) -> SlidingWindow:
    from krypton_engine.windows import SlidingWindow

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
            activation="softmax" if activation == "softmax" else None,
            schedule="coarse to fine",
            show_progress=sys.stderr.isatty(),
            on_progress=keep,
        )
    except KeyboardInterrupt:
        if so_far is None:
            raise
        return so_far, False
    return heatmap, True


def _interrupted(heatmap: Heatmap, outputs: Sequence[Path]) -> int:
    print(
        f"krypton: interrupted; the {int(heatmap.measured.sum())} of {heatmap.measured.numel()} positions "
        f"measured so far are in {', '.join(map(str, outputs))}",
        file=sys.stderr,
    )
    return INTERRUPTED


def _check_outputs(paths: Sequence[Path]) -> None:
    """Better now than after the work."""
    for path in paths:
        if path.suffix not in {".png", ".npz"}:
            raise InputError(f"--out {str(path)!r} must end in .png (a picture) or .npz (the numbers)")
        if not path.parent.is_dir():
            raise InputError(f"--out {str(path)!r}: there is no folder {str(path.parent)!r}")
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise InputError(f"--out {str(path)!r} cannot be written")


def _save(heatmap: Heatmap, paths: Sequence[Path], picture: Any, title: str) -> None:
    for path in paths:
        if path.suffix == ".png":
            heatmap.save(path, image=picture, title=title)
        else:
            heatmap.save(path)


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
    print(f"{model.name}{', random weights: the cost does not depend on them' * (weights == 'random')}")
    print(plan)
    return 0


# ---------------------------------------------------------------------------------------------------------
# krypton info
# ---------------------------------------------------------------------------------------------------------


def _info(arguments: argparse.Namespace) -> int:
    import torch

    from krypton_engine.executors import native

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
    _row("  cuda", "no: the CUDA engine is not part of this version")
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


def _memory() -> str:
    """Physical memory, and what of it is free for use where the system tells."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return "unknown"
    told = f"{total / 2**30:.1f} GiB"
    try:
        found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        found = None
    return told + (f", {int(found[1]) / 2**20:.1f} GiB available" if found else "")


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


def _row(name: str, value: object) -> None:
    print(f"{name:12}{value}", flush=True)


def _class_name(model: ZooModel, index: int) -> str:
    return f"class {index}" if model.class_names is None else model.class_names[index]


def _best(model: ZooModel, scores: Tensor) -> str:
    best = scores.topk(min(3, len(scores)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return ", ".join(f"{_class_name(model, index)} {value:.3f}" for index, value in pairs)


def _window_text(window: SlidingWindow) -> str:
    down, right = window.strides[1:]
    return f"{_by(window.shape[1:])}, stride {down if down == right else _by((down, right))}"


def _by(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


_OPTIONS = {
    "baselines": "--baseline",
    "class_names": "--classes",
    "memory_budget": "--memory-budget",
    "sliding_window_shapes": "--window",
    "source": "IMAGE",
    "spec": "model",
    "strides": "--stride",
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
        print(f"krypton: note: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", FallbackWarning)
            warnings.showwarning = show
        yield
