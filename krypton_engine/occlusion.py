"""The former place of `krypton_engine.attr.occlusion`."""

from krypton_engine.attr.occlusion import KryptonOcclusion

__all__ = ["KryptonOcclusion"]
