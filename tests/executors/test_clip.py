"""The paper's projective field threshold: boxes that are cut to a share of the value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import sessions
from torch import nn

from krypton_engine import InputError
from krypton_engine.executors.base import Opening, Unsupported
from krypton_engine.executors.native.executor import EXECUTOR as NATIVE
from krypton_engine.executors.native.session import NativeSession
from krypton_engine.executors.reference.program import ReferenceProgram
from krypton_engine.executors.reference.session import ReferenceSession
from krypton_engine.executors.standby import Standby
from krypton_engine.graph.box_operators import Convolution, Pool
from krypton_engine.graph.ir import clipped
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.plan.plan import Plan
from krypton_engine.planning.cache import Source, capture

SIZES = {1: (46,), 2: (26, 21), 3: (13, 11, 12)}


class Branching(nn.Module):
    """Kernels, strides, dilation, a residual and two branches, for any rank."""

    def __init__(self, rank):
        super().__init__()
        torch.manual_seed(rank)
        conv = [nn.Conv1d, nn.Conv2d, nn.Conv3d][rank - 1]
        self.stem, self.beside = conv(2, 6, 5, stride=2, padding=2), conv(2, 6, 1, stride=2)
        self.inner, self.outer = conv(6, 6, 3, padding=1), conv(6, 6, 3, padding=1)
        self.pool = [nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d][rank - 1](3, 2, 1)
        self.narrow, self.wide = conv(6, 4, 1), conv(6, 4, 3, padding=2, dilation=2)
        self.last = conv(8, 5, 3, padding=1)
        self.head = nn.LazyLinear(3)

    def forward(self, x, run=lambda layer, x: layer(x), add=torch.add, relu=torch.relu, cat=torch.cat):
        x = relu(add(run(self.beside, x), run(self.stem, x)))  # the box of one kernel may hold the other's
        x = run(self.pool, relu(add(run(self.outer, relu(run(self.inner, x))), x)))
        x = cat([run(self.narrow, x), run(self.wide, x)], 1)
        x = relu(run(self.last, x))
        return self.head((x[0] if isinstance(x, tuple) else x).flatten(1))


def three(number, rank):
    return (number,) * rank if isinstance(number, int) else tuple(number)


def pasting(model, x, box, tau):
    """The model on one window, each layer's box pasted into its un-occluded value: (value, view, box)."""

    def run(layer, operand):
        value, view, box = operand
        rank = value.dim() - 2
        result, view = layer(value), layer(view)
        kernel, stride, padding, dilation = (
            three(getattr(layer, name), rank) for name in ("kernel_size", "stride", "padding", "dilation")
        )
        intervals = []
        for axis, (lo, hi) in enumerate(box):
            n = view.shape[2 + axis]
            reach = dilation[axis] * (kernel[axis] - 1)  # a kernel with holes counts as one without
            starts = [o * stride[axis] - padding[axis] for o in range(n)]
            readers = [o for o, start in enumerate(starts) if lo <= start + reach and start < hi]
            first, last = readers[0], readers[-1] + 1
            if kernel[axis] > 1:
                limit = max(1, int(tau * n + 1e-9))
                first += max(last - first - limit, 0) // 2
                last = min(last, first + limit)
            intervals.append((first, last))
        pasted = view.clone()
        inside = (slice(None), slice(None), *(slice(first, last) for first, last in intervals))
        pasted[inside] = result[inside]
        return pasted, view, intervals

    def union(a, b):
        return [(min(p[0], q[0]), max(p[1], q[1])) for p, q in zip(a, b, strict=True)]

    occluded = x.clone()
    occluded[(0, *(slice(lo, hi) for lo, hi in box))] = 0
    return model(
        (occluded, x, box[1:]),
        run,
        lambda a, b: (a[0] + b[0], a[1] + b[1], union(a[2], b[2])),
        lambda a: (a[0].relu(), a[1].relu(), a[2]),
        lambda ab, dim: (*(torch.cat([v[i] for v in ab], dim) for i in (0, 1)), union(ab[0][2], ab[1][2])),
    )


def opened(rank):
    model = Branching(rank).double().eval()
    x = torch.randn(1, 2, *SIZES[rank], dtype=torch.float64)
    model(x)
    return (
        model,
        x,
        SlidingWindow(x.shape[1:], (2, *[4] * rank), (2, *[3] * rank)),
        capture(Source(model, (x,))),
    )


def answers(graph, x, window, epsilon=0.0):
    session = ReferenceSession(
        ReferenceProgram(graph), Plan.of(graph, window), Opening((x,), torch.zeros(1), 2**30)
    )
    if epsilon:
        session = session.trimmed(epsilon, lambda outputs: outputs[:, 0])
    return sessions.answers(session).outputs


@pytest.mark.parametrize("tau", [0.1, 0.25, 0.5], ids=str)
@pytest.mark.parametrize("rank", [1, 2, 3])
@torch.no_grad()
def test_values_are_those_of_pasted_boxes(rank, tau):
    model, x, window, graph = opened(rank)
    boxes = window.boxes(np.arange(len(window))).tolist()
    expected = torch.cat([pasting(model, x, box, tau) for box in boxes])
    exact, found = answers(graph, x, window), answers(clipped(graph, tau), x, window)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert float((found - exact).abs().max()) > 1e-5


@torch.no_grad()
def test_trimming_leaves_clipped_cells_alone():
    """Without an activation every cell of a box changes, so that dropping next to nothing drops none."""
    torch.manual_seed(0)
    convolutions = nn.Conv2d(2, 5, 5, stride=2, padding=2), nn.Conv2d(5, 4, 3, padding=1)
    model = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(4 * 13 * 11, 3)).double().eval()
    x = torch.randn(1, 2, 26, 21, dtype=torch.float64)
    window, graph = (
        SlidingWindow((2, 26, 21), (2, 6, 4), (2, 3, 3)),
        clipped(capture(Source(model, (x,))), 0.2),
    )
    found, expected = answers(graph, x, window, 1e-13), answers(graph, x, window)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_all_of_it_is_exact():
    _, x, window, graph = opened(2)
    assert torch.equal(answers(clipped(graph, 1), x, window), answers(graph, x, window))
    assert str(Plan.of(clipped(graph, 1), window)) == str(Plan.of(graph, window))


@torch.no_grad()
def test_boxes_and_cost_follow():
    _, _, window, graph = opened(2)
    ratios = [Plan.of(graph, window).redundancy_ratio]
    for tau in (0.8, 0.4, 0.1):
        plan = Plan.of(clipped(graph, tau), window)
        seen = 0
        for node in graph.nodes:
            if isinstance(node.on_box, (Convolution, Pool)) and node.maps[0][1].kernel > 1:
                seen += 1
                for axis, extents in plan.extents(node).items():
                    assert extents.min() >= 1 and extents.max() <= max(1, tau * node.size(axis))
        assert seen == 6
        ratios.append(plan.redundancy_ratio)
    assert ratios == sorted(ratios) and ratios[0] < ratios[1]


@pytest.mark.parametrize("tau", [0.1, 0.25, 0.5], ids=str)
@torch.no_grad()
def test_the_engine_clips_alike(tau):
    model, x, window, graph = opened(2)
    expected = answers(clipped(graph, tau), x, window).float()
    x = x.float()
    graph = clipped(capture(Source(model.float(), (x,))), tau)
    plan = Plan.of(graph, window)
    program = NATIVE.program(graph, plan, x.device)
    session = NativeSession(program, plan, Opening((x,), torch.zeros(1), 2**30), Standby(pytest.fail))
    torch.testing.assert_close(sessions.answers(session).outputs, expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_the_engine_clips_all_or_nothing():
    """What PyTorch would run in full after the engine's part would not be clipped."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Softmax(3), nn.Conv2d(3, 2, 3), nn.Flatten())
    graph = capture(Source(model, (torch.randn(1, 2, 12, 12),)))
    window, cpu = SlidingWindow((2, 12, 12), (2, 4, 4), (2, 2, 2)), torch.device("cpu")
    NATIVE.program(graph, Plan.of(graph, window), cpu)
    graph = clipped(graph, 0.5)
    with pytest.raises(Unsupported, match="clips every value or none"):
        NATIVE.program(graph, Plan.of(graph, window), cpu)


@pytest.mark.parametrize("tau", [0, -1, 1.01, float("nan")])
@torch.no_grad()
def test_nonsense_is_refused(tau):
    with pytest.raises(InputError, match="tau is"):
        clipped(opened(1)[3], tau)
