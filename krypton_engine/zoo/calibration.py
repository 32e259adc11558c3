"""Networks with random weights whose outputs still say something."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from krypton_engine.zoo.preprocess import as_taken

_SEED = 0


@contextmanager
def seeded() -> Iterator[None]:
    """Seeds the CPU's random numbers for a while; the caller's go on afterwards as if nothing had been.

    Examples:
        >>> with seeded():
        ...     one = torch.rand(2)
        >>> with seeded():
        ...     torch.equal(torch.rand(2), one)
        True
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_SEED)
        yield


def calibrate_batch_norm(model: nn.Module, shape: Sequence[int], *, batch: int = 8) -> None:
    """Sets the BatchNorm statistics of a model with random weights by one pass over noise.

    With its first statistics (mean 0, variance 1), a deep random network lets its input fade away or blow
    up, and no occlusion changes its output measurably. The noise has structure of every size, as
    pictures have: layers that have met nothing but single pixels blow up what is large, and rounding with it
    (EfficientNet-B7's outputs became nothing else). Everything but BatchNorm stays in eval mode.

    Args:
        model: Changed in place; its training flags and momenta are as before afterwards.
        shape: Shape of one input, without the batch dimension.
        batch: Number of noise inputs.

    Examples:
        >>> norm = torch.nn.BatchNorm2d(3)
        >>> calibrate_batch_norm(norm, (3, 8, 8))
        >>> norm.running_var.min() < 1  # the noise's own variances now
        tensor(True)
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    norms = [m for m in norms if m.track_running_stats]
    if not norms:
        return
    inputs = noise(batch, shape)
    flags = [(m, m.training) for m in model.modules()]
    momenta = [m.momentum for m in norms]
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the average of all batches, here of the one
            norm.training = True
        with torch.no_grad():
            model(as_taken(model, inputs))
    finally:
        for module, flag in flags:
            module.training = flag
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def noise(batch: int, shape: Sequence[int]) -> torch.Tensor:
    """Noise of variance 1, as much of it in every octave: grains of 1, 2, 4, ... cells along each axis.

    Examples:
        >>> cells = noise(8, (3, 64, 64))
        >>> cells.shape, bool(abs(cells.var() - 1) < 0.2)
        (torch.Size([8, 3, 64, 64]), True)
    """
    generator, octaves = torch.Generator().manual_seed(_SEED), []
    for octave in range(max(shape[1:], default=1).bit_length()):
        grain = 2**octave
        cells = torch.randn(batch, shape[0], *(-(-n // grain) for n in shape[1:]), generator=generator)
        for dim, n in enumerate(shape[1:], 2):
            cells = cells.repeat_interleave(grain, dim).narrow(dim, 0, n)
        octaves.append(cells)
    return torch.stack(octaves).sum(0) / math.sqrt(len(octaves))
