"""Heatmaps of regions, and fillings other than Captum's baselines: against loops over copies, and by hand."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation
from support.tiny_models import SmallCNN, assert_close, output_scale, settle

from krypton_engine import Heatmap, InputError, KryptonOcclusion, OcclusionCancelled, fillings
from krypton_engine.heatmap.status import Status
from krypton_engine.perturbation.fillings import filled_boxes

EXECUTORS = ("native", "reference")
WINDOW, STRIDES = (3, 7, 6), (3, 5, 4)


@pytest.fixture(autouse=True)
def run_incrementally(monkeypatch):
    """The planner would run networks that small in full."""
    monkeypatch.setattr("krypton_engine.plan.plan.MINIMUM_GAIN", 0.0)


@pytest.fixture(scope="module")
def model():
    return settle(SmallCNN())


@pytest.fixture
def x():
    return torch.rand(1, 3, 24, 20, generator=torch.Generator().manual_seed(5))


def scattered(seed=0, count=7, shape=(24, 20)):
    return torch.randint(0, count, shape, generator=torch.Generator().manual_seed(seed)) * 3 + 2


# --- regions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_map_of_regions_has_captums_values(model, x, executor):
    mask = scattered()
    heatmap = KryptonOcclusion(model, executor).heatmap(x, regions=mask, target=2)
    theirs = FeatureAblation(model).attribute(x, target=2, feature_mask=mask[None, None])
    scale = output_scale(model, x)
    assert_close(heatmap.attribution()[None], theirs, scale)
    assert heatmap.window.ids.tolist() == sorted(mask.unique().tolist())
    for i, number in enumerate(heatmap.window.ids.tolist()):
        covered = x.masked_fill(mask == number, 0.0)
        assert_close(heatmap.values[i], model(covered)[0, 2], scale)
        assert int(heatmap.classes[i]) == int(model(covered).argmax())
    assert (heatmap.status == Status.EXACT).all()


def test_a_map_of_regions_is_saved_whole(model, x, tmp_path):
    heatmap = KryptonOcclusion(model).heatmap(x, regions=scattered().numpy(), classes="all")
    heatmap.save(tmp_path / "map.npz")
    loaded = Heatmap.load(tmp_path / "map.npz")
    assert loaded == heatmap and loaded.window == heatmap.window
    assert loaded.for_target(1).attribution().equal(heatmap.for_target(1).attribution())
    heatmap.save(tmp_path / "map.png")
    assert heatmap.overlay().size == (20, 24)


@pytest.mark.parametrize(
    ("numbers", "ids"),
    [([0, 0, 2], [1, 2, 3]), ([0, 1, 2], [1, 3, 2]), ([0, 1, -1], [1, 2, 3])],
    ids=["a region without a cell", "numbers that do not rise", "a negative number"],
)
def test_a_file_of_impossible_regions_is_refused(model, tmp_path, numbers, ids):
    line = torch.rand(1, 3)
    heatmap = KryptonOcclusion(lambda x: x.sum(1, keepdim=True)).heatmap(line, regions=torch.arange(3))
    heatmap.save(tmp_path / "map.npz")
    arrays = dict(np.load(tmp_path / "map.npz"))
    arrays |= {"numbers": np.array(numbers), "ids": np.array(ids)}
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(InputError, match="no saved heatmap"):
        Heatmap.load(tmp_path / "other.npz")


def test_a_region_of_interest_leaves_the_other_regions_unknown(model, x):
    mask = torch.arange(24)[:, None] // 8 * 2 + torch.arange(20) // 10
    heatmap = KryptonOcclusion(model).heatmap(x, regions=mask, region=(0, 0, 9, 5))
    assert heatmap.measured.tolist() == [True, False, True, False, False, False]
    whole = KryptonOcclusion(model).heatmap(x, regions=mask, resume=heatmap)
    assert whole.measured.all()
    assert heatmap.attribution()[0, :, 10:].isnan().all() and heatmap.attribution()[0, 0, 0].isfinite()


def test_equal_boxes_take_a_similarity_target_and_others_say_why_not(model, x):
    boxes = torch.arange(24)[:, None] // 2 * 10 + torch.arange(20) // 2
    approximate = KryptonOcclusion(model).heatmap(x, regions=boxes, ssim_target=0.5)
    assert approximate.values.shape == (12, 10)
    exact = KryptonOcclusion(model).heatmap(x, regions=boxes)
    assert exact.values.shape == (120,)
    same = approximate.status == Status.EXACT
    assert_close(approximate.values[same], exact.values.reshape(12, 10)[same], output_scale(model, x))
    for mask in (scattered(), boxes.flip(0), boxes.clamp_max(100)):
        with pytest.raises(InputError, match=r"ssim_target is 0.5, but these regions have no neighbourhood"):
            KryptonOcclusion(model).heatmap(x, regions=mask, ssim_target=0.5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"regions": torch.rand(24, 20)}, "regions holds"),
        ({"regions": torch.zeros(5, 5, dtype=torch.long)}, "regions has shape"),
        ({"regions": "slic"}, "regions is str"),
        ({"regions": scattered(), "strides": 2}, "strides is 2"),
        ({"regions": scattered(), "sliding_window_shapes": (3, 2, 2)}, "sliding_window_shapes is"),
        ({"regions": scattered(), "schedule": "coarse to fine"}, "schedule is"),
        ({}, "sliding_window_shapes is None"),
    ],
)
def test_regions_that_cannot_be_used(model, x, arguments, words):
    with pytest.raises(InputError, match=words):
        KryptonOcclusion(model).heatmap(x, **arguments)


# --- fillings --------------------------------------------------------------------------------------------


def conditional(samples=2, patch=(7, 6)):
    images = torch.rand(6, 3, 24, 20, generator=torch.Generator().manual_seed(1))
    return fillings.Conditional.fit(images, patch, 1, samples=samples, patches=400)


FILLINGS = {
    "blur": "blur",
    "mean": "mean",
    "local mean": "local mean",
    "noise": fillings.Noise(samples=3, seed=4),
    "soft": fillings.Soft(0.0, edge=1.5),
    "soft local mean": fillings.Soft("local mean"),
    "conditional": conditional(),
    "soft conditional": fillings.Soft(conditional()),
    "several": [0.0, "local mean", fillings.Noise(samples=2)],
}


def brute_force(model, x, window, filling, activate):
    """The mean answer over all samples by position: ``(positions, classes)``."""
    total = 0.0
    everywhere = np.arange(len(window))
    for sample in range(filling.samples):
        made = filling.fill(x, window, sample)
        copies = []
        for first in range(0, len(window), 64):  # what is drawn together is drawn by 64
            boxes = window.boxes(everywhere[first : first + 64])
            contents = made(boxes) if callable(made) else [None] * len(boxes)
            for (_, (top, bottom), (left, right)), content in zip(boxes.tolist(), contents, strict=True):
                copy = x.clone()
                content = made[:, :, top:bottom, left:right] if content is None else content
                copy[:, :, top:bottom, left:right] = content
                copies.append(copy)
        with torch.no_grad():
            total = total + activate(model(torch.cat(copies)))
    return total / filling.samples


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", FILLINGS)
def test_every_filling_is_the_mean_over_its_copies(name, executor):
    double = executor == "reference"
    model = settle(SmallCNN()).to(torch.float64 if double else torch.float32)
    x = torch.rand(1, 3, 24, 20, generator=torch.Generator().manual_seed(5)).to(next(model.parameters()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heatmap = KryptonOcclusion(model, executor).heatmap(
            x, WINDOW, STRIDES, FILLINGS[name], 2, activation="softmax", classes="all"
        )
    given = FILLINGS[name]
    filling = fillings.Several([given]) if isinstance(given, str) else given
    filling = fillings.Several(filling) if isinstance(filling, list) else filling
    right = brute_force(model, x, heatmap.window, filling, lambda outputs: outputs.softmax(1))
    found = heatmap.outputs.reshape(right.shape)
    assert float((found - right).abs().max()) < (1e-9 if double else 1e-6)
    assert heatmap.values.reshape(-1).equal(found[:, 2])
    assert heatmap.classes.reshape(-1).equal(found.argmax(1))
    assert heatmap.class_values.reshape(-1).equal(found.amax(1))
    assert float(heatmap.drop.abs().max()) > 1e-4


def test_samples_are_kept_on_request(model, x):
    noise = fillings.Noise(samples=3)
    occlusion = KryptonOcclusion(model)
    heatmap = occlusion.heatmap(x, WINDOW, STRIDES, noise, 1, keep_samples=True)
    assert heatmap.samples.shape == (3, *heatmap.values.shape)
    assert torch.allclose(heatmap.samples.mean(0), heatmap.values, atol=1e-6)
    for sample, values in enumerate(heatmap.samples):
        alone = occlusion.heatmap(x, WINDOW, STRIDES, noise.fill(x, heatmap.window, sample), 1)
        assert torch.allclose(values, alone.values, atol=1e-6)
    assert occlusion.heatmap(x, WINDOW, STRIDES, noise, 1).samples is None
    with pytest.raises(InputError, match="keep_samples is True"):
        occlusion.heatmap(x, WINDOW, STRIDES, "blur", keep_samples=True)


def test_numbers_of_numpy_are_baselines_as_before(model, x):
    occlusion = KryptonOcclusion(model)
    exact = occlusion.heatmap(x, WINDOW, STRIDES, 0.5, 1)
    for number in (np.float32(0.5), np.float64(0.5)):
        assert occlusion.heatmap(x, WINDOW, STRIDES, number, 1) == exact


def test_a_tuning_is_of_no_filling(model, x):
    with pytest.raises(InputError, match="baselines is 'blur'; accepted: a number or a tensor"):
        KryptonOcclusion(model).tune([x] * 3, WINDOW, STRIDES, "blur", confidence=0.5)


def test_samples_are_saved(model, x, tmp_path):
    heatmap = KryptonOcclusion(model).heatmap(x, WINDOW, STRIDES, "noise", 1)
    several = KryptonOcclusion(model).heatmap(x, WINDOW, STRIDES, [0.0, "mean"], 1, keep_samples=True)
    for made in (heatmap, several):
        made.save(tmp_path / "map.npz")
        assert Heatmap.load(tmp_path / "map.npz") == made
    assert (heatmap.baseline, several.baseline) == ("noise, 1 samples, seed 0", "average of 0; mean")


def test_the_local_mean_is_that_of_the_ring(x):
    window = KryptonOcclusion(lambda x: x.sum((1, 2, 3))).heatmap(x, WINDOW, STRIDES).window
    fill = fillings.LocalMean(border=2).fill(x, window, 0)
    everywhere = np.arange(len(window))
    for (_, (top, bottom), (left, right)), content in zip(
        window.boxes(everywhere).tolist(), fill(window.boxes(everywhere)), strict=True
    ):
        ring = torch.zeros(24, 20, dtype=torch.bool)
        ring[max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2] = True
        ring[top:bottom, left:right] = False
        assert torch.allclose(
            content, x[:, :, ring].mean(2)[..., None, None].expand(content.shape), atol=1e-6
        )


def test_the_local_mean_fills_regions_of_any_shape(model, x):
    mask = torch.zeros(24, 20, dtype=torch.long)
    mask[3:8, 2:5] = mask[12, 15] = 1
    heatmap = KryptonOcclusion(model).heatmap(x, regions=mask, baselines="local mean", target=0)
    box = torch.zeros(24, 20, dtype=torch.bool)
    box[3:13, 2:16] = True
    ring = torch.zeros_like(box)
    ring[max(0, 3 - 5) : 13 + 5, max(0, 2 - 7) : 16 + 7] = True
    mean = x[:, :, ring & ~box].mean(2)[..., None, None]
    covered = torch.where(mask == 1, mean, x)
    assert_close(heatmap.values[1], model(covered)[0, 0], output_scale(model, x))


def test_where_the_filling_is_what_was_there_nothing_is_computed(model, monkeypatch):
    x = torch.full((1, 3, 24, 20), 0.25)
    x[..., :8, :8] = torch.rand(1, 3, 8, 8)
    occlusion, computed = KryptonOcclusion(model, "reference"), []
    occlusion.heatmap(x, WINDOW, STRIDES, "local mean", 0)  # the first one is proved
    from krypton_engine.executors.reference.session import ReferenceSession

    compute = ReferenceSession.compute
    monkeypatch.setattr(
        ReferenceSession,
        "compute",
        lambda self, changes, *more: computed.append(len(changes)) or compute(self, changes, *more),
    )
    heatmap = occlusion.heatmap(x, WINDOW, STRIDES, "local mean", 0)
    assert 0 < sum(computed) < heatmap.values.numel()
    assert float(heatmap.drop[-1, -1]) == 0.0


def test_conditional_draws_have_the_conditional_mean_and_covariance():
    # Cells of an autoregressive line: cov(i, j) = 0.8**|i - j|.
    count, size = 4000, 9
    cov = 0.8 ** np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    lines = np.random.default_rng(0).multivariate_normal(np.full(size, 3.0), cov, count)
    filling = fillings.Conditional.fit(torch.from_numpy(lines).reshape(count, 1, size), 3, 3, patches=count)
    x = torch.from_numpy(lines[:1]).reshape(1, 1, size)
    given = np.r_[0:3, 6:9]
    weights = np.linalg.solve(cov[np.ix_(given, given)], cov[np.ix_(given, np.arange(3, 6))])
    mean = 3.0 + (lines[0, given] - 3.0) @ weights
    left = cov[3:6, 3:6] - cov[np.ix_(np.arange(3, 6), given)] @ weights
    window = KryptonOcclusion(lambda x: x.sum((1, 2))).heatmap(x, (1, 3), (1, 3)).window
    boxes = window.boxes(np.array([1]))
    draws = torch.stack([filling.fill(x, window, s)(boxes)[0] for s in range(3000)]).reshape(-1, 3).numpy()
    assert np.abs(draws.mean(0) - mean).max() < 0.06
    assert np.abs(np.cov(draws.T) - left).max() < 0.06


def test_what_is_drawn_does_not_depend_on_what_else_is_asked(model, x):
    occlusion, filling = KryptonOcclusion(model), conditional()
    whole = occlusion.heatmap(x, WINDOW, STRIDES, filling, 1)
    part = occlusion.heatmap(x, WINDOW, STRIDES, filling, 1, region=(10, 10, 12, 12))
    assert torch.allclose(part.values[part.measured], whole.values[part.measured], atol=1e-6)
    fill, every = filling.fill(x, whole.window, 1), np.arange(len(whole.window))
    together, alone = fill(whole.window.boxes(every)), fill(whole.window.boxes(every[7:8]))
    assert torch.allclose(together[7], alone[0], atol=1e-6)
    assert 0 < int(part.measured.sum()) < whole.measured.numel()


def test_a_map_of_several_samples_is_watched_and_cancelled(model, x):
    seen = []

    def watch(heatmap, done, total):
        seen.append((done, total))

    occlusion = KryptonOcclusion(model)
    occlusion.heatmap(x, WINDOW, STRIDES, fillings.Noise(samples=3), 1, on_progress=watch)
    assert seen[-1] == (75, 75) and [done for done, _ in seen] == sorted(done for done, _ in seen)

    with pytest.raises(OcclusionCancelled) as cancelled:
        occlusion.heatmap(
            x, WINDOW, STRIDES, fillings.Noise(samples=3), 1, on_progress=lambda h, done, total: done < 30
        )
    assert cancelled.value.partial.baseline.endswith("seed 0; only 1 of its 3 samples everywhere")
    first = occlusion.heatmap(
        x, WINDOW, STRIDES, fillings.Noise().fill(x, cancelled.value.partial.window, 0), 1
    )
    second = fillings.Noise(samples=2).fill(x, first.window, 1)
    second = occlusion.heatmap(x, WINDOW, STRIDES, second, 1)
    mean = (first.values + second.values) / 2
    close = torch.isclose(cancelled.value.partial.values, mean, atol=1e-6)
    alone = torch.isclose(cancelled.value.partial.values, first.values, atol=1e-6)
    assert (close | alone).all() and close.any() and alone.any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"baselines": "fog"}, "baselines is 'fog'; accepted: a number, a tensor, 'blur', 'mean', "),
        ({"baselines": []}, "baselines is an empty list"),
        ({"baselines": fillings.Blur}, "baselines is <class"),
        ({"baselines": [0.0, "fog"]}, "baselines is 'fog'"),
        ({"baselines": [0.0, torch.zeros(7)]}, "baselines is"),
        ({"baselines": ["mean", 0.0], "ssim_target": 0.9}, "ssim_target is given, and this one has 2"),
        ({"baselines": ["mean", 0.0], "analyze": True}, "analyze is True"),
        ({"baselines": conditional(patch=3)}, "baselines is conditional of 3x3"),
    ],
)
def test_fillings_that_cannot_be_used(model, x, arguments, words):
    with pytest.raises(InputError, match=words):
        KryptonOcclusion(model).heatmap(x, WINDOW, STRIDES, **arguments)


def test_a_fraction_is_no_cell_of_whole_numbers(model):
    x = torch.ones(1, 3, 24, 20, dtype=torch.uint8)
    occlusion = KryptonOcclusion(lambda images: model(images.float()))
    for given in (0.5, 256.0, torch.full((1, 3, 24, 20), 0.5)):
        with pytest.raises(InputError, match=r"baselines is .*; accepted: numbers that torch.uint8 holds"):
            occlusion.heatmap(x, WINDOW, STRIDES, [given])
    whole, list_of_one = (occlusion.heatmap(x, WINDOW, STRIDES, given, 1) for given in (7, [7]))
    assert torch.allclose(whole.values, list_of_one.values, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fillings.Blur(0.0), "sigma is 0.0"),
        (lambda: fillings.Noise(0), "samples is 0"),
        (lambda: fillings.LocalMean(0), "border is 0"),
        (lambda: fillings.Soft("fog"), "baselines is 'fog'"),
        (lambda: fillings.Soft(0.0, edge=-1.0), "edge is -1.0"),
        (lambda: fillings.Conditional.fit([], 3), "images is"),
        (lambda: fillings.Conditional.fit(None, 3), "images is"),
        (lambda: fillings.Conditional.fit(torch.full((2, 3, 8, 8), math.nan), 3), "images hold NaN"),
        (lambda: fillings.Conditional.fit(torch.rand(2, 3, 8, 8), 3.5), "patch is 3.5"),
        (lambda: fillings.Conditional.fit(torch.rand(2, 3, 8, 8), 9), "images is one of shape"),
        (lambda: fillings.Conditional.fit(torch.rand(2, 3, 8, 8), (3, 3, 3)), "patch is"),
        (lambda: fillings.Conditional.fit(torch.rand(2, 3, 8, 8), 3, samples=0), "samples is 0"),
        (lambda: fillings.Conditional.fit(torch.rand(2, 3, 80, 80), 70), "patch is .* cells in all"),
    ],
)
def test_fillings_that_cannot_be_made(make, words):
    with pytest.raises(InputError, match=words):
        make()


@pytest.mark.parametrize("target", [0.9, 1])
def test_one_sample_takes_a_similarity_target(model, x, target):
    occlusion = KryptonOcclusion(model)
    for filling in ("blur", "local mean"):
        exact = occlusion.heatmap(x, (3, 4, 4), (3, 1, 1), filling, 1)
        found = occlusion.heatmap(x, (3, 4, 4), (3, 1, 1), filling, 1, ssim_target=target)
        assert found.compare(exact).ssim > 0.85
        same = found.status == Status.EXACT
        assert same.any() and torch.allclose(found.values[same], exact.values[same], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize("name", FILLINGS)
def test_cells_of_integers_are_filled_with_whole_numbers_in_range(name, dtype):
    x = torch.randint(0, 40, (1, 3, 24, 20), generator=torch.Generator().manual_seed(2)).to(dtype)
    wide = x.double()
    window = KryptonOcclusion(lambda x: x.sum((1, 2, 3))).heatmap(x, WINDOW, STRIDES).window
    given = FILLINGS[name]
    filling = fillings.Several(given if isinstance(given, list) else [given])
    boxes = window.boxes(np.arange(3))
    for sample in range(filling.samples):
        exact, found = (filled_boxes(filling.fill(each, window, sample), boxes) for each in (wide, x))
        for right, mine in zip(exact, found, strict=True):
            assert mine.dtype == dtype
            limit = torch.iinfo(dtype)
            assert torch.equal(mine, right.round().clamp(limit.min, limit.max).to(dtype))


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        (fillings.Soft(torch.zeros(1, 3, 24, 20)), fillings.Soft(torch.ones(1, 3, 24, 20))),
        ([torch.zeros(1, 3, 24, 20)], [torch.ones(1, 3, 24, 20)]),
        (conditional(samples=1), fillings.Conditional.fit(torch.rand(6, 3, 24, 20), (7, 6), 1, samples=1)),
    ],
    ids=["images", "lists of images", "fits"],
)
def test_a_map_does_not_go_on_with_another_filling(model, x, mine, other):
    occlusion = KryptonOcclusion(model)
    part = occlusion.heatmap(x, WINDOW, STRIDES, mine, 1, region=(0, 0, 5, 5))
    whole = occlusion.heatmap(x, WINDOW, STRIDES, mine, 1, resume=part)
    assert torch.allclose(whole.values, occlusion.heatmap(x, WINDOW, STRIDES, mine, 1).values, atol=1e-6)
    with pytest.raises(InputError, match="resume is a heatmap with another baseline"):
        occlusion.heatmap(x, WINDOW, STRIDES, other, 1, resume=part)


def test_the_weight_of_evidence_is_in_bits(model, x):
    heatmap = KryptonOcclusion(model).heatmap(x, WINDOW, STRIDES, "mean", 1, activation="softmax")
    p, q = heatmap.base.double(), heatmap.values.double()
    right = torch.log2(p / (1 - p)) - torch.log2(q / (1 - q))
    assert torch.allclose(heatmap.weight_of_evidence().double(), right, atol=1e-5)
    classes = len(heatmap.base_outputs)
    p, q = ((value * 50 + 1) / (50 + classes) for value in (p, q))
    right = torch.log2(p / (1 - p)) - torch.log2(q / (1 - q))
    assert torch.allclose(heatmap.weight_of_evidence(examples=50).double(), right, atol=1e-5)
    logits = KryptonOcclusion(lambda x: 9 + model(x)).heatmap(x, WINDOW, STRIDES, "mean", 1)
    with pytest.raises(InputError, match="this map has values of"):
        logits.weight_of_evidence()
    assert math.isfinite(float(heatmap.weight_of_evidence().sum()))
