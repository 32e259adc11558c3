"""Random maps that no model made."""

import numpy as np
from scipy.ndimage import gaussian_filter

SIDE = 57


def smooth_map(seed: int, shape: tuple[int, ...] = (SIDE, SIDE), reach: float = 4.0) -> np.ndarray:
    """A random map that is smooth over ``reach`` cells and rougher in one half."""
    generator = np.random.default_rng(seed)
    smooth = gaussian_filter(generator.normal(size=shape), reach) * reach
    rough = gaussian_filter(generator.normal(size=shape), reach / 3) * reach / 3
    rough[..., : shape[-1] // 2] = 0
    return smooth + 0.5 * rough
