"""Samples of what may stand under a window, given what surrounds it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arguments import at_least, whole
from krypton_engine.common.arrays import Floats, IntArray
from krypton_engine.common.values import digest
from krypton_engine.errors import InputError
from krypton_engine.perturbation.fillings import Fill, as_cells_of
from krypton_engine.perturbation.positions import Positions

_RIDGE = 1e-3
"""Share of the mean variance that is added to every variance: patches of images have directions in which
they hardly vary, and a fit has fewer patches than it would take to know them."""

_MOST_CELLS = 6000
"""Cells of a patch with its surroundings, at most: their covariances take a third of a gigabyte."""


class Conditional:
    """Draws from the normal distribution of a patch given its surroundings: Zintgraf et al. (2017).

    A `krypton_engine.perturbation.fillings.Filling`, made by `fit`.

    Attributes:
        patch: Shape of the patch, with its channels.
        surroundings: Cells around the patch along each axis but the channels'.
        samples: Number of draws whose answers are averaged.
        seed: Seed of the draws.

    Examples:
        >>> from krypton_engine.perturbation.windows import SlidingWindow
        >>> images = torch.rand(50, 1, 6, 2, generator=torch.Generator().manual_seed(0))
        >>> filling = Conditional.fit(images, patch=(1, 2), surroundings=0)
        >>> line, window = torch.zeros(1, 1, 6, 2), SlidingWindow((1, 6, 2), (1, 1, 2), (1, 1, 1))
        >>> filling.fill(line, window, sample=0)(window.boxes(np.array([0])))[0].shape
        torch.Size([1, 1, 1, 2])
    """

    def __init__(
        self, patch: tuple[int, ...], surroundings: int, samples: int, seed: int, mean: Floats, cov: Floats
    ) -> None:
        self.patch, self.surroundings, self.samples, self.seed = patch, surroundings, samples, seed
        outer = (patch[0], *(size + 2 * surroundings for size in patch[1:]))
        inside = np.zeros(outer, dtype=bool)
        inside[(slice(None), *(slice(surroundings, surroundings + size) for size in patch[1:]))] = True
        mine, given = inside.reshape(-1), ~inside.reshape(-1)
        self._outer, self._given = outer, given
        self._mean_inside, self._mean_given = mean[mine], mean[given]
        within, across = cov[np.ix_(mine, mine)], cov[np.ix_(given, mine)]
        weights = np.linalg.solve(cov[np.ix_(given, given)], across) if given.any() else across
        left = within - across.T @ weights
        jitter = _RIDGE * np.trace(within) / len(within) * np.eye(len(within))
        root = np.linalg.cholesky((left + left.T) / 2 + jitter)
        self._fitted = digest(torch.from_numpy(np.concatenate([mean, cov.diagonal()])))[:8]
        # To a pixel's precision: draws take half the time.
        self._weights, self._root = (each.astype(np.float32) for each in (weights, root))

    @staticmethod
    def fit(
        images: Tensor | Sequence[Tensor],
        patch: int | Sequence[int],
        surroundings: int = 4,
        *,
        samples: int = 10,
        patches: int = 8000,
        seed: int = 0,
    ) -> Conditional:
        """Learn the distribution of patches with their surroundings.

        Args:
            images: A batch ``(n, channels, *sizes)``, or examples ``(1, channels, *sizes)``, preprocessed as
                the model takes them; their sizes may differ.
            patch: Size of the window along every axis but the channels', or one for all.
            surroundings: Cells on each side of the patch that it is conditioned on; 0 for the patch's own
                distribution.
            samples: Number of draws for every window.
            patches: Number of patches that are taken at random places.
            seed: Seed of the places and of the draws.

        Raises:
            InputError: An argument that cannot be used.

        Examples:
            >>> filling = Conditional.fit(torch.rand(4, 1, 16, 16), patch=2, surroundings=1, samples=3)
            >>> filling.patch, filling.samples, filling.describe()
            ((1, 2, 2), 3, 'conditional of 2x2 given 1 around, 3 samples, seed 0, fitted as ...')
        """
        given = (
            [images]
            if isinstance(images, Tensor)
            else list(images)
            if isinstance(images, (list, tuple))
            else []
        )
        if not given or not all(isinstance(x, Tensor) and x.ndim == given[0].ndim > 2 for x in given):
            raise InputError("images", "other things", "tensors (n, channels, *sizes), at least one image")
        if not all(bool(x.double().isfinite().all()) for x in given):
            raise InputError("images", "NaN or infinite numbers", "finite ones", verb="hold")
        examples = [np.asarray(row.detach().double().cpu()) for x in given for row in x]
        channels, rank = examples[0].shape[0], examples[0].ndim - 1
        sizes = [whole(size) or 0 for size in (patch if isinstance(patch, (tuple, list)) else [patch] * rank)]
        least = {"surroundings": 0, "samples": 1, "patches": 2, "seed": 0}
        for name, number in zip(least, (surroundings, samples, patches, seed), strict=True):
            at_least(least[name], name, number)
        if len(sizes) != rank or min(sizes) < 1:
            raise InputError("patch", repr(patch), f"a positive size, or {rank} of them")
        outer = [channels, *(size + 2 * surroundings for size in sizes)]
        cells = math.prod(outer)
        unfit = [x.shape for x in examples if len(x) != channels or (np.array(x.shape) < outer).any()]
        if unfit:
            raise InputError("images", f"one of shape {unfit[0]}", f"{tuple(outer)} cells or more")
        if cells > _MOST_CELLS:
            told = f"{tuple(sizes)} with {surroundings} around, {cells} cells in all"
            raise InputError("patch", told, f"at most {_MOST_CELLS}")
        generator = np.random.default_rng(seed)
        rows = np.empty((patches, cells))
        for row in rows:
            image = examples[generator.integers(len(examples))]
            at = [generator.integers(n - k + 1) for n, k in zip(image.shape, outer, strict=True)]
            row[:] = _crop(image, at, outer)
        mean = rows.mean(0)
        rows -= mean
        cov = rows.T @ rows / patches
        cov[np.diag_indices(len(cov))] += max(_RIDGE * np.trace(cov) / len(cov), 1e-12)
        return Conditional((channels, *sizes), surroundings, samples, seed, mean, cov)

    def fill(self, x: Tensor, positions: Positions, sample: int) -> Fill:
        """See `krypton_engine.perturbation.fillings.Filling.fill`; beyond its edges the image is mirrored.

        Raises:
            InputError: The windows are larger than the patch, or the image has other channels.
        """
        boxes = positions.boxes(np.arange(len(positions), dtype=np.int64))
        largest = tuple((boxes[..., 1] - boxes[..., 0]).max(0).tolist())
        if x.ndim != len(self.patch) + 1 or any(k > n for k, n in zip(largest, self.patch, strict=True)):
            raise InputError("baselines", self.describe(), f"one fitted to patches of {largest}")
        if largest[0] != self.patch[0]:
            raise InputError("baselines", self.describe(), "windows over all channels")
        around = [(0, 0), *(((self.surroundings, self.surroundings + size)) for size in self.patch[1:])]
        padded = np.pad(x[0].double().cpu().numpy(), around, mode="symmetric")

        def fill(boxes: IntArray) -> list[Tensor]:
            starts = boxes[:, :, 0].tolist()
            found = np.stack([_crop(padded, at, self._outer) for at in starts])
            beside = (found[:, self._given] - self._mean_given).astype(np.float32)
            mean = self._mean_inside + beside @ self._weights
            # By box, so that a map cut short, or of a part, is filled as a whole one.
            chance = [
                np.random.default_rng((self.seed, sample, *at)).standard_normal(
                    mean.shape[1], dtype=np.float32
                )
                for at in starts
            ]
            drawn = mean + np.stack(chance) @ self._root.T
            contents = as_cells_of(x, torch.from_numpy(drawn.reshape(-1, *self.patch)))
            extents = (boxes[..., 1] - boxes[..., 0]).tolist()
            return [
                each[tuple(slice(size) for size in extent)][None]
                for each, extent in zip(contents, extents, strict=True)
            ]

        return fill

    def describe(self) -> str:
        """See `krypton_engine.perturbation.fillings.Filling.describe`."""
        size = "x".join(map(str, self.patch[1:]))
        return (
            f"conditional of {size} given {self.surroundings} around, {self.samples} samples, "
            f"seed {self.seed}, fitted as {self._fitted}"
        )


def _crop(image: Floats, at: Sequence[int], shape: Sequence[int]) -> Floats:
    """A part of an image, in one row."""
    part = image[tuple(slice(i, i + k) for i, k in zip(at, shape, strict=True))]
    return np.asarray(part.reshape(-1))
