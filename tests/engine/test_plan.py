"""What a plan promises: boxes that hold every change, and figures that can be done by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from krypton_engine import KryptonOcclusion
from krypton_engine.executors.grouping import Grouping, WindowBins, WindowGrouping
from krypton_engine.graph.ir import in_full
from krypton_engine.perturbation.changed import ChangedCells
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.plan.plan import Plan
from krypton_engine.planning.cache import Source, capture


class Two(nn.Module):
    """Two convolutions, a pooling between them, a linear head."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 8, 3, stride=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.second(torch.max_pool2d(torch.relu(self.first(x)), 2)))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Two().eval()


@pytest.fixture(scope="module")
def graph(model):
    return capture(Source(model, (torch.zeros(1, 2, 22, 30),)))


def test_figures_by_hand(graph):
    """Paper eq. 16-20 for one window in the corner and the window that covers everything."""
    everything = Plan.of(graph, SlidingWindow((2, 22, 30), (2, 22, 30), (1, 1, 1)))
    full = 2 * 9 * 4 * 22 * 30 + 4 * 9 * 8 * 5 * 7 + 8 * 5
    assert everything.macs == full
    assert everything.macs_incremental == full
    assert everything.redundancy_ratio == 1.0
    assert not everything.incremental

    # Windows of 2x2 with stride 1: 21 x 29 positions. Along rows the first convolution changes 3 cells at
    # both ends and 4 elsewhere.
    plan = Plan.of(graph, SlidingWindow((2, 22, 30), (2, 2, 2), (2, 1, 1)))
    rows = (2 * 3 + 19 * 4) / 21
    columns = (2 * 3 + 27 * 4) / 29
    first = next(step for step in plan.steps if step.op == "conv2d")
    assert first.macs_incremental == pytest.approx(2 * 9 * 4 * rows * columns)
    assert first.box == (4, 4)
    assert plan.redundancy_ratio == pytest.approx(full / plan.macs_incremental)
    assert plan.incremental


def test_largest_boxes_hold_every_change(model, graph):
    """Against the activations themselves: every value that changes lies within the largest box."""
    window = SlidingWindow((2, 22, 30), (2, 5, 4), (2, 3, 4))
    plan = Plan.of(graph, window)
    x = torch.rand(1, 2, 22, 30) + 1
    seen = {}

    def hook(module, _, output):
        seen.setdefault(module, []).append(output)

    handles = [m.register_forward_hook(hook) for m in (model.first, model.second)]
    with torch.no_grad():
        model(x)
        for _, (top, bottom), (left, right) in window.boxes(np.arange(len(window))):
            occluded = x.clone()
            occluded[:, :, top:bottom, left:right] = 0
            model(occluded)
    for handle in handles:
        handle.remove()
    steps = [step for step in plan.steps if step.op == "conv2d"]
    for step, outputs in zip(steps, (seen[model.first], seen[model.second]), strict=True):
        largest = [0, 0]
        for output in outputs[1:]:
            changed = (output != outputs[0]).any(1)[0].nonzero()
            extents = (changed.amax(0) - changed.amin(0) + 1).tolist() if len(changed) else [0, 0]
            largest = [max(pair) for pair in zip(largest, extents, strict=True)]
        assert tuple(largest) == step.box


def test_table_names_the_frontier(graph):
    text = str(Plan.of(graph, SlidingWindow((2, 22, 30), (2, 4, 4), (2, 4, 4))))
    assert "redundancy ratio" in text
    assert "full from here: mean reads every axis from end to end" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "conv2d" in text and "4x22x30" in text


def test_steps_have_the_names_that_the_model_has(model):
    x, window = torch.zeros(1, 2, 22, 30), (2, 4, 4)
    for forward in (model, lambda x: model(x).softmax(1)):
        plan = KryptonOcclusion(forward).plan(x, window)
        assert [step.name for step in plan.steps if step.macs] == ["first", "second", "head"]
        assert "second  " in str(plan)


def test_in_full_has_nothing_incremental(graph):
    plan = Plan.of(in_full(graph), SlidingWindow((2, 22, 30), (2, 4, 4), (2, 4, 4)))
    assert plan.redundancy_ratio == 1.0
    assert [node.op for node in in_full(graph).frontiers] == ["input"]


def test_plan_without_a_graph_says_why():
    def reads_the_batch(x):
        return x.flatten(1).sum(0)

    with pytest.raises(ValueError, match="full inference"):
        KryptonOcclusion(reads_the_batch).plan(torch.zeros(1, 2, 8, 8), (2, 4, 4))


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_groups_partition_and_hold_their_members(graph, data):
    window = SlidingWindow((2, 22, 30), (2, 4, 4), (2, 2, 3))
    positions = data.draw(st.lists(st.integers(0, len(window) - 1), min_size=1, unique=True))
    batch = data.draw(st.integers(1, 40))
    grouping = Grouping(graph, window.boxes(np.array(positions)), batch)
    assert sorted(np.concatenate(grouping.members).tolist()) == list(range(len(positions)))
    for members in grouping.members:
        assert 0 < len(members) <= batch
        group = grouping.group(members)
        for node, extents in group.extents.items():
            for axis, extent in extents.items():
                assert (group.hi[node][axis] - group.lo[node][axis] <= extent).all()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_groups_of_windows_have_the_same_shapes_for_every_image(graph, data):
    """Whatever an image leaves of a window's box, it lies in the box that the window's bin shares."""
    shape, strides = data.draw(st.sampled_from([((2, 4, 4), (2, 2, 3)), ((1, 5, 3), (1, 5, 1))]))
    window = SlidingWindow((2, 22, 30), shape, strides)
    bins = WindowBins(graph, window, data.draw(st.sampled_from([4, 30, len(window)])))
    sizes = data.draw(st.sampled_from([[1], [3, 1], [32, 16, 8, 4]]))
    changes = torch.from_numpy(np.random.default_rng(data.draw(st.integers(0, 9))).random((2, 22, 30)) < 0.4)
    boxes = ChangedCells(window, changes.numpy()).boxes(np.arange(len(window)))
    boxes = boxes[(boxes[..., 1] > boxes[..., 0]).all(1)]
    grouping = WindowGrouping(graph, boxes, sizes, bins)
    assert sorted(np.concatenate(grouping.members).tolist()) == list(range(len(boxes)))
    whole = WindowGrouping(graph, window.boxes(np.arange(len(window))), sizes, bins)
    known = {str(whole.group(members).extents) for members in whole.members}
    for members in grouping.members:
        assert 0 < len(members) <= sizes[0]
        group = grouping.group(members)
        assert str(group.extents) in known
        for node, extents in group.extents.items():
            for axis, extent in extents.items():
                assert (group.hi[node][axis] - group.lo[node][axis] <= extent).all()


def test_groups_waste_little(graph):
    """Bins of phases, not neighbours: shared boxes cost little more than boxes of their own."""
    window = SlidingWindow((2, 22, 30), (2, 4, 4), (2, 1, 1))
    plan = Plan.of(graph, window)
    grouping = Grouping(graph, window.boxes(np.arange(len(window))), 32)
    shared = 0
    for members in grouping.members:
        extents = grouping.group(members).extents
        for node in graph.nodes:
            if node.local and node.macs:
                box = extents[node.index]
                shared += len(members) * node.macs_of_cell * np.prod([box[axis] for axis in node.axes])
    own = plan.macs_incremental - sum(step.macs for step in plan.steps if not step.local)
    assert shared <= 1.1 * own * len(window)
