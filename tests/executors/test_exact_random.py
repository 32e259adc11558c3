"""Exactness on random small CNNs: every output of every window against a loop over copies, in float64."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence

import pytest
import torch
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st
from support.random_cnns import (
    ACTIVATIONS,
    CHANNEL_KINDS,
    EMBEDDING_KINDS,
    FEW,
    FRONTIER_KINDS,
    MOVED_KINDS,
    POINTWISE_KINDS,
    UPSAMPLE_MODES,
    Activation,
    AdaptiveAverage,
    Assign,
    AvgPool,
    BatchNorm,
    Branches,
    Channels,
    Conv,
    ConvNeXt,
    Embedding,
    Frontier,
    Head,
    Layer,
    LocalResponse,
    MaxPool,
    MixAxis,
    Moved,
    Network,
    Pad,
    PartialConv,
    Pointwise,
    Question,
    Residual,
    SpaceToDepth,
    SpatialAttention,
    Transpose,
    Transposed,
    Upsample,
    build,
    image_and_baseline,
    networks,
    questions,
)
from support.truth import brute_force

from krypton_engine import FallbackWarning, KryptonOcclusion, Plan

TOLERANCE = 1e-9


@pytest.fixture(autouse=True, scope="module")
def small_networks():
    """The planner would run networks that small in full, and two threads would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("krypton_engine.plan.plan.MINIMUM_GAIN", 0.0)
        yield
    torch.set_num_threads(threads)


def check(network: Network, asked: Iterable[Question], say: Callable[[str], None] = print) -> Plan:
    """Compare every output for every window; the plan of the last question."""
    model = build(network)
    say(f"input {network.shape}\n{model}")
    occlusion = KryptonOcclusion(model)
    for question in asked:
        x, baseline = image_and_baseline(network.shape, question)
        expected = brute_force(model, x, question.window, question.strides, baseline)
        with warnings.catch_warnings():
            warnings.simplefilter("error", FallbackWarning)
            heatmap = occlusion.heatmap(
                x,
                question.window,
                question.strides,
                baseline,
                classes="all",
                schedule=question.schedule,
                on_progress=(lambda *_: True) if question.watched else None,
            )
        got = heatmap.values if heatmap.outputs is None else heatmap.outputs
        assert heatmap.plan is not None and heatmap.plan.incremental
        assert bool(heatmap.measured.all()) and got.dtype == torch.float64
        error = float((got.reshape(expected.shape) - expected).abs().max())
        scale = max(1.0, float(expected.abs().max()))
        say(f"{question}: error {error:.3g}, largest output {scale:.3g}")
        assert error <= TOLERANCE * scale
    return heatmap.plan


def operators(plan: Plan, local: bool) -> set[str]:
    return {step.op for step in plan.steps if step.local == local and step.op != "input"}


def check_drawn(data: st.DataObject, rank: int) -> None:
    network = data.draw(networks(rank), "network")
    asked = data.draw(st.lists(questions(network.shape), min_size=2, max_size=3), "questions")
    plan = check(network, asked, note)
    for operator in sorted(operators(plan, local=True)):
        event(f"incremental: {operator}")
    for step in plan.steps:
        if step.reason:
            event(f"full: {step.op}: {step.reason}")


common = settings(
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.parametrize("rank", FEW)
def test_random_networks(rank: int) -> None:
    """The same networks every time, so that a newcomer's first run is like ours."""

    @settings(common, max_examples=FEW[rank], derandomize=True)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        check_drawn(data, rank)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("rank", FEW)
def test_more_random_networks(rank: int) -> None:
    """Others every time."""

    @settings(common, max_examples=90 * FEW[rank])
    @given(st.data())
    def run(data: st.DataObject) -> None:
        check_drawn(data, rank)

    run()


# --- one layer at a time ------------------------------------------------------------------------------


def _chains(prefix: str, layers: Sequence[Layer], length: int) -> dict[str, tuple[Layer, ...]]:
    """Layers that alone would hardly fill a test, a few at a time."""
    return {f"{prefix} {i}": tuple(layers[i : i + length]) for i in range(0, len(layers), length)}


LOCAL: dict[str, tuple[Layer, ...]] = {
    "conv even kernel": (Conv(kernel=(4, 2, 3), padding=(2, 0, 1)),),
    "conv stride": (Conv(kernel=(5, 3, 3), stride=(3, 2, 2), padding=(2, 1, 1)),),
    "conv stride over kernel": (Conv(kernel=(1, 1, 1), stride=(2, 3, 2), padding=(0, 0, 0)),),
    "conv padding over kernel": (Conv(kernel=(2, 3, 2), padding=(3, 3, 3)),),
    "conv dilation": (Conv(kernel=(3, 2, 3), dilation=(2, 2, 2), padding=(1, 1, 1)), BatchNorm()),
    "conv groups": (Conv(out=8, groups=1), BatchNorm(), Conv(groups=9, bias=False), BatchNorm(False)),
    "conv same": (Conv(kernel=(4, 5, 2), padding="same", dilation=(1, 2, 1)),),
    "conv same reflect": (Conv(kernel=(4, 3, 2), padding="same", mode="reflect"),),
    "conv reflect": (Conv(kernel=(5, 3, 3), padding=(2, 1, 1), mode="reflect"), BatchNorm()),
    "conv replicate": (Conv(kernel=(5, 3, 3), padding=(3, 1, 2), stride=(2, 1, 1), mode="replicate"),),
    "conv circular": (Conv(kernel=(5, 3, 3), padding=(2, 1, 1), mode="circular"),),
    "pad": (Pad((2, 0, 1), (0, 3, 1)), Pad((-2, 1, 0), (-1, -3, -1))),
    "pad reflect": (Pad((2, 1, 1), (0, 3, 1), "reflect"), Pad((-2, 1, 1), (1, -1, -1), "reflect")),
    "pad replicate": (Pad((2, 1, 1), (0, 3, 1), "replicate"),),
    "pad circular": (Pad((2, 1, 1), (0, 3, 1), "circular"),),
    "max pool": (MaxPool((3, 3, 3), (2, 2, 2), (1, 1, 1)), MaxPool((4, 3, 2), (1, 1, 1), (2, 1, 1))),
    "max pool ceil": (MaxPool((3, 2, 2), (2, 3, 2), (0, 1, 0), ceil_mode=True),),
    "max pool dilation": (MaxPool((3, 2, 2), (1, 2, 1), (0, 0, 0), (2, 2, 2), ceil_mode=True),),
    "average pool": (AvgPool((3, 3, 3), (2, 2, 2), (1, 1, 1)),),
    "average pool ceil": (AvgPool((3, 2, 2), (2, 3, 2), (1, 1, 0), ceil_mode=True),),
    "average pool without padding": (AvgPool((3, 3, 2), (2, 1, 2), (1, 1, 1), True, False),),
    "average pool divisor": (AvgPool((3, 2, 2), (2, 1, 2), (1, 1, 1), True, True, 5),),
    "batch norm": (BatchNorm(), Activation("relu_"), BatchNorm(False)),
    **_chains("activations", [Activation(name) for name in ACTIVATIONS], 5),
    "residual": (Residual(), Residual(5, (5, 3, 1), (2, 2, 2))),
    "residual pre-activation": (Residual(4, first="relu"), Residual(3, (1, 1, 1), (3, 2, 2))),
    "branches": (
        Branches(("1x1", "3x3", "avg", "max")),
        Branches(("5x5 dilated", "3x1", "nothing")),
        Branches(("1x1 relu", "1x1 relu", "avg 1x1")),
    ),
    "branches strided": (Branches(("5x5 dilated", "3x1", "nothing", "max"), (2, 2, 2)),),
    **_chains("channels", [Channels(kind) for kind in CHANNEL_KINDS], 3),
    "partial conv": (PartialConv(),),
    "convnext": (ConvNeXt(),),
    "local response": (LocalResponse(3),),
    "spatial attention": (SpatialAttention(),),
    "space to depth": (SpaceToDepth(), Transpose()),
    # Parts of an axis that are all of it leave no box.
    **_chains("moved", [Moved(k, axis=1, by=1 if k in {"windows", "apart"} else 3) for k in MOVED_KINDS], 3),
    "upsample": (Upsample(20), Upsample(30)),
    "upsample by fractions": (Upsample(15), Upsample(24), Upsample(7)),
    **{
        f"upsample {mode}{' corners' * corners}": (
            Upsample(20, mode, corners),
            Upsample(13, mode, corners),
            Upsample(6, mode, corners),
        )
        for mode in dict.fromkeys(UPSAMPLE_MODES)
        for corners in (False, True)[: 1 + (mode in ("linear", "bicubic"))]
    },
    "adaptive average": (AdaptiveAverage((5, 9, 4)), AdaptiveAverage((11, 6, 7))),
    "transposed": (Transposed(), Transposed(kernel=(2, 2, 2), padding=(0, 0, 0))),
    "transposed with holes": (Transposed(kernel=(1, 2, 1), stride=(2, 3, 2), padding=(0, 0, 0)),),
    "transposed padding behind": (
        Transposed(kernel=(5, 4, 3), stride=(3, 2, 2), padding=(2, 1, 1), after=(1, 1, 1)),
        Transposed(stride=(1, 1, 1), groups=1),
    ),
    "transposed dilation": (Transposed(kernel=(3, 2, 2), dilation=(2, 3, 2), padding=(1, 2, 1)),),
    "assign": (Assign(1, 2, 3), Assign(0, 1, 3, 2, "twice"), Assign(1, 0, 4, 1, "mirrored")),
    "embeddings": tuple(Embedding(kind) for kind in EMBEDDING_KINDS),
    **_chains("pointwise", [Pointwise(kind) for kind in POINTWISE_KINDS], 4),
    "mix linear": (MixAxis(0, "linear"),),
    "mix mean": (MixAxis(1, "mean"),),
    "mix softmax": (MixAxis(1, "softmax"),),
}
FULL: dict[str, Layer] = {
    **{f"frontier {kind}": Frontier(kind) for kind in FRONTIER_KINDS},
}
HEAD_OPERATORS = {
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "reshape", "view", "linear", "mean"
}  # fmt: skip


def around(layers: Sequence[Layer], shape: tuple[int, ...]) -> Network:
    before, after = Conv(out=4, kernel=(3, 2, 2)), Conv(kernel=(2, 3, 2), padding=(1, 0, 0))
    return Network(shape, (before, *layers, after))


def two_questions(shape: tuple[int, ...]) -> list[Question]:
    few = (shape[0], *(3 for _ in shape[1:]))
    one = (1, *(max(2, n // 2) for n in shape[1:]))
    return [
        Question(few, (1, *(2 if len(shape) < 4 else 3 for _ in shape[1:])), "full", True),
        Question(one, (1, *(max(1, n // 3) for n in shape[1:])), "scalar"),
    ]


@pytest.mark.parametrize("name", LOCAL)
def test_local_layers(name: str) -> None:
    """The layers are exact, and nothing of them is a frontier."""
    shape = (3, 9, 12)
    plan = check(around(LOCAL[name], shape), two_questions(shape))
    assert operators(plan, local=False) <= HEAD_OPERATORS


@pytest.mark.parametrize("name", FULL)
def test_frontier_layer(name: str) -> None:
    """The layer is exact though it is computed in full."""
    shape = (3, 5, 10)
    plan = check(around([FULL[name]], shape), two_questions(shape))
    assert operators(plan, local=False) - HEAD_OPERATORS


# --- what Hypothesis has found ------------------------------------------------------------------------


FOUND = {
    "an output that reads nothing of the input": Network((1, 3, 3, 3), (Assign(0, 0, 3, 1, "0.5"),)),
    "padding around a box that is all of its operand": Network(
        (1, 3, 3),
        (Conv(out=1, padding=(0, 0, 0)), Conv(out=1, kernel=(1, 1, 1), padding=(3, 3, 3)), Embedding("map")),
    ),
    "the same, dilated": Network(
        (2, 5, 3),
        (
            Conv(out=6, kernel=(5, 5, 5), padding="same"),
            Conv(out=6, kernel=(1, 1, 1), padding=(3, 3, 3), dilation=(1, 2, 1)),
            Assign(0, 0, 2, 1, "mirrored"),
        ),
        Head("max"),
    ),
    "nothing joined to something": Network(
        (1, 4), (Conv(out=1, kernel=(4, 4, 4), padding=(0, 0, 0)), Moved("swap"))
    ),
    "nothing joined to something, in a plane": Network(
        (1, 3, 3), (Conv(out=1, padding=(0, 0, 0)), MaxPool((1, 1, 1), (1, 1, 1)), Moved("swap"), Conv(out=1))
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_found(name: str) -> None:
    """Networks that once failed, as Hypothesis shrank them."""
    network = FOUND[name]
    check(
        network,
        [Question((1,) * len(network.shape), (1,) * len(network.shape)), *two_questions(network.shape)],
    )
