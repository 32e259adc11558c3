"""The cost of a window on a graph, before anything runs. Plans are data and hold no engine."""

from krypton_engine.plan.plan import Plan

__all__ = ["Plan"]
