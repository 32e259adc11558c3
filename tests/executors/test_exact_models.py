"""Exactness on real families: no further from float64 than PyTorch's own float32 is."""

from __future__ import annotations

import pytest
import torchvision
from support.models import (
    FAMILIES,
    Case,
    Comparison,
    compare,
    monai_case,
    timm_case,
    torchvision_case,
    zoo_case,
)

from krypton_engine.executors.native import engine

ENGINES = ("resnet18", "inception_v3", "densenet121", "mobilenet_v2", "convnext_tiny", "vgg11_bn")
"""Families that the C++ engine runs on its own, not PyTorch."""

DEFAULT = (
    "resnet18",
    "squeezenet1_1",
    "mobilenet_v3_small",
    "convnext_tiny",
)
"""Compared by default: every kind of operator that the families have, but attention; see `test_no_gain`."""

ALL = tuple(torchvision.models.list_models(module=torchvision.models))
TIMM = ("resnetblur18",)
MONAI = ("3-D ResNet10", "2-D UNet with instance norm")
MORE_TIMM = (
    "resnet10t",
    "nf_regnet_b0",
    "mobileone_s0",
    "convnextv2_atto",
    "ghostnet_100",
    "res2net50_14w_8s",
)
MORE_MONAI = ("3-D DenseNet121",)


@pytest.fixture
def incremental_whatever_it_gains(monkeypatch):
    """On few and small positions some families gain too little for the planner; they must be exact too."""
    monkeypatch.setattr("krypton_engine.plan.plan.MINIMUM_GAIN", 0.0)


def slow(names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


def exact(case: Case) -> Comparison:
    found = compare(case)
    print(f"{case.name}: {found}")
    assert found.map_range > 1e-3 * found.largest, "a map below float32's resolution proves nothing"
    assert found.exact, str(found)
    return found


def exact_incrementally(case: Case) -> str:
    """Who ran it, in words."""
    found = exact(case)
    assert found.warnings == ()
    assert found.heatmap.plan is not None and found.heatmap.plan.incremental
    return found.heatmap.plan.executor


def by_the_engine(executor: str) -> bool:
    """The C++ engine, with the best kernels that there are, where it is installed."""
    return bool(engine.MISSING) or executor.startswith(f"native ({engine.instruction_sets()[0]}")


@pytest.mark.parametrize("name", [*DEFAULT, *slow(n for n in ALL if n not in DEFAULT)])
def test_torchvision(name, incremental_whatever_it_gains):
    executor = exact_incrementally(torchvision_case(name))
    assert name not in ENGINES or by_the_engine(executor), executor


@pytest.mark.parametrize("name", [*TIMM, *slow(MORE_TIMM)])
def test_timm(name, incremental_whatever_it_gains):
    exact_incrementally(timm_case(name))


@pytest.mark.parametrize("name", [*MONAI, *slow(MORE_MONAI)])
def test_monai(name, incremental_whatever_it_gains):
    exact_incrementally(monai_case(name))


@pytest.mark.parametrize(
    ("name", "image"),
    [
        pytest.param("vgg16-brain-mri", "mri:axial:90+lesion", marks=pytest.mark.slow),
        ("efficientnet-lite0", "chelsea"),
    ],
)
def test_trained(name, image):
    """Real weights on a real image, as the planner would have it."""
    executor = exact_incrementally(zoo_case(name, image))
    assert by_the_engine(executor), executor


def test_no_gain():
    """A vision transformer runs in full, says so once, and is exact."""
    found = exact(timm_case("vit_tiny_patch16_224"))
    (message,) = found.warnings
    assert "would not pay" in message
    assert found.heatmap.plan is not None and not found.heatmap.plan.incremental


def test_every_model_is_listed():
    assert len(ALL) >= 80 and set(FAMILIES) | set(DEFAULT) <= set(ALL)
