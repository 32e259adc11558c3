"""Explorers that cover regions in place of windows, several at once, with fillings; and deletion curves."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation
from support.widget_page import Page
from torch import nn

from krypton_engine import Heatmap, InputError, evaluate
from krypton_engine.fillings import Conditional, Mean, Noise, Soft
from krypton_engine.zoo import superpixels
from krypton_widget import OcclusionExplorer

SIZE = (24, 20)
MASK = np.arange(24)[:, None] // 8 * 10 + np.arange(20) // 10  # numbers 0, 1, 10, 11, 20, 21


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4),
    ).eval()  # fmt: skip


def picture(seed=0, size=SIZE):
    """Pixels of chance on eight tiles of different colours, which superpixels find."""
    draw = np.random.default_rng(seed)
    tiles = draw.integers(40, 200, (4, 2, 3)).repeat(-(-size[0] // 4), 0).repeat(-(-size[1] // 2), 1)
    return (tiles[: size[0], : size[1]] + draw.integers(0, 40, (*size, 3))).astype(np.uint8)


@pytest.fixture
def explore():
    """Makes explorers, and closes them."""
    made = []

    def make(image=None, **options):
        made.append(OcclusionExplorer(network(), picture() if image is None else image, **options))
        made[-1].wait(60)
        return made[-1]

    yield make
    for explorer in made:
        explorer.close()


def x_of(image):
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def shares(explorer, image):
    return torch.softmax(explorer._subject.model(image), 1)[0].detach()


@pytest.mark.parametrize("regions", ["slic:12", MASK])
def test_every_region_has_captums_difference(explore, regions):
    explorer = explore(regions=regions)
    x, target = x_of(picture()), explorer.heatmap.target
    mask = superpixels(picture(), 12) if isinstance(regions, str) else torch.from_numpy(MASK)
    expected = FeatureAblation(lambda x: torch.softmax(network()(x), 1)).attribute(
        x, torch.full_like(x, 128 / 255), target=target, feature_mask=mask[None, None]
    )
    ids = mask.unique()
    assert len(ids) > 4
    firsts = torch.stack([expected[0, 0][mask == number][0] for number in ids])
    assert torch.allclose(explorer.heatmap.drop, firsts, atol=1e-6)
    page = Page(explorer)
    assert (
        page.view["ids"] == list(map(str, ids.tolist()))
        and page.frame["total"] == len(ids)
        and page.frame["finished"]
    )
    cells = np.frombuffer(page.view["regions"], np.int32).reshape(SIZE)
    assert np.array_equal(ids.numpy()[cells], mask.numpy())
    values = np.frombuffer(page.frame["values"], np.float32)
    assert np.allclose(page.frame["base"] - values, firsts, atol=1e-6)


@pytest.mark.parametrize(
    "baseline", ["grey", "blur", "local mean", Noise(samples=3), Soft("mean"), "conditional"]
)
def test_several_regions_are_covered_at_once(explore, baseline):
    """Against the filled image, made here region by region."""
    x, mask = x_of(picture()), torch.from_numpy(MASK)
    if baseline == "conditional":
        baseline = Conditional.fit(x, patch=(8, 10), surroundings=2, samples=2)
    explorer = explore(regions=MASK, baseline=baseline, covered=[21, 0])
    assert explorer.covered == (0, 21)
    task = explorer._page.shown.task
    samples = []
    for sample in range(getattr(task.filling, "samples", 1)):
        image = x.clone()
        for position, number in ((0, 0), (5, 21)):
            if isinstance(task.filling, torch.Tensor):
                content = task.filling
            else:
                filled = task.filling.fill(x, task.positions, sample)
                content = x.clone()
                box = task.positions.boxes(np.array([position]))
                (_, _), (top, bottom), (left, right) = box[0].tolist()
                inside = filled[..., top:bottom, left:right] if torch.is_tensor(filled) else filled(box)[0]
                content[..., top:bottom, left:right] = inside
            image = torch.where(mask == number, content, image)
        samples.append(shares(explorer, image))
    found = np.frombuffer(Page(explorer).together["probabilities"], np.float32)
    assert np.allclose(found, torch.stack(samples).mean(0), atol=1e-6)
    assert Page(explorer).together["covered"] == ["0", "21"]


def test_covering_asks_the_model_and_measures_nothing(explore):
    explorer = explore(regions=MASK)
    before = explorer.heatmap
    explorer.covered = (1, 10)
    explorer.wait(60)
    assert explorer.heatmap is before or explorer.heatmap.seconds == before.seconds
    explorer.covered = ()
    explorer.wait(60)
    assert not Page(explorer).together


def test_other_regions_and_images_cover_nothing_together(explore):
    images = [picture(0), picture(1), picture(2, (16, 16))]
    explorer = explore(images, regions=MASK, covered=(1,), window=6, stride=2)
    explorer.regions = "slic:6"
    assert explorer.covered == ()
    explorer.wait(60)
    explorer.covered = (0, 2)
    explorer.image_index = 1
    assert explorer.covered == () and explorer.regions == "slic:6"
    explorer.regions = MASK
    explorer.image_index = 2  # of another size
    explorer.wait(60)
    assert explorer.regions is None and explorer.heatmap.drop.shape == (6, 6)


def test_the_page_comes_back_to_what_was_given(explore):
    filling = Soft(0.5, edge=1.0)
    explorer = explore(regions=MASK, baseline=filling)
    page = Page(explorer)
    given = explorer.get_state("_given")["_given"]
    assert page.frame["asked"]["regions"] == explorer.get_state("regions")["regions"] == given["regions"]
    assert (
        explorer.get_state("baseline")["baseline"]
        == given["baseline"]
        == {"given": f"given: {filling.describe()}"}
    )
    explorer.set_state({"regions": "slic:9", "baseline": "noise"})
    explorer.wait(60)
    assert explorer.regions == "slic:9" and explorer.baseline == "noise" and not explorer.error
    explorer.set_state({"regions": None})
    explorer.wait(60)
    assert explorer.heatmap.drop.ndim == 2
    explorer.set_state(given)
    explorer.wait(60)
    assert np.array_equal(explorer.regions, MASK) and explorer.baseline is filling


def test_a_page_cannot_choose_what_nobody_gave(explore):
    explorer = explore()
    for name in ("regions", "baseline"):
        explorer.set_state({name: {"given": "1"}})
        assert explorer.error.startswith(f"{name} is {{'given': '1'}}")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"regions": "slick"}, r"regions is 'slick'; accepted: None, 'slic', 'slic:COUNT' or a mask"),
        ({"regions": "slic:0"}, r"regions is 'slic:0'"),
        ({"regions": MASK[1:]}, r"regions is a mask of shape \(23, 20\); accepted: .*\(24, 20\)"),
        ({"regions": MASK + 0.5}, r"regions holds 0.5; accepted: whole numbers"),
        ({"regions": MASK.astype(object)}, r"regions is a mask of type object; accepted"),
        ({"covered": (3,)}, r"covered is \(3,\); accepted: .*set regions first"),
        ({"regions": MASK, "covered": (2,)}, r"covered holds 2; accepted: the 6 numbers of .*, 0 to 21"),
        ({"regions": MASK, "covered": "12"}, r"covered is '12'; accepted: numbers of regions"),
        ({"baseline": "fog"}, r"baseline is 'fog'; accepted: 'grey', .* or a filling"),
        ({"baseline": Noise}, r"baseline is .*; accepted"),
    ],
)  # fmt: skip
def test_odd_regions_and_fillings_are_refused(explore, options, words):
    with pytest.raises(InputError, match=words):
        explore(**options)


@pytest.mark.parametrize("options", [{"regions": MASK}, {"exact": True}, {"window": 6, "stride": 3}])
def test_curves_are_those_of_evaluate(explore, options):
    explorer = explore(curve=True, baseline="black", **options)
    x, heatmap = x_of(picture()), explorer.heatmap
    regions = torch.from_numpy(MASK) if "regions" in options else max(explorer.window, 2)
    expected = evaluate.deletion(
        network(), x, heatmap, regions, torch.zeros_like(x), heatmap.target, activation="softmax"
    )
    curves = {curve["name"]: curve for curve in Page(explorer).curves["curves"]}
    kind = "exact" if bool(heatmap.measured.all()) else "approximate"
    assert curves[kind]["area"] == pytest.approx(expected.area, abs=1e-6)
    assert np.allclose(np.frombuffer(curves[kind]["values"], np.float32), expected.values, atol=1e-6)
    assert np.frombuffer(curves[kind]["shares"], np.float32)[-1] == 1
    assert set(curves) == {"at random", kind} | ({"approximate"} if "exact" in options else set())
    explorer.curve = False
    explorer.wait(60)
    assert not Page(explorer).curves


def test_curves_say_why_there_are_none(explore):
    explorer = explore(curve=True, baseline="local mean")
    assert "depend on the window" in Page(explorer).curves["note"]
    explorer.regions = MASK  # the pieces are the regions: their fillings are one image
    explorer.wait(60)
    assert len(Page(explorer).curves["curves"]) == 2
    explorer.regions = np.arange(480).reshape(SIZE) % 1
    explorer.region = (0, 0, 8, 8)
    explorer.wait(60)
    assert not Page(explorer).curves


def test_a_map_of_many_regions_has_no_curve(explore):
    image = picture(3, (40, 40))
    explorer = explore(image, regions=np.arange(1600).reshape(40, 40), curve=True)
    assert Page(explorer).frame["finished"] and "1,600 steps" in Page(explorer).curves["note"]


def test_regions_that_touch_a_part_are_measured_alone(explore):
    explorer = explore(regions=MASK, region=(0, 0, 9, 5))
    assert explorer.heatmap.measured.tolist() == [True, False, True, False, False, False]
    assert Page(explorer).frame["total"] == 2


def test_windows_are_shown_with_what_covers_each(explore):
    """A filling that depends on the window comes as a sheet, one window beside the other."""
    import io

    from PIL import Image

    explorer = explore(baseline="local mean", window=6, stride=4, exact=True)
    page, task = Page(explorer), explorer._page.shown.task
    sheet = np.asarray(Image.open(io.BytesIO(page.view["patch"])))
    rows, columns = task.positions.counts[1:]
    assert page.view["byWindow"] and sheet.shape == (6 * rows, 6 * columns, 3)
    boxes = task.positions.boxes(np.arange(len(task.positions)))
    contents = task.filling.fill(task.x, task.positions, 0)(boxes)
    for i, content in enumerate(contents):
        top, left = 6 * (i // columns), 6 * (i % columns)
        seen = sheet[top : top + content.shape[2], left : left + content.shape[3]]
        assert np.abs(seen / 255 - content[0].permute(1, 2, 0).numpy()).max() < 0.003


def test_files_of_regions(explore, tmp_path):
    explorer = explore(regions=MASK, covered=(0,))
    for ending in (".npz", ".png", ".html"):
        explorer.save(tmp_path / f"map{ending}")
    loaded = Heatmap.load(tmp_path / "map.npz")
    assert torch.equal(loaded.drop, explorer.heatmap.drop) and loaded.window.ids.tolist() == [
        0,
        1,
        10,
        11,
        20,
        21,
    ]
    assert '"covered": ["0"]' in (tmp_path / "map.html").read_text()


# --- found by a hostile reader --------------------------------------------------------------------------


def test_a_move_that_the_cache_answers_asks_the_model_of_today(explore):
    explorer = explore(regions=MASK)
    with torch.no_grad():
        explorer._subject.model[-1].bias += torch.tensor([0.5, -0.5, 0.0, 0.0])
    explorer.target = 1
    explorer.wait(60)
    model = explorer._subject.model
    assert float(explorer.heatmap.base) == pytest.approx(
        float(model(x_of(picture())).softmax(1)[0, 1]), abs=1e-6
    )


def test_a_filling_is_no_colour_of_its_name(explore):
    explorer = explore(baseline=Mean(), preprocess=lambda image: x_of(image)[0] ** 3, exact=True)
    filling = explorer._page.shown.task.filling
    assert isinstance(filling, Mean)
    explorer.baseline = "mean"
    explorer.wait(60)
    assert isinstance(explorer._page.shown.task.filling, torch.Tensor)


def test_numbers_of_sixteen_digits(explore):
    mask = 2**53 + np.arange(24)[:, None] // 12 + np.zeros(20, dtype=np.int64)
    explorer = explore(regions=mask)
    assert Page(explorer).view["ids"] == [str(2**53), str(2**53 + 1)]
    explorer.set_state({"covered": [str(2**53 + 1)]})
    explorer.wait(60)
    assert explorer.covered == (2**53 + 1,)


@pytest.mark.parametrize("order", [("regions", "covered"), ("covered", "regions")])
@pytest.mark.parametrize("regions", ["slic", torch.from_numpy(MASK)])
def test_regions_and_numbers_set_together(explore, order, regions):
    explorer = explore()
    values = {"regions": regions, "covered": (1,)}
    with explorer.hold_trait_notifications():
        for name in order:
            setattr(explorer, name, values[name])
    explorer.wait(60)
    assert explorer.covered == (1,) and Page(explorer).together["covered"] == ["1"]


def test_a_mask_is_the_explorers_own(explore):
    mask = MASK.copy()
    explorer = explore(regions=mask)
    mask[:] = 0
    assert np.array_equal(explorer.regions, MASK)


def test_bfloat16(explore):
    explorer = OcclusionExplorer(network().bfloat16(), picture(), regions=MASK)
    explorer.wait(60)
    assert Page(explorer).frame["finished"]
    explorer.close()


def test_a_filling_of_several_samples_is_measured_everywhere(explore):
    """With windows too, whatever the SSIM target; the page knows that the map is what was asked for."""
    explorer = explore(baseline=Noise(samples=3), window=6, stride=3, ssim_target=0.9)
    page, filling = Page(explorer), explorer._page.shown.task.filling
    assert page.frame["finished"] and page.frame["exact"] and page.frame["asked"]["ssim_target"] == 0.9
    assert page.frame["note"] == "of several samples every position is measured"
    x, window = x_of(picture()), explorer.heatmap.window
    box = window.boxes(np.array([7]))
    samples = []
    for sample in range(3):
        image = x.clone()
        inside = (slice(None), *(slice(lo, hi) for lo, hi in box[0].tolist()))
        image[inside] = filling.fill(x, window, sample)[inside]
        samples.append(shares(explorer, image)[explorer.heatmap.target])
    found, mean = explorer.heatmap.values.reshape(-1)[7], torch.stack(samples).mean()
    assert float(found) == pytest.approx(float(mean), abs=1e-6)


def test_a_mean_that_was_cut_short_is_not_taken_for_a_whole_one(explore):
    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            time.sleep(0.004 * len(x))
            return self.net(x) if float(x.sum()) > -1e9 else x  # without a graph

    explorer = OcclusionExplorer(Slow().eval(), picture(), window=6, stride=3, baseline=Noise(samples=5))
    page, ends = Page(explorer), time.monotonic() + 60
    while not page.frame or page.frame["done"] < page.frame["total"]:  # of the first sample
        assert time.monotonic() < ends
        time.sleep(0.005)
    explorer.cancel()
    explorer.wait(60)
    cut = explorer.heatmap.baseline
    explorer.curve = True  # another run
    explorer.wait(60)
    assert "samples everywhere" in cut and explorer.heatmap.baseline == "noise, 5 samples, seed 0"
    explorer.close()
