"""What covering two features does beyond covering each: against a loop over copies, in float64."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.random_cnns import by_rank, drawn
from support.tiny_models import SmallCNN, assert_close, incremental, output_scale, settle
from torch import Tensor, nn

from krypton_engine import FallbackWarning, InputError, KryptonFeatureAblation
from krypton_engine.executors.reference.session import ReferenceSession


def by_loop(model, x: Tensor, baseline: Tensor, mask: Tensor) -> Tensor:
    """Interactions ``(outputs, regions, regions)`` of one example by whole copies."""
    numbers = mask.unique().tolist()

    def drop(*covered: int) -> Tensor:
        inside = torch.isin(mask, torch.tensor(covered))
        with torch.no_grad():
            return (model(x) - model(torch.where(inside, baseline, x))).flatten()

    rows = [
        torch.stack([drop(i) if i == j else drop(i, j) - drop(i) - drop(j) for j in numbers]) for i in numbers
    ]
    return torch.stack(rows).movedim(-1, 0)


@by_rank
def test_random_networks_and_masks(rank, count, monkeypatch):
    monkeypatch.setattr("krypton_engine.plan.plan.MINIMUM_GAIN", 0.0)

    @settings(
        max_examples=count, derandomize=True, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def run(data: st.DataObject) -> None:
        model, generator, x, baseline = drawn(data, rank)
        same = torch.rand(x.shape, generator=generator) < data.draw(st.sampled_from([0.0, 0.5, 0.95]), "same")
        baseline = torch.where(same, x, baseline)
        mask = torch.randint(0, data.draw(st.integers(1, 6), "regions"), x.shape[1:], generator=generator)
        right = by_loop(model, x, baseline, mask)
        scale = max(1.0, float(right.abs().max()), float(model(x).detach().abs().max()))
        single = copy.deepcopy(model).float()
        for made, dtype, executor in ((model, torch.float64, "reference"), (single, torch.float32, "auto")):
            with warnings.catch_warnings():
                warnings.simplefilter("error", FallbackWarning)
                mine = KryptonFeatureAblation(made, executor).interactions(
                    x.to(dtype), baseline.to(dtype), feature_mask=mask
                )
            error = float((mine.double().reshape(right.shape) - right).abs().max())
            assert error <= {torch.float64: 1e-9, torch.float32: 3e-4}[dtype] * scale, (executor, error)

    run()


@pytest.mark.parametrize("executor", ["native", "reference"])
@pytest.mark.parametrize("together", [None, 1, 3])
def test_rows_targets_and_batches(cnn, executor, together):
    x, mask = torch.rand(2, 3, 24, 20), torch.arange(24)[:, None] // 8 * 3 + torch.arange(20) // 7
    x[:, :, :8, :7] = 0.2  # a region in which nothing changes
    with incremental():
        mine = KryptonFeatureAblation(cnn, executor).interactions(
            x, 0.2, [1, 4], feature_mask=mask, perturbations_per_eval=together
        )
    assert mine.shape == (2, 9, 9)
    assert torch.equal(mine, mine.mT)
    exact = copy.deepcopy(cnn).double()
    for row, target in enumerate((1, 4)):
        right = by_loop(exact, x[row : row + 1].double(), torch.tensor(0.2), mask)[target]
        assert_close(mine[row], right.float(), output_scale(cnn, x))
    assert not mine[:, 0].any()


def test_features_that_make_up_for_each_other():
    """Either of two equal parts is enough for the largest: covering one does nothing, both everything."""
    x = torch.ones(1, 1, 4, 6)
    found = KryptonFeatureAblation(lambda a: a.amax((2, 3))).interactions(
        x, target=0, feature_mask=torch.arange(6) // 3
    )
    assert found.tolist() == [[[0, 1], [1, 0]]]


def test_in_full(monkeypatch):
    model, x, mask = settle(SmallCNN()), torch.rand(1, 3, 24, 20), torch.arange(20) // 5
    right = by_loop(copy.deepcopy(model).double(), x.double(), torch.zeros(1).double(), mask)[1].float()
    with pytest.warns(FallbackWarning) as caught:
        mine = KryptonFeatureAblation(lambda a: model(a) + 0 * float(a.sum())).interactions(
            x, target=1, feature_mask=mask
        )
    assert len(caught) == 1
    assert_close(mine[0], right, output_scale(model, x))
    monkeypatch.setattr(ReferenceSession, "most_walks", 1)
    with pytest.warns(FallbackWarning, match="holds 1 walks in memory_budget"):
        mine = KryptonFeatureAblation(model, "reference").interactions(x, target=1, feature_mask=mask)
    assert_close(mine[0], right, output_scale(model, x))


def test_numbers_that_are_not_finite():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2)).eval()
    x, mask = torch.rand(1, 1, 12, 12), torch.arange(12)[:, None] // 4 * 3 + torch.arange(12) // 4
    baseline = torch.zeros(1, 1, 12, 12)
    baseline[..., 5, 5] = torch.inf  # of region 4
    mine = KryptonFeatureAblation(model, "native").interactions(x, baseline, 0, feature_mask=mask)
    right = by_loop(model, x, baseline, mask)[0]
    finite = torch.arange(9) != 4
    assert not mine[0, 4].isfinite().any()
    torch.testing.assert_close(mine[0][finite][:, finite], right[finite][:, finite], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"inputs": (torch.zeros(1, 2, 2),) * 2}, "inputs is tuple"),
        ({"feature_mask": torch.tensor([[[0, 1, 2]], [[0, 0, 1]]])}, r"feature_mask has \[3, 2\] features"),
        ({"feature_mask": torch.full((3,), 0.5)}, "feature_mask holds 0.5"),
        ({"target": 5}, "target is 5"),
        ({"perturbations_per_eval": 0}, "perturbations_per_eval is 0"),
    ],
)
def test_arguments_that_cannot_be_used(call, said):
    given = {"inputs": torch.rand(2, 4, 3), "target": 1} | call
    with pytest.raises(InputError, match=said):
        KryptonFeatureAblation(lambda a: a.sum(2)).interactions(**given)
