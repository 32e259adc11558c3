"""Deletion and insertion curves against a loop over images that lose, or gain, one region after another."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import torch
from support.tiny_models import SmallViT, assert_close, output_scale
from torch import nn

from krypton_engine import FallbackWarning, InputError, KryptonOcclusion, evaluate
from krypton_engine.perturbation.regions import Regions

IMAGE = torch.rand(1, 3, 24, 20, generator=torch.Generator().manual_seed(5))
ATTRIBUTION = torch.randn(1, 1, 24, 20, generator=torch.Generator().manual_seed(6))
SCATTERED = torch.randint(0, 7, (24, 20), generator=torch.Generator().manual_seed(7))


def patches(side):
    rows, columns = torch.arange(24)[:, None] // side, torch.arange(20) // side
    return rows * -(-20 // side) + columns


def loop(model, x, attribution, mask, baseline, target, inserts=False):
    """The target's outputs along the way, and the order of the regions."""
    start, goal = torch.broadcast_tensors(x, torch.as_tensor(baseline, dtype=x.dtype))
    if inserts:
        start, goal = goal, start
    means = {int(n): float(attribution.expand(x.shape)[:, :, mask == n].mean()) for n in mask.unique()}
    order = sorted(means, key=lambda number: -means[number])
    with torch.no_grad():
        values, now = [model(start)[0, target]], start
        for number in order:
            now = torch.where(mask == number, goal, now)
            values.append(model(now)[0, target])
    return torch.stack(values), order


@pytest.mark.parametrize("executor", ["auto", "native", "reference"])
@pytest.mark.parametrize("inserts", [False, True], ids=["deletion", "insertion"])
@pytest.mark.parametrize(
    ("regions", "mask"), [(5, patches(5)), (SCATTERED, SCATTERED)], ids=["patches", "mask"]
)
def test_curves(cnn, executor, inserts, regions, mask):
    measure = evaluate.insertion if inserts else evaluate.deletion
    for baseline in (0.0, torch.rand(1, 3, 1, 1)):
        right, order = loop(cnn, IMAGE, ATTRIBUTION, mask, baseline, 2, inserts)
        curve = measure(
            cnn, IMAGE, ATTRIBUTION, regions, baseline, target=2, activation=None, executor=executor
        )
        assert curve.order.tolist() == order
        assert_close(torch.from_numpy(curve.values).float(), right, output_scale(cnn, IMAGE))
        sizes = np.array([int((mask == number).sum()) for number in order])
        np.testing.assert_allclose(curve.shares, np.concatenate([[0], sizes.cumsum() / 480]))
        steps = np.diff(curve.shares) * (curve.values[1:] + curve.values[:-1]) / 2
        assert curve.area == pytest.approx(steps.sum())


def test_several_explanations_of_a_class(cnn):
    heatmap = KryptonOcclusion(cnn).heatmap(IMAGE, (3, 6, 5), (3, 6, 5), activation="softmax")
    found = evaluate.deletion(cnn, IMAGE, {"occlusion": heatmap, "noise": ATTRIBUTION}, regions=5)
    target = int(cnn(IMAGE).argmax())
    assert list(found) == ["occlusion", "noise"]
    for name, attribution in (("occlusion", heatmap.attribution()[None]), ("noise", ATTRIBUTION)):
        right, order = loop(lambda x: cnn(x).softmax(1), IMAGE, attribution, patches(5), 0.0, target)
        assert found[name].order.tolist() == order
        np.testing.assert_allclose(found[name].values, right.numpy(), atol=1e-5)


def test_regions_in_which_nothing_changes(cnn):
    x = IMAGE.clone()
    x[..., :10, :] = 0.0
    right, order = loop(cnn, x, ATTRIBUTION, patches(5), 0.0, 1)
    curve = evaluate.deletion(cnn, x, ATTRIBUTION, 5, target=1, activation=None)
    assert curve.order.tolist() == order
    assert_close(torch.from_numpy(curve.values).float(), right, output_scale(cnn, x))
    black = evaluate.deletion(cnn, torch.zeros_like(x), ATTRIBUTION, 5, target=1, activation=None)
    assert len(set(black.values.tolist())) == 1


def test_models_that_run_in_full():
    model = SmallViT()
    x, attribution = torch.rand(1, 3, 24, 24), torch.randn(24, 24)
    mask = torch.arange(24)[:, None] // 8 * 3 + torch.arange(24) // 8
    right, order = loop(model, x, attribution, mask, 0.0, 1)
    for forward in (model, lambda x: model(x + 0 * torch.rand(1))):
        with pytest.warns(FallbackWarning):
            curve = evaluate.deletion(forward, x, attribution, 8, target=1, activation=None)
        assert curve.order.tolist() == order
        np.testing.assert_allclose(curve.values, right.numpy(), atol=1e-5)


def test_signals_and_volumes():
    signal = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    volume = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    for model, shape, count in ((signal, (2, 30), 6), (volume, (1, 8, 9, 10), 2 * 2 * 2)):
        x = torch.rand(1, *shape)
        curve = evaluate.insertion(model, x, torch.randn(x.shape), regions=5, activation=None, target=1)
        assert len(curve.order) == count
        with torch.no_grad():
            assert curve.values[-1] == pytest.approx(float(model(x)[0, 1]), abs=1e-6)
            assert curve.values[0] == pytest.approx(float(model(0 * x)[0, 1]), abs=1e-6)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"regions": 0}, "regions is 0"),
        ({"regions": "slic"}, "regions is 'slic'"),
        ({"regions": torch.zeros(5, 5, dtype=torch.long)}, "regions has shape"),
        ({"regions": torch.full((24, 20), torch.inf)}, "regions holds inf"),
        ({"attribution": torch.zeros(9, 9)}, "attribution has shape"),
        ({"attribution": None}, "attribution is NoneType"),
        ({"x": torch.zeros(2, 3, 24, 20)}, "one example"),
        ({"target": 9}, "target is 9"),
        ({"activation": "relu"}, "activation is 'relu'"),
    ],
)
def test_arguments_that_cannot_be_used(cnn, wrong, said):
    given = {"x": IMAGE, "attribution": ATTRIBUTION, "regions": 8} | wrong
    with pytest.raises(InputError, match=said):
        evaluate.deletion(cnn, **given)


def test_a_single_output_has_no_softmax(cnn):
    with pytest.raises(InputError, match="activation is 'softmax', which makes 1 of a single output"):
        evaluate.deletion(lambda x: cnn(x)[:, :1], IMAGE, ATTRIBUTION, 8)
    with pytest.raises(InputError, match="shape"):
        evaluate.deletion(lambda x: cnn(x).sum(0), IMAGE, ATTRIBUTION, 8, activation=None)


def test_a_plot_says_what_is_better(cnn):
    matplotlib.use("Agg")
    found = evaluate.deletion(cnn, IMAGE, {"one": ATTRIBUTION, "other": -ATTRIBUTION}, regions=8)
    ax = None
    for name, curve in found.items():
        ax = curve.plot(ax, name)
    assert [text.get_text().split(":")[0] for text in ax.get_legend().get_texts()] == ["one", "other"]
    assert ax.get_legend().get_title().get_text() == "area, lower is better"


def test_a_mask_of_one_element_is_a_mask(cnn):
    """And no size of patches: one region, as of a heatmap."""
    x = torch.rand(1, 3, 24, 20)
    curve = evaluate.deletion(cnn, x, torch.rand_like(x), torch.tensor([[4]]))
    assert curve.order.tolist() == [4] and len(curve.values) == 2


@pytest.mark.parametrize(
    ("attribution", "regions", "words"),
    [
        (torch.rand(1, 3, 24, 20), Regions.tiles((3, 12, 10), (3, 4, 4)), "regions is of inputs of shape"),
        (torch.full((1, 3, 24, 20), torch.nan), 8, "attribution holds numbers that are missing"),
    ],
)
def test_regions_of_other_inputs_and_missing_attributions(cnn, attribution, regions, words):
    with pytest.raises(InputError, match=words):
        evaluate.deletion(cnn, torch.rand(1, 3, 24, 20), attribution, regions)
