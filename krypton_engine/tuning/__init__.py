"""The cost of approximation on images of a kind, and stopping rules for them."""

from krypton_engine.tuning.tuning import Tuning

__all__ = ["Tuning"]
