"""What approximation costs on images of a kind, and where to stop."""

from krypton_engine.tuning.tuning import Tuning

__all__ = ["Tuning"]
