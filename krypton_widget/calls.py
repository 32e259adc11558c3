"""The call that makes an explorer's map without it: in Python, and on the command line."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from torch import Tensor

from krypton_engine.attr.checks import Activation
from krypton_engine.medical import Scan
from krypton_engine.medical.plain import is_meta_tensor
from krypton_engine.perturbation.regions import Regions
from krypton_engine.perturbation.windows import as_sliding
from krypton_engine.zoo.load import spelled
from krypton_engine.zoo.patches import COLOURS
from krypton_widget.coverings import GIVEN
from krypton_widget.fields import Field
from krypton_widget.maps import Sent
from krypton_widget.subject import Subject
from krypton_widget.task import Task

_MOST_NUMBERS = 4
"""Channels whose numbers are written out."""


def calls(task: Task, subject: Subject, activation: Activation) -> Sent:
    """The call of a map in Python (``"python"``) and on the command line (``"command"``).

    Args:
        task: The map.
        subject: The model and its images.
        activation: What makes probabilities of outputs.

    Examples:
        >>> from krypton_widget.cache import Known, MapKey
        >>> from krypton_widget.task import Wish, task_for
        >>> subject = Subject(model, [np.zeros((24, 20, 3), np.uint8)], None)
        >>> wish = Wish(ssim_target=1, exact=True, region=None, target=2)
        >>> task = task_for(MapKey(0, 8, 4, "grey"), wish, Known(), subject, None, keep_all=False)
        >>> found = calls(task, subject, "softmax")
        >>> print(found["python"])
        # model and image are those of the explorer.
        from krypton_engine import KryptonOcclusion
        from krypton_engine.zoo import patch
        from krypton_engine.zoo.pixels import plain_input
        <BLANKLINE>
        x = plain_input(image)
        heatmap = KryptonOcclusion(model).heatmap(
            x,
            (3, 8, 8),
            (3, 4, 4),
            baselines=patch(image, "grey"),
            target=2,
            activation="softmax",
        )
        >>> print(found["command"])
        # IMAGE and MODEL stand for yours.
        krypton explain IMAGE --model MODEL --window 8 --stride 4 --baseline grey --target 2 ...
    """
    return {"python": _python(task, subject, activation), "command": _command(task, subject, activation)}


def _python(task: Task, subject: Subject, activation: Activation) -> str:
    names, imports = ["model"], ["from krypton_engine import KryptonOcclusion"]
    index = task.key.image
    image = "image" if len(subject.images) == 1 else f"images[{index}]"
    names.append(image.partition("[")[0])
    if subject.preprocess is not None:
        names.append("preprocess")
    x = _input(subject, index, image, imports)
    arguments = ["x"]
    if isinstance(task.positions, Regions):
        names.append("explorer")
        imports.append("import torch")
        arguments.append("regions=torch.from_numpy(explorer.heatmap.window.numbers)")
    else:
        window = as_sliding(task.positions)
        arguments += [str(window.shape), str(window.strides)]
    arguments.append(f"baselines={_covering(task, subject, image, names, imports)}")
    arguments.append(f"target={task.aim.target}")
    if activation is not None:
        arguments.append("activation=" + ('"softmax"' if activation == "softmax" else "activation"))
        names += [] if activation == "softmax" else ["activation"]
    if isinstance(task.wish.region, tuple):
        arguments.append(f"region={task.wish.region}")
    elif task.wish.region is not None:
        names.append("explorer")
        imports.append("import torch")
        arguments.append("region=torch.from_numpy(explorer.region)")
    if not task.exact:
        arguments.append(f"ssim_target={task.ssim_target}")
        if task.keep_all:  # otherwise small changes are dropped on the way
            arguments.append('classes="all"')
        if task.tuning is not None:
            names.append("tuning")
            arguments.append("tuning=tuning")
    lines = [
        f"# {_listed(names)} are those of the explorer.",
        *sorted(set(imports), key=lambda line: (not line.startswith("import"), line)),
        "",
        f"x = {x}",
        "heatmap = KryptonOcclusion(model).heatmap(",
        *[f"    {argument}," for argument in arguments],
        ")",
    ]
    return "\n".join(lines)


def _listed(names: Sequence[str]) -> str:
    """Names with an "and" before the last, each once."""
    *others, last = dict.fromkeys(names)
    return f"{', '.join(others)} and {last}"


def _input(subject: Subject, index: int, image: str, imports: list[str]) -> str:
    """The expression of the model's input; what it needs is added to the imports."""
    given, x, raw = subject.input(index), subject.x(index), subject.images[index]
    shape = tuple(x.shape)
    if subject.preprocess is not None:
        text = f"preprocess({image}).reshape{shape}"
    elif not isinstance(given, Field):
        imports.append("from krypton_engine.zoo.pixels import plain_input")
        text = f"plain_input({_picture(raw, image)})"
    elif isinstance(raw, Scan):
        text = f"{image}.tensor[None]"
    elif is_meta_tensor(raw):
        imports.append("from krypton_engine.medical import read_scan")
        text = f"read_scan({image}).tensor[None]"
    else:
        imports.append("import torch")
        share = " / 255" if str(getattr(raw, "dtype", "")).endswith("uint8") else ""
        text = f"torch.as_tensor({image}).float().reshape{shape}{share}"
    if (given.x.dtype, given.x.device) != (x.dtype, x.device):
        imports.append("import torch")
        text += f'.to("{x.device}", {x.dtype})'
    return text


def _picture(raw: object, image: str) -> str:
    """A picture as functions of pictures take it."""
    return f"{image}.tensor" if isinstance(raw, Scan) else image


def _covering(task: Task, subject: Subject, image: str, names: list[str], imports: list[str]) -> str:
    """The expression of what covers cells."""
    name, index = task.key.baseline, task.key.image
    if name.startswith(GIVEN):
        names.append("filling")
        return "filling"
    if name not in COLOURS:
        return f'"{name}"'
    if not isinstance(subject.input(index), Field):
        imports.append("from krypton_engine.zoo import patch")
        further = "" if subject.preprocess is None else ", preprocess"
        return f'patch({_picture(subject.images[index], image)}, "{name}"{further})'
    numbers = _numbers(task.filling)
    if numbers is None:
        return f'"{name}"'
    if len(numbers) == 1:
        return repr(numbers[0])
    imports.append("import torch")
    ones = ", 1" * (task.x.ndim - 2)
    return f"torch.tensor({numbers}).reshape(1, {len(numbers)}{ones})"


def _numbers(filling: object) -> list[float] | None:
    """The number of every channel, or one for all; None where they are many, or cells differ."""
    if not isinstance(filling, Tensor) or filling.shape[1] > _MOST_NUMBERS:
        return None
    cells = filling[0].flatten(1).double().cpu()
    if not bool((cells == cells[:, :1]).all()):
        return None
    numbers: list[float] = cells[:, 0].tolist()
    return numbers[:1] if len(set(numbers)) == 1 else numbers


def _command(task: Task, subject: Subject, activation: Activation) -> str:
    """The command; a comment that says why where there is none."""
    key, given = task.key, subject.input(task.key.image)
    volume = isinstance(given, Field)
    numbers = _numbers(task.filling)
    missing = (
        "signals" if volume and given.x.ndim == 3
        else "a region to look at" if task.wish.region is not None
        else "an activation of your own" if activation not in ("softmax", None)
        else "a filling of your own" if key.baseline.startswith(GIVEN)
        else "such a filling of scans" if volume and (numbers is None or len(numbers) > 1)
        else "regions of scans" if volume and isinstance(task.positions, Regions)
        else ""
    )  # fmt: skip
    if missing:
        return f"# The command line has no {missing}."
    source, model = subject.source(key.image), spelled(subject.model)
    words = ["krypton", "explain", source or "IMAGE", "--model", *(model or ["MODEL"])]
    notes = [name for name, known in (("IMAGE", source), ("MODEL", model)) if not known]
    if isinstance(key.regions, Regions):
        words += ["--regions", "regions.npy"]
        notes.append("regions.npy")
    elif key.regions is not None:
        words += ["--regions", key.regions]
    else:
        window = as_sliding(task.positions)
        for option, sizes in (("--window", window.shape), ("--stride", window.strides)):
            own = sizes[1:] if len(set(sizes[1:])) > 1 else sizes[1:2]
            words += [option, ",".join(map(str, own))]
    if volume and numbers is not None:
        words += [f"--baseline={numbers[0]!r}"]
    elif key.baseline in COLOURS:
        words += ["--baseline", key.baseline]
    else:
        words += ["--filling", key.baseline.replace(" ", "-")]
    words += ["--target", str(task.aim.target), "--activation", "softmax" if activation else "none"]
    if not task.exact:
        words += ["--ssim", f"{task.ssim_target}"]
        if task.tuning is not None:
            words += ["--tuning", "tuning.json"]
            notes.append("tuning.json")
    words += ["--out", "map.npz"]
    stand = "stand" if len(notes) > 1 else "stands"
    note = f"# {_listed(notes) if len(notes) > 1 else notes[0]} {stand} for yours.\n" if notes else ""
    return note + shlex.join(map(str, words))
