"""The former place of `krypton_engine.approximation.ssim`."""

from krypton_engine.approximation.ssim import SsimEstimate, ssim

__all__ = ["SsimEstimate", "ssim"]
