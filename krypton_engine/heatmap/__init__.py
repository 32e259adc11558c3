"""Heatmaps: values that hold neither model nor engine."""

from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.heatmap.status import Status

__all__ = ["Heatmap", "Status"]
