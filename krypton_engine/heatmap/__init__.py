"""Heatmaps: values that hold neither model nor engine."""

from krypton_engine.heatmap.heatmap import Heatmap, Status

__all__ = ["Heatmap", "Status"]
