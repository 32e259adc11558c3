"""The Jupyter widget: a live occlusion map with its controls (`OcclusionExplorer`)."""

from krypton_widget.explorer import OcclusionExplorer

__all__ = ["OcclusionExplorer"]
