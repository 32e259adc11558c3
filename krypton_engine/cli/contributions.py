"""Contributions of regions: Shapley and Owen values on the command line."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from krypton_engine.cli.saving import ending
from krypton_engine.common import files
from krypton_engine.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from krypton_engine.perturbation.regions import Regions
    from krypton_engine.zoo import ZooModel

METHODS = {"shapley": 25, "owen": 500}
"""Methods that share an answer out among regions, with their usual numbers of permutations or evaluations."""


def contributions(
    method: str,
    model: nn.Module,
    x: Tensor,
    regions: Regions,
    baseline: Tensor,
    target: int,
    count: int,
    executor: str,
    budget: int | None,
    show_progress: bool = False,
) -> Tensor:
    """The contribution of every region: ``(regions,)``; they add up to what the picture is worth.

    Args:
        method: One of `METHODS`.
        model: The model, with its activation.
        x: The picture as an input.
        regions: The regions.
        baseline: What covers absent regions.
        target: The class.
        count: Permutations, or evaluations.
        executor: As of `krypton_engine.KryptonOcclusion`.
        budget: Memory in bytes, or None.
        show_progress: Whether to draw a progress bar.

    Examples:
        >>> from krypton_engine.perturbation.regions import Regions
        >>> halves = Regions.of(torch.arange(20) // 10, (3, 24, 20))
        >>> found = contributions("shapley", model, x, halves, 0 * x, 2, 3, "reference", None)
        >>> torch.allclose(found.sum(), (model(x) - model(0 * x))[0, 2], atol=1e-5)
        True
    """
    import numpy as np
    import torch

    from krypton_engine import KryptonShapleyValueSampling, owen_values

    mask = torch.from_numpy(regions.numbers)[None]
    if method == "shapley":
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the same command, the same numbers
            found = KryptonShapleyValueSampling(model, executor, budget).attribute(
                x, baseline, target, feature_mask=mask, n_samples=count, show_progress=show_progress
            )
        assert isinstance(found, torch.Tensor)
    else:
        found = owen_values(
            model, x, baseline, target, feature_mask=mask, max_evals=count, executor=executor,
            memory_budget=budget, show_progress=show_progress,
        )  # fmt: skip
    numbers = np.broadcast_to(regions.numbers, regions.input_shape).reshape(-1)
    first = np.unique(numbers, return_index=True)[1]
    return found.reshape(-1)[torch.from_numpy(first)]


def save(
    paths: Sequence[Path],
    values: Tensor,
    regions: Regions,
    model: ZooModel,
    x: Tensor,
    base: Tensor,
    legend: tuple[str, str],
    title: str,
) -> None:
    """Write contributions as pictures (``.png``, ``.svg``, ``.pdf``) and numbers (``.npz``).

    Args:
        paths: The files.
        values: The contributions: ``(regions,)``.
        regions: The regions.
        model: The model.
        x: The picture as an input.
        base: What the model says of the picture.
        legend: The heading of the picture, and what its colours stand for.
        title: The title above.

    Examples:
        >>> from krypton_engine.perturbation.regions import Regions
        >>> halves = Regions.of(torch.arange(20) // 10, (3, 24, 20))
        >>> values, legend = torch.tensor([1.0, -1.0]), ("Shapley value", "share of the answer")
        >>> save([Path("v.npz")], values, halves, zoo_model, x, torch.tensor(0.5), legend, "cat")
        >>> read("v.npz")[0, 0, :3]
        tensor([1., 1., 1.])
    """
    import numpy as np
    import torch

    from krypton_engine.heatmap import picture
    from krypton_engine.heatmap.files import PICTURES
    from krypton_engine.heatmap.shown import Shown
    from krypton_engine.heatmap.status import Status

    for path in sorted(paths, key=ending):
        if ending(path) in PICTURES:
            exact = torch.full_like(values, Status.EXACT, dtype=torch.uint8)
            shown = Shown(values, exact, base, regions, x[0])
            below, kind = model.display(x[0]), ending(path)
            files.write(path, picture.file(shown, title, title, below, legend=legend, ending=kind))
            continue
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, attribution=regions.average(values).numpy(), contributions=values.numpy(), ids=regions.ids
        )
        files.write(path, buffer.getvalue())


def read(path: str) -> Tensor:
    """The attributions, of a model's input, that `save` wrote to a ``.npz``.

    Raises:
        InputError: The file holds none.

    Examples:
        >>> np.savez("values.npz", attribution=np.zeros((3, 24, 20)))
        >>> read("values.npz").shape
        torch.Size([3, 24, 20])
    """
    import numpy as np
    import torch

    try:
        with np.load(path, allow_pickle=False) as archive:
            return torch.from_numpy(archive["attribution"])
    except (OSError, KeyError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise InputError("MAP", repr(path), problem=f"which holds no map: {error}") from None
