"""Krypton: occlusion explanations of CNNs by incremental inference."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from krypton_engine.attr.feature_ablation import KryptonFeatureAblation
    from krypton_engine.attr.occlusion import KryptonOcclusion
    from krypton_engine.attr.owen import owen_values
    from krypton_engine.attr.shapley import KryptonShapleyValueSampling
    from krypton_engine.errors import FallbackWarning, InputError, OcclusionCancelled, RoundingWarning
    from krypton_engine.heatmap.heatmap import Heatmap
    from krypton_engine.plan.plan import Plan
    from krypton_engine.tuning.tuning import Tuning

_HOME = {
    "FallbackWarning": "errors",
    "Heatmap": "heatmap",
    "InputError": "errors",
    "KryptonFeatureAblation": "attr.feature_ablation",
    "KryptonOcclusion": "attr.occlusion",
    "KryptonShapleyValueSampling": "attr.shapley",
    "OcclusionCancelled": "errors",
    "Plan": "plan",
    "RoundingWarning": "errors",
    "Tuning": "tuning",
    "owen_values": "attr.owen",
}

__all__ = [
    "FallbackWarning",
    "Heatmap",
    "InputError",
    "KryptonFeatureAblation",
    "KryptonOcclusion",
    "KryptonShapleyValueSampling",
    "OcclusionCancelled",
    "Plan",
    "RoundingWarning",
    "Tuning",
    "owen_values",
]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    # Loaded on first use: Captum imports Matplotlib, which `import krypton_engine` should not cost.
    if name in _HOME:
        return getattr(importlib.import_module(f"krypton_engine.{_HOME[name]}"), name)
    raise AttributeError(f"module 'krypton_engine' has no attribute {name!r}")
