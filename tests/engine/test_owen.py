"""Owen values: as shap computes them, and as a loop over whole copies does, in float64."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.owen import brute_force, image_halves, linked
from support.random_cnns import by_rank, drawn
from support.tiny_models import SmallCNN, assert_close, incremental, output_scale, settle
from torch import Tensor, nn

from krypton_engine import FallbackWarning, InputError, owen_values
from krypton_engine.executors.reference.session import ReferenceSession
from krypton_engine.perturbation.hierarchy import Halves, Linkage, halved
from krypton_engine.perturbation.regions import Regions

# --- against shap itself ---------------------------------------------------------------------------------


def sines(*shape: int, step: float = 0.7) -> Tensor:
    """Numbers that every library makes alike."""
    count = int(np.prod(shape))
    return torch.sin(step * torch.arange(1, count + 1, dtype=torch.float64) ** 1.5).reshape(shape)


def smooth(images: Tensor) -> Tensor:
    """Two outputs in which all cells meet, so that no two clusters change them equally."""
    y = F.gelu(F.conv2d(images, sines(3, 2, 3, 3, step=0.31), padding=1))
    return torch.tanh(0.2 * (y.flatten(1) @ sines(3 * 5 * 7, 2, step=0.13)))


X, BASELINE = sines(1, 2, 5, 7), sines(1, 2, 5, 7, step=0.37)
OF_IMAGE = {
    # By context, evaluations and batch, of output 1: row 2 of channel 1 by PartitionExplainer of shap 0.51,
    # with maskers.Image(BASELINE).
    (None, 60, 10): [
        -0.01611991, -0.01611991, 0.0244708632, 0.0244708632, 0.0364158809, 0.0364158809, 0.0364158809,
    ],
    (0, 41, 10): [
        -0.0741667504, -0.0741667504, 0.085091786, 0.0889290883, 0.0315701939, 0.0315701939, 0.0315701939,
    ],
    (1, 41, 4): [
        0.0170468114, 0.0170468114, 0.0178981361, 0.0178981361, 0.0307504806, 0.0336074409, 0.0302440508,
    ],
    (None, 500, 10): [
        -0.0922509689, 0.0083188019, 0.0004041211, 0.0471466141, 0.0143184822, 0.0524560399, 0.0088577728,
    ],
}  # fmt: skip

MASK = torch.tensor(
    [
        [0, 0, 1, 1, 2, 2, 2],
        [0, 3, 3, 1, 1, 2, 4],
        [5, 3, 3, 4, 4, 4, 4],
        [5, 5, 3, 6, 6, 4, 7],
        [5, 5, 6, 6, 6, 7, 7],
    ]
)
# Regions 6 and 7 are never taken apart: their distance is negative.
TREE = [
    [0, 3, 1, 2], [1, 2, 1, 2], [6, 7, -1, 2], [8, 5, 2, 3], [10, 4, 2, 3], [9, 11, 3, 5], [12, 13, 4, 8],
]  # fmt: skip
OF_REGIONS = {
    # By context and evaluations: the values of regions 0 to 7.
    (None, 500): [
        -0.0473582598, 0.3928264241, 0.3106163163, 0.1496007492, -0.0718961367, 0.0344259046, 0.4805213165,
        0.4805213165,
    ],
    (0, 12): [
        -0.142667968, 0.6757631018, 0.3107002009, -0.142667968, -0.2756526459, -0.0344226901, 0.6691028,
        0.6691028,
    ],
    (1, 9): [
        0.1836171909, 0.2358632914, 0.2268027281, 0.1836171909, 0.1419652348, 0.1836171909, 0.2868874019,
        0.2868874019,
    ],
}  # fmt: skip


@pytest.mark.parametrize(("context", "evaluations", "batch"), OF_IMAGE)
def test_shaps_values_of_an_image(context, evaluations, batch):
    mine = owen_values(
        smooth, X, BASELINE, 1, max_evals=evaluations, fixed_context=context, batch_size=batch,
        executor="reference",
    )  # fmt: skip
    right = torch.tensor(OF_IMAGE[context, evaluations, batch], dtype=torch.float64)
    torch.testing.assert_close(mine[0, 1, 2], right, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("context", "evaluations"), OF_REGIONS)
def test_shaps_values_of_a_linkage(context, evaluations):
    mine = owen_values(
        smooth, X, BASELINE, 1, feature_mask=MASK, tree=TREE, max_evals=evaluations, fixed_context=context,
        executor="reference",
    )  # fmt: skip
    by_region = torch.tensor([float(mine[0, 0][region == MASK][0]) for region in range(8)]).double()
    right = torch.tensor(OF_REGIONS[context, evaluations]).double()
    torch.testing.assert_close(by_region, right, atol=1e-7, rtol=0)


# --- against a loop over copies --------------------------------------------------------------------------


def by_loop(model, x, baseline, mask, halves, evaluations, context, batch=10) -> Tensor:
    """Owen values ``(outputs, regions)`` of one example, by whole copies."""
    regions = int(mask.max()) + 1

    def worth(present: np.ndarray) -> np.ndarray:
        cells = torch.from_numpy(present)[:, mask]
        with torch.no_grad():
            outputs = [model(torch.where(each, x, baseline)) for each in cells]
        return torch.cat(outputs).flatten(1).double().numpy()

    return torch.from_numpy(brute_force(worth, halves, regions, evaluations, context, batch).T)


def random_tree(regions: int, generator: np.random.Generator) -> np.ndarray:
    """A linkage matrix of any shape, from a balanced one to a comb; some clusters stay together."""
    sizes, loose, rows = dict.fromkeys(range(regions), 1), list(range(regions)), []
    while len(loose) > 1:
        left, right = (loose.pop(int(generator.integers(len(loose)))) for _ in range(2))
        number = regions + len(rows)
        sizes[number] = sizes[left] + sizes[right]
        rows.append([left, right, -1.0 if generator.random() < 0.1 else 1.0, sizes[number]])
        loose.append(number)
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


@by_rank
def test_random_networks_trees_and_masks(rank, count, monkeypatch):
    """Trees seen to the end, so that it does not matter which of two equal clusters comes first."""
    monkeypatch.setattr("krypton_engine.plan.plan.MINIMUM_GAIN", 0.0)

    @settings(
        max_examples=count, derandomize=True, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def run(data: st.DataObject) -> None:
        model, generator, x, baseline = drawn(data, rank)
        same = torch.rand(x.shape, generator=generator) < data.draw(st.sampled_from([0.0, 0.5, 0.9]), "same")
        baseline = torch.where(same, x, baseline)
        mask = torch.randint(0, data.draw(st.integers(1, 6), "regions"), x.shape[1:], generator=generator)
        mask = mask.unique(return_inverse=True)[1]
        tree = random_tree(int(mask.max()) + 1, np.random.default_rng(generator.initial_seed()))
        context = data.draw(st.sampled_from([None, 0, 1]), "context")
        right = by_loop(model, x, baseline, mask, linked(tree), 10**6, context)[:, mask]
        scale = max(1.0, float(right.abs().max()), float(model(x).detach().abs().max()))
        single = copy.deepcopy(model).float()
        for made, dtype, executor in ((model, torch.float64, "reference"), (single, torch.float32, "auto")):
            with warnings.catch_warnings():
                warnings.simplefilter("error", FallbackWarning)
                mine = owen_values(
                    made, x.to(dtype), baseline.to(dtype), feature_mask=mask, tree=tree, max_evals=10**6,
                    fixed_context=context, executor=executor,
                )  # fmt: skip
            error = float((mine.double().reshape(right.shape) - right).abs().max())
            assert error <= {torch.float64: 1e-9, torch.float32: 3e-4}[dtype] * scale, (executor, error)

    run()


def mixing(seed: int = 3) -> nn.Sequential:
    """A model in which all cells meet, so that no two clusters change its outputs equally."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, 2), nn.GELU(), nn.Flatten(), nn.Linear(8 * 5 * 4, 16), nn.GELU(), nn.Linear(16, 3),
    ).eval()  # fmt: skip


def by_loop_of_image(model, x, baseline, evaluations, context=None, batch=10) -> Tensor:
    """Owen values ``(outputs, *input_shape)`` in the hierarchy of an image."""
    cells = torch.arange(x[0].numel()).reshape(x.shape[1:])
    halves = image_halves(x.shape[1:])
    return by_loop(model, x, baseline, cells, halves, evaluations, context, batch)[:, cells]


@pytest.mark.parametrize("context", [None, 0, 1])
@pytest.mark.parametrize(("evaluations", "batch"), [(2, 10), (3, 10), (40, 1), (155, 7), (155, 64)])
def test_an_image_is_split_where_it_changes_most(context, evaluations, batch):
    model = mixing().double()
    x, baseline = torch.rand(1, 3, 13, 11).double(), torch.rand(1, 3, 13, 11).double()
    baseline[..., :4, :] = x[..., :4, :]
    baseline[:, 1, :, 7:] = x[:, 1, :, 7:]
    call = {"max_evals": evaluations, "fixed_context": context, "batch_size": batch, "executor": "reference"}
    every = by_loop_of_image(model, x, baseline, evaluations, context, batch)
    torch.testing.assert_close(owen_values(model, x, baseline, **call)[0], every, atol=1e-12, rtol=1e-9)
    one = by_loop_of_image(lambda a: model(a)[:, 2:], x, baseline, evaluations, context, batch)
    torch.testing.assert_close(owen_values(model, x, baseline, 2, **call), one, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("executor", ["native", "reference"])
@pytest.mark.parametrize("walks", [3, 4, 7, 64])
def test_few_walks_change_nothing(monkeypatch, walks, executor):
    monkeypatch.setattr("krypton_engine.plan.plan.MINIMUM_GAIN", 0.0)
    monkeypatch.setattr("krypton_engine.run.coalitions._MOST_WALKS", walks)
    model, x = mixing(), torch.rand(1, 3, 13, 11)
    right = by_loop_of_image(copy.deepcopy(model).double(), x.double(), torch.full((1,), 0.3).double(), 155)
    with incremental():
        mine = owen_values(model, x, 0.3, max_evals=155, executor=executor)
    assert_close(mine[0], right.float(), float(right.abs().max()), 1e-4)


def test_every_row_is_an_example(cnn):
    x = torch.rand(3, 3, 24, 20)
    mask = torch.randint(0, 5, (3, 1, 24, 20))
    targets, scale = [1, 0, 4], torch.tensor([[1.0], [2.0], [3.0]])

    def scaled(images, factor):
        return cnn(images) * factor

    mine = owen_values(scaled, x, 0.2, targets, scale, feature_mask=mask, max_evals=10**4)
    assert mine.shape == x.shape
    for row, target in enumerate(targets):
        regions = mask[row].expand(3, 24, 20)
        tree = halved(Regions.of(mask[row], (3, 24, 20)))
        right = by_loop(cnn, x[row : row + 1], torch.tensor(0.2), regions, linked(tree), 10**4, None)
        assert_close(mine[row], right[target].float()[regions] * (row + 1), output_scale(cnn, x) * 3)


def test_values_add_up(cnn):
    """To what the input is worth more than the baseline, however far the hierarchy is split."""
    x = torch.rand(1, 3, 24, 20)
    whole = float((cnn(x) - cnn(torch.full_like(x, 0.5)))[0, 3])
    for evaluations in (2, 9, 300):
        found = owen_values(cnn, x, 0.5, 3, max_evals=evaluations)
        assert abs(float(found.double().sum()) - whole) <= 1e-5 * output_scale(cnn, x)


def test_probabilities(cnn):
    x, mask = torch.rand(1, 3, 24, 20), torch.arange(20) // 5
    call = {"target": 1, "feature_mask": mask, "max_evals": 10**4}
    mine = owen_values(cnn, x, activation="softmax", **call)
    tree = halved(Regions.of(mask, (3, 24, 20)))
    regions = mask.expand(3, 24, 20)
    right = by_loop(lambda a: cnn(a).softmax(1), x, torch.zeros(1), regions, linked(tree), 10**4, None)
    assert_close(mine[0], right[1].float()[regions], 1.0)


def test_one_region_and_one_cell(cnn):
    x = torch.rand(1, 3, 24, 20)
    whole = (cnn(x) - cnn(0 * x))[0, 2].detach()
    one = owen_values(cnn, x, target=2, feature_mask=torch.zeros(1, 1, dtype=torch.long))
    torch.testing.assert_close(one, whole.expand(x.shape), atol=1e-5, rtol=0)
    number = owen_values(lambda a: a**2, torch.tensor([[3.0]]), torch.tensor([[1.0]]), 0)
    assert number.tolist() == [[8.0]]


def test_nothing_changes(cnn):
    x = torch.rand(1, 3, 24, 20)
    assert not owen_values(cnn, x, x, 1).any()


# --- what cannot run incrementally, and what cannot run --------------------------------------------------


def test_in_full():
    def centred(images):
        return (images - images.mean()).square().sum((1, 2))[:, :3] + 0 * float(images.sum())

    x, mask = torch.rand(2, 5, 4, 4).double(), torch.randint(0, 4, (4, 4))
    with pytest.warns(FallbackWarning) as caught:
        mine = owen_values(centred, x, 0.1, 2, feature_mask=mask, max_evals=10**4)
    assert len(caught) == 1
    regions, tree = mask.expand(5, 4, 4), halved(Regions.of(mask, (5, 4, 4)))
    for row in range(2):
        one = x[row : row + 1], torch.tensor(0.1, dtype=torch.float64), regions
        right = by_loop(centred, *one, linked(tree), 10**4, None)
        torch.testing.assert_close(mine[row], right[2][regions], atol=1e-12, rtol=0)


def test_without_room_for_walks_all_runs_in_full(monkeypatch):
    monkeypatch.setattr(ReferenceSession, "most_walks", 2)
    model, x = settle(SmallCNN()), torch.rand(1, 3, 24, 20)
    mask = torch.arange(20) // 5
    with pytest.warns(FallbackWarning, match="holds 2 walks in memory_budget"):
        mine = owen_values(model, x, target=1, feature_mask=mask, max_evals=10**4, executor="reference")
    regions, tree = mask.expand(3, 24, 20), halved(Regions.of(mask, (3, 24, 20)))
    right = by_loop(model, x, torch.zeros(1), regions, linked(tree), 10**4, None)
    assert_close(mine[0], right[1].float()[regions], output_scale(model, x))


def test_numbers_that_are_not_finite():
    """The engine hands over to PyTorch on the way; where the input is present all is finite."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2)).eval()
    x, mask = torch.rand(1, 1, 12, 12), torch.arange(12)[:, None] // 4 * 3 + torch.arange(12) // 4
    baseline = torch.zeros(1, 1, 12, 12)
    baseline[..., 5, 5] = torch.inf
    mine = owen_values(model, x, baseline, 0, feature_mask=mask, max_evals=50, executor="native")
    assert not mine.isfinite().all()


def test_changed_weights_are_seen():
    model, x = settle(SmallCNN()), torch.rand(1, 3, 24, 20)
    mask = torch.arange(20) // 5
    call = {"target": 1, "feature_mask": mask, "max_evals": 10**4}
    owen_values(model, x, **call)
    model.stem.weight.data.mul_(1.5)
    mine = owen_values(model, x, **call)
    regions, tree = mask.expand(3, 24, 20), halved(Regions.of(mask, (3, 24, 20)))
    right = by_loop(model, x, torch.zeros(1), regions, linked(tree), 10**4, None)
    assert_close(mine[0], right[1].float()[regions], output_scale(model, x))


def test_a_large_image_costs_nothing_for_clusters_that_are_not_reached():
    """The hierarchy of all its cells would have a million clusters."""
    asked = []
    split = Halves._split

    def counted(tree, box):
        asked.append(1)
        return split(tree, box)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Halves, "_split", counted)
        found = owen_values(lambda a: a.sum((2, 3)), torch.ones(1, 3, 600, 600), target=0, max_evals=40)
    assert len(asked) < 200
    torch.testing.assert_close(float(found.double().sum()), 36e4, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"max_evals": 1}, "max_evals is 1; accepted: an integer of at least 2"),
        ({"max_evals": 10.5}, "max_evals is 10.5"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"fixed_context": 2}, "fixed_context is 2; accepted: None, 'auto', 0 or 1"),
        ({"fixed_context": "both"}, "fixed_context is 'both'"),
        ({"fixed_context": np.array([0, 1])}, "fixed_context is array"),
        ({"tree": TREE}, "tree is given; accepted: None without feature_mask"),
        ({"tree": TREE[:-1], "feature_mask": MASK}, r"tree has shape \(6, 4\)"),
        ({"tree": "complete", "feature_mask": MASK}, "tree is str"),
        ({"tree": [*TREE[:-1], [12, 14, 1, 8]], "feature_mask": MASK}, "tree has row 6"),
        ({"tree": [*TREE[:-1], [12, 0.5, 1, 8]], "feature_mask": MASK}, "tree has row 6"),
        ({"tree": [*TREE[:-1], [12, 12, 1, 8]], "feature_mask": MASK}, "tree joins cluster 12 twice"),
        ({"feature_mask": MASK[:3]}, "feature_mask has shape"),
        ({"inputs": (X, X)}, "inputs is tuple"),
        ({"inputs": X[:0]}, r"inputs is \(0, 2, 5, 7\)"),
        ({"target": 7}, "target is 7"),
        ({"activation": "sigmoid"}, "activation is 'sigmoid'"),
        ({"executor": "fast"}, "executor is 'fast'"),
        ({"forward_func": lambda a: a.sum(), "inputs": torch.cat([X, X])}, "forward_func returns shape"),
    ],
)
def test_arguments_that_cannot_be_used(call, said):
    given = {"forward_func": smooth, "inputs": X, "target": 1} | call
    with pytest.raises(InputError, match=said):
        owen_values(**given)


def test_regions_are_halved_by_their_centres():
    mask = torch.arange(4)[:, None] // 2 * 4 + torch.arange(8) // 2  # two rows of four regions
    regions = Regions.of(mask, (1, 4, 8))
    tree = Linkage(regions, halved(regions))
    left, right = tree.halves(tree.root)
    assert tree.box(left).tolist() == [[0, 1], [0, 4], [0, 4]]
    assert tree.box(right).tolist() == [[0, 1], [0, 4], [4, 8]]
    assert sorted(map(tree.size, range(15))) == [1] * 8 + [2] * 4 + [4] * 2 + [8]
