"""The former place of `krypton_engine.perturbation.windows`."""

from krypton_engine.perturbation.windows import SlidingWindow

__all__ = ["SlidingWindow"]
