"""KryptonFeatureAblation and KryptonShapleyValueSampling in place of Captum's: same call, same numbers.

First the kinds of case that Captum's own tests have, with models whose answers are easy to compute by hand;
every one is compared with the Captum that is installed too. Then what images, masks and executors add.
"""

from __future__ import annotations

import inspect
import threading
import warnings

import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation, NoiseTunnel, ShapleyValueSampling
from support.tiny_models import (
    ReluDifference,
    SmallCNN,
    ThreeInputs,
    TwoViews,
    Weighted,
    assert_close,
    incremental,
    output_scale,
    peak_bytes,
    settle,
    tuple_of,
)
from torch import nn

from krypton_engine import (
    FallbackWarning,
    InputError,
    KryptonFeatureAblation,
    KryptonOcclusion,
    KryptonShapleyValueSampling,
)
from krypton_engine.executors.reference.session import ReferenceSession

EXECUTORS = ("auto", "native", "reference")


def mask_like(kind, shape, seed=0):
    """Feature masks: squares, scattered cells, a part of the channels, one region, every cell its own."""
    channels, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    mask = {
        "squares": rows // 8 * 3 + columns // 8,
        "scattered": torch.randint(0, 6, (height, width), generator=generator),
        "scattered in channels": torch.randint(0, 6, shape, generator=generator),
        "channels": torch.arange(channels)[:, None, None],
        "one": torch.zeros(1, 1, dtype=torch.long),
        "numbers with gaps": (rows // 12 * 2 + columns // 10) * 1000 + 7,
    }[kind]
    return mask.reshape(1, *(1,) * (3 - mask.ndim), *mask.shape)  # with fewer axes Captum takes one a time


KINDS = ("squares", "scattered", "scattered in channels", "channels", "one", "numbers with gaps")


def both(ours, theirs, *args, **kwargs):
    """Attributions of both, which agree in form."""
    mine, right = ours.attribute(*args, **kwargs), theirs.attribute(*args, **kwargs)
    assert isinstance(mine, tuple) == isinstance(right, tuple)
    return tuple_of(mine), tuple_of(right)


# --- feature ablation -----------------------------------------------------------------------------------


def test_arguments_are_captums_in_captums_order():
    for ours, theirs in (
        (KryptonFeatureAblation, FeatureAblation),
        (KryptonShapleyValueSampling, ShapleyValueSampling),
    ):
        names = list(inspect.signature(theirs.attribute).parameters)
        mine = list(inspect.signature(ours.attribute).parameters)
        assert [name for name in mine if name in names] == names
        assert issubclass(ours, theirs)


@pytest.mark.parametrize(
    ("rows", "rest", "expected"),
    [
        ([[20.0, 50, 30]], {}, [[40, 150, 150]]),
        ([[20.0, 50, 30]], {"feature_mask": torch.tensor([[0, 0, 1]])}, [[190, 190, 150]]),
        (
            [[20.0, 50, 30], [2, 1, 0]],
            {"feature_mask": torch.tensor([[0, 0, 1], [1, 1, 0]]), "baselines": 1},
            [[185, 185, 145], [2, 2, -5]],
        ),
    ],
    ids=["every element", "a mask", "a mask for every example"],
)
def test_by_hand(rows, rest, expected):
    model, x = Weighted(), torch.tensor(rows)
    (mine,), (right,) = both(KryptonFeatureAblation(model), FeatureAblation(model), x, target=0, **rest)
    torch.testing.assert_close(mine, right)
    torch.testing.assert_close(mine, torch.tensor(expected, dtype=torch.float32))


EVERY = [(kind, executor, [0, 3]) for kind in KINDS for executor in EXECUTORS]
TARGETS = [("scattered", "native", target) for target in (1, torch.tensor([2, 4]), None)]


@pytest.mark.parametrize(("kind", "executor", "target"), EVERY + TARGETS, ids=str)
def test_masks_of_images(cnn, kind, executor, target):
    x = torch.rand(2, 3, 24, 20)
    mask = mask_like(kind, x.shape[1:])
    ours = KryptonFeatureAblation(cnn, executor)
    for baseline in (None, 0.3, torch.rand(1, 3, 24, 20)):
        (mine,), (right,) = both(
            ours, FeatureAblation(cnn), x, baseline, target, feature_mask=mask, perturbations_per_eval=2
        )
        assert_close(mine, right, output_scale(cnn, x))
    assert float(right.abs().max()) > 1e-3 * output_scale(cnn, x)


@pytest.mark.parametrize("executor", ["native", "reference"])
def test_a_mask_for_every_example(cnn, executor):
    x, mask = torch.rand(3, 3, 24, 20), torch.randint(0, 5, (3, 1, 24, 20))
    with incremental():
        ours = KryptonFeatureAblation(cnn, executor)
        (mine,), (right,) = both(ours, FeatureAblation(cnn), x, 0.2, [1, 0, 4], feature_mask=mask)
    assert_close(mine, right, output_scale(cnn, x))


def test_masks_for_every_example_are_one_run(cnn, capsys):
    x = torch.rand(3, 3, 24, 20)
    mask = torch.arange(20).repeat(3, 1, 24, 1) // torch.tensor([4, 5, 10]).reshape(3, 1, 1, 1)
    KryptonFeatureAblation(cnn).attribute(x, 0.2, 1, feature_mask=mask, show_progress=True)
    bars = capsys.readouterr().err
    assert bars.count("  0%") == 1 and "11/11" in bars


def test_a_mask_for_every_example_of_a_function_that_reads_across_the_batch():
    def centred(x):
        return (x - x.mean(0)).square().sum(1)

    x, mask = torch.rand(3, 1, 6, 6), torch.randint(0, 4, (3, 1, 6, 6))
    with pytest.warns(FallbackWarning):
        (mine,), (right,) = both(
            KryptonFeatureAblation(centred), FeatureAblation(centred), x, target=(2, 3), feature_mask=mask
        )
    torch.testing.assert_close(mine, right)


def test_every_element_is_a_feature(cnn):
    x = torch.rand(1, 3, 8, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        (mine,), (right,) = both(KryptonFeatureAblation(cnn), FeatureAblation(cnn), x, target=1)
    assert_close(mine, right, output_scale(cnn, x))


def test_regions_in_which_nothing_changes(cnn):
    x = torch.rand(1, 3, 24, 20)
    x[..., :8, :] = 0.0
    mask = mask_like("squares", x.shape[1:])
    (mine,), (right,) = both(
        KryptonFeatureAblation(cnn), FeatureAblation(cnn), x, target=1, feature_mask=mask
    )
    assert_close(mine, right, output_scale(cnn, x))
    assert not mine[..., :8, :].any()


def test_several_inputs():
    model = TwoViews()
    x, y = torch.rand(2, 3, 16, 16), torch.rand(2, 1, 20, 12)
    masks = mask_like("squares", (3, 16, 16)), 100 + mask_like("scattered", (1, 20, 12))
    (left, right), theirs = both(
        KryptonFeatureAblation(model), FeatureAblation(model), (x, y), (0.5, 0), 1, feature_mask=masks
    )
    for mine, other in zip((left, right), theirs, strict=True):
        assert_close(mine, other, output_scale(model, (x, y)))


def test_a_feature_of_several_inputs_is_covered_in_all_of_them():
    model, rows = ThreeInputs(), torch.rand(2, 3)
    inputs = rows, rows + 1, rows * 2
    masks = torch.tensor([[0, 0, 1]]), torch.tensor([[1, 2, 2]]), torch.tensor([[3, 3, 3]])
    with pytest.warns(FallbackWarning, match="feature 1 lies in several inputs"):
        mine, theirs = both(
            KryptonFeatureAblation(model), FeatureAblation(model), inputs, target=0, feature_mask=masks,
            additional_forward_args=2,
        )  # fmt: skip
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_types(dtype):
    model = settle(SmallCNN()).to(dtype)
    x, mask = torch.rand(1, 3, 24, 20, dtype=dtype), mask_like("scattered", (3, 24, 20))
    (mine,), (right,) = both(
        KryptonFeatureAblation(model), FeatureAblation(model), x, target=1, feature_mask=mask
    )
    assert mine.dtype == right.dtype == dtype
    scale = float(model(x).abs().max())
    assert float((mine - right).abs().max()) <= 8 * torch.finfo(dtype).eps * scale


def test_integers_stay_integers():
    model, inputs = ReluDifference(), (torch.tensor([[1, 5, 9]]), torch.tensor([[7, 0, 3]]))
    masks = torch.tensor([[0, 0, 1]]), torch.tensor([[2, 3, 3]])
    mine, theirs = both(
        KryptonFeatureAblation(model), FeatureAblation(model), inputs, target=0, feature_mask=masks
    )
    for one, other in zip(mine, theirs, strict=True):
        assert one.dtype == other.dtype == torch.int64
        assert torch.equal(one, other)


def test_numbers_that_are_not_finite():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2)).eval()
    x, mask = torch.rand(1, 1, 12, 12), torch.arange(12)[:, None] // 4 * 3 + torch.arange(12) // 4
    baseline = torch.zeros(1, 1, 12, 12)
    baseline[..., 5, 5] = torch.inf
    ours = KryptonFeatureAblation(model, "native")
    mine = ours.attribute(x, baseline, 0, feature_mask=mask)
    assert not mine[..., 5, 5].isfinite()
    finite = torch.where(mask == 4, 0.0, 1.0)
    right = FeatureAblation(model).attribute(x, 0, 0, feature_mask=mask[None, None])
    torch.testing.assert_close((mine.nan_to_num(0, 0, 0)) * finite, right * finite, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (torch.zeros(5, 4, dtype=torch.long), "feature_mask has shape"),
        (torch.full((24, 20), 0.5), "feature_mask holds 0.5"),
        (torch.full((24, 20), torch.inf), "feature_mask holds inf"),
        ("slic", "feature_mask is str"),
        ((torch.zeros(24, 20), torch.zeros(24, 20)), "2 masks"),
    ],
    ids=["shape", "fractions", "infinity", "a word", "too many"],
)
@pytest.mark.parametrize("kind", [KryptonFeatureAblation, KryptonShapleyValueSampling])
def test_masks_that_cannot_be_used(cnn, kind, mask, said):
    with pytest.raises(InputError, match=said):
        kind(cnn).attribute(torch.rand(1, 3, 24, 20), feature_mask=mask, target=0)


@pytest.mark.parametrize(
    "mask",
    [
        torch.tensor([[1e30, 2.0]]),
        torch.tensor([2**63], dtype=torch.uint64),
        torch.eye(20, dtype=torch.int64).to_sparse(),
        torch.zeros(20, dtype=torch.int64, device="meta"),
    ],
)  # fmt: skip
def test_masks_of_numbers_that_are_none(cnn, mask):
    with pytest.raises(InputError, match="regions (holds|is sparse)"):
        KryptonOcclusion(cnn).heatmap(torch.rand(1, 3, 24, 20), regions=mask)


def test_numbers_far_apart_have_no_permutations(cnn):
    mask = torch.zeros(20, dtype=torch.int64)
    mask[3] = 2**60
    with pytest.raises(InputError, match=r"feature_mask holds 1152921504606846976; accepted: numbers below"):
        KryptonShapleyValueSampling(cnn).attribute(torch.rand(1, 3, 24, 20), feature_mask=mask)


def test_pairs_beyond_the_budget_are_refused(cnn):
    mask = torch.arange(480).reshape(24, 20)
    ablation = KryptonFeatureAblation(cnn, memory_budget=2**20)
    with pytest.raises(InputError, match="feature_mask has 480 features, the interactions of which take"):
        ablation.interactions(torch.rand(1, 3, 24, 20), target=0, feature_mask=mask)


def test_within_a_noise_tunnel(cnn):
    x, mask = torch.rand(1, 3, 24, 20), mask_like("squares", (3, 24, 20))
    found = [
        NoiseTunnel(kind(cnn)).attribute(x, nt_samples=2, stdevs=1e-9, target=1, feature_mask=mask)
        for kind in (KryptonFeatureAblation, FeatureAblation)
    ]
    assert_close(*found, output_scale(cnn, x))


def test_changed_weights_are_seen():
    model, x = settle(SmallCNN()), torch.rand(1, 3, 24, 20)
    mask, ours = mask_like("scattered", (3, 24, 20)), None
    ours = KryptonFeatureAblation(model)
    ours.attribute(x, target=1, feature_mask=mask)
    model.stem.weight.data.mul_(1.5)
    (mine,), (right,) = both(ours, FeatureAblation(model), x, target=1, feature_mask=mask)
    assert_close(mine, right, output_scale(model, x))


def test_windows_and_regions_share_a_graph(cnn):
    x, mask = torch.rand(1, 3, 24, 20), mask_like("scattered", (3, 24, 20))
    occlusion, ablation = KryptonOcclusion(cnn), KryptonFeatureAblation(cnn)
    before = occlusion.attribute(x, (3, 6, 5), (3, 3, 5), target=1)
    first = ablation.attribute(x, target=1, feature_mask=mask)
    assert torch.equal(before, occlusion.attribute(x, (3, 6, 5), (3, 3, 5), target=1))
    assert torch.equal(first, ablation.attribute(x, target=1, feature_mask=mask))


def test_a_mask_of_fewer_axes(cnn):
    x = torch.rand(2, 3, 24, 20)
    whole = mask_like("scattered", x.shape[1:])
    ours = KryptonFeatureAblation(cnn)
    right = ours.attribute(x, target=1, feature_mask=whole)
    for mask in (whole[0], whole[0, 0], whole.expand(2, 3, 24, 20), whole.float()):
        assert torch.equal(ours.attribute(x, target=1, feature_mask=mask), right)


def test_squares_are_windows(cnn):
    x = torch.rand(1, 3, 24, 24)
    mask = torch.arange(24)[:, None] // 8 * 3 + torch.arange(24) // 8
    by_windows = KryptonOcclusion(cnn).attribute(x, (3, 8, 8), (3, 8, 8), target=1)
    assert_close(
        KryptonFeatureAblation(cnn).attribute(x, target=1, feature_mask=mask),
        by_windows,
        output_scale(cnn, x),
    )


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("head", ["mean", "flatten"])
def test_borders_that_do_not_change(executor, head):
    """Regions that all reach the edges, where the input is the baseline: boxes of what changes do not."""
    torch.manual_seed(2)
    body = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()]
    last = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    model = nn.Sequential(*body, *(last if head == "mean" else [nn.Flatten(), nn.Linear(8 * 256, 5)])).eval()
    x = torch.zeros(1, 3, 16, 16)
    x[:, :, 3:-2, 2:-1] = torch.randn(1, 3, 11, 13)
    mask = (torch.arange(16)[:, None] + torch.arange(16))[None, None] // 2 % 3
    (mine,), (right,) = both(
        KryptonFeatureAblation(model, executor), FeatureAblation(model), x, target=1, feature_mask=mask
    )
    assert_close(mine, right, output_scale(model, x))
    call = {"target": 1, "feature_mask": mask, "n_samples": 3}
    mine, _ = seeded(KryptonShapleyValueSampling(model, executor).attribute, x, **call)
    right, _ = seeded(ShapleyValueSampling(model).attribute, x, **call)
    assert_close(mine, right, output_scale(model, x))


# --- Shapley values --------------------------------------------------------------------------------------


def seeded(method, *args, **kwargs):
    """An answer, and the next random number."""
    torch.manual_seed(7)
    found = method(*args, **kwargs)
    return found, torch.rand(1)


@pytest.mark.parametrize(
    ("kind", "executor", "target"),
    [each for each in EVERY if each[0] in ("squares", "scattered in channels")] + TARGETS,
    ids=str,
)
def test_the_same_permutations(cnn, kind, executor, target):
    x = torch.rand(2, 3, 24, 20)
    mask = mask_like(kind, x.shape[1:])
    ours, theirs = KryptonShapleyValueSampling(cnn, executor), ShapleyValueSampling(cnn)
    for baseline in (None, torch.rand(1, 3, 24, 20)):
        call = {"target": target, "feature_mask": mask}
        mine, after = seeded(ours.attribute, x, baseline, n_samples=3, **call)
        right, then = seeded(theirs.attribute, x, baseline, n_samples=3, **call)
        assert torch.equal(after, then)
        assert_close(mine, right, output_scale(cnn, x))
        assert float(right.abs().max()) > 1e-3 * output_scale(cnn, x)


def test_shapley_masks_for_every_example_and_numbers_that_are_missing(cnn):
    x, mask = torch.rand(2, 3, 24, 20), torch.randint(0, 3, (2, 1, 24, 20)) * 2
    with pytest.warns(UserWarning, match="no cell of 2 of the numbers from 0 to 4"):
        mine, after = seeded(
            KryptonShapleyValueSampling(cnn).attribute, x, target=[1, 0], feature_mask=mask, n_samples=4
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        right, then = seeded(
            ShapleyValueSampling(cnn).attribute, x, target=[1, 0], feature_mask=mask, n_samples=4
        )
    assert torch.equal(after, then)
    assert_close(mine, right, output_scale(cnn, x))


@pytest.mark.parametrize("kind", ["several inputs", "one number a batch"])
def test_shapley_values_in_full(kind):
    if kind == "several inputs":
        model, inputs = TwoViews(), (torch.rand(2, 3, 8, 8), torch.rand(2, 1, 8, 8))
        call = {"target": 1, "feature_mask": (torch.randint(0, 3, (1, 1, 8, 8)), torch.full((1, 1, 8, 8), 3))}
    else:
        model, inputs = (lambda x: x.square().sum()), torch.rand(2, 1, 4, 4)
        call = {"feature_mask": torch.randint(0, 3, (1, 1, 4, 4))}
    with pytest.warns(FallbackWarning):
        mine, after = seeded(KryptonShapleyValueSampling(model).attribute, inputs, n_samples=3, **call)
    right, then = seeded(ShapleyValueSampling(model).attribute, inputs, n_samples=3, **call)
    assert torch.equal(after, then)
    for one, other in zip(tuple_of(mine), tuple_of(right), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_standard_errors(cnn):
    """Against the spread of Captum's own answers for one permutation each."""
    x, mask = torch.rand(1, 3, 24, 20), mask_like("squares", (3, 24, 20))
    torch.manual_seed(7)
    each = [
        ShapleyValueSampling(cnn).attribute(x, target=1, feature_mask=mask, n_samples=1) for _ in range(6)
    ]
    (values, errors), _ = seeded(
        KryptonShapleyValueSampling(cnn).attribute, x, target=1, feature_mask=mask, n_samples=6,
        return_standard_error=True,
    )  # fmt: skip
    draws = torch.stack(each).double()
    scale = output_scale(cnn, x)
    assert_close(values, draws.mean(0).float(), scale)
    assert_close(errors, (draws.std(0) / 6**0.5).float(), scale)
    assert float(errors.max()) > 1e-4 * scale


def test_sampling_ends_when_it_is_sure_or_late(cnn):
    x, mask = torch.rand(1, 3, 24, 20), mask_like("squares", (3, 24, 20))
    asked = {"target": 1, "feature_mask": mask, "n_samples": 64, "return_standard_error": True}
    ours = KryptonShapleyValueSampling(cnn)
    _, exact = ours.attribute(x, **asked)
    loose = float(exact.max()) * 3
    _, sure = ours.attribute(x, **asked, max_standard_error=loose)
    assert float(exact.max()) < float(sure.max()) <= loose
    _, late = ours.attribute(x, **asked, max_seconds=1e-9)
    assert float(late.max()) > float(exact.max())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n_samples": 0}, "n_samples is 0"),
        ({"max_seconds": -1}, "max_seconds is -1"),
        ({"max_standard_error": 0}, "max_standard_error is 0"),
        ({"feature_mask": torch.tensor(-1)}, "feature_mask holds -1"),
        ({"perturbations_per_eval": 0}, "perturbations_per_eval is 0"),
    ],
)
def test_limits_that_cannot_be_used(cnn, wrong, said):
    with pytest.raises(InputError, match=said):
        KryptonShapleyValueSampling(cnn).attribute(torch.rand(1, 3, 24, 20), target=0, **wrong)


def test_values_add_up(cnn):
    """Shapley's efficiency: all values together are the difference that all features make."""
    x, mask = torch.rand(1, 3, 24, 20), mask_like("scattered", (3, 24, 20))
    values = KryptonShapleyValueSampling(cnn).attribute(x, 0.1, 1, feature_mask=mask, n_samples=3)
    by_region = torch.stack([values[:, :1][mask == number][0] for number in mask.unique()])
    with torch.no_grad():
        whole = (cnn(x) - cnn(torch.full_like(x, 0.1)))[0, 1]
    torch.testing.assert_close(by_region.sum(), whole, atol=1e-5, rtol=0)


def test_permutations_from_several_threads(cnn):
    x, mask = torch.rand(1, 3, 24, 20), mask_like("squares", (3, 24, 20))
    right = KryptonShapleyValueSampling(cnn).attribute(x, target=1, feature_mask=mask, n_samples=200)
    found = []

    def work():
        ours = KryptonShapleyValueSampling(cnn)
        found.append(ours.attribute(x, target=1, feature_mask=mask, n_samples=200))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for each in found:  # other permutations, since threads share the generator
        assert float((each - right).abs().max()) < 0.3 * float(right.abs().max())


def test_regions_of_numpy_masks_are_refused(cnn):
    with pytest.raises(InputError, match="feature_mask is ndarray"):
        KryptonFeatureAblation(cnn).attribute(
            torch.rand(1, 3, 24, 20), target=0, feature_mask=np.zeros((24, 20), dtype=int)
        )


def test_integer_outputs_and_inputs(cnn):
    x, mask = torch.rand(1, 3, 24, 20), mask_like("squares", (3, 24, 20))
    bytes_ = torch.randint(0, 256, (1, 3, 24, 20))
    for forward, given, baseline in (
        (lambda a: (cnn(a) * 1000).long(), x, None),
        (lambda a: cnn(a.float() / 255), bytes_, 0.5),
        (lambda a: cnn(a.float() / 255), bytes_, 7),
    ):
        call = {"target": 1, "feature_mask": mask, "n_samples": 3}
        mine, _ = seeded(KryptonShapleyValueSampling(forward).attribute, given, baseline, **call)
        right, _ = seeded(ShapleyValueSampling(forward).attribute, given, baseline, **call)
        torch.testing.assert_close(mine, right, atol=1.01 if given is x else 1e-5, rtol=0)


def test_a_walk_through_large_outputs_is_no_disagreement():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5, bias=False),
    ).eval()  # fmt: skip
    x, baseline = torch.rand(1, 3, 24, 20) * 1e-3, torch.rand(1, 3, 24, 20) * 1e3
    mask = mask_like("squares", (3, 24, 20))
    with incremental():
        for start, end in ((x, baseline), (0 * x, baseline), (baseline, x)):
            call = {"target": 1, "feature_mask": mask, "n_samples": 3}
            mine, _ = seeded(KryptonShapleyValueSampling(model, "native").attribute, start, end, **call)
            right, _ = seeded(ShapleyValueSampling(model).attribute, start, end, **call)
            assert_close(mine, right, output_scale(model, baseline))


def test_permutations_are_drawn_as_they_are_needed(cnn):
    ours, drawn = KryptonShapleyValueSampling(cnn), []
    generate = ours.permutation_generator
    ours.permutation_generator = lambda *sizes: (drawn.append(1) or order for order in generate(*sizes))
    ours.attribute(
        torch.rand(1, 3, 24, 20), target=1, feature_mask=mask_like("squares", (3, 24, 20)),
        n_samples=10**5, max_seconds=1e-9,
    )  # fmt: skip
    assert 1 <= len(drawn) <= 100


def test_dense_outputs_are_not_kept():
    """Of every step only the target's values stay; all outputs of all steps would take 2.8 GiB."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 21, 3, padding=1)).eval()
    x = torch.randn(1, 3, 128, 128)
    mask = torch.arange(128)[:, None] // 16 * 8 + torch.arange(128) // 16
    ours = KryptonShapleyValueSampling(model, "native", memory_budget=256 * 2**20)
    call = {"target": (1, 3, 4), "feature_mask": mask}
    ours.attribute(x, **call, n_samples=1)
    grown = peak_bytes(lambda: ours.attribute(x, **call, n_samples=16))
    assert grown < 600 * 2**20


def test_a_budget_without_room_for_a_walk_runs_in_full(cnn, monkeypatch):
    monkeypatch.setattr(ReferenceSession, "most_walks", 0)
    x, mask = torch.rand(1, 3, 24, 20), mask_like("squares", (3, 24, 20))
    call = {"target": 1, "feature_mask": mask, "n_samples": 2}
    with pytest.warns(FallbackWarning, match="memory_budget does not hold the views of a walk"):
        mine, _ = seeded(KryptonShapleyValueSampling(cnn, "reference").attribute, x, **call)
    right, _ = seeded(ShapleyValueSampling(cnn).attribute, x, **call)
    assert_close(mine, right, output_scale(cnn, x))
