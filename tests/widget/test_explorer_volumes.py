"""Explorers of volumes and signals, against loops over occluded copies and against the engine's own maps."""

from __future__ import annotations

import importlib
import io

import nibabel
import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation
from PIL import Image
from support.truth import brute_force
from support.widget_page import Page
from torch import nn

from krypton_engine import Heatmap, InputError, KryptonOcclusion
from krypton_engine.fillings import Blur, LocalMean, Mean
from krypton_engine.medical import Geometry, Scan
from krypton_widget import OcclusionExplorer, coded
from krypton_widget.planes import planes_of
from krypton_widget.reading import readings

SIZES = (5, 14, 12)
LENGTH = 60


def network(axes, channels=1, seed=0):
    torch.manual_seed(seed)
    conv, pool = {
        1: (nn.Conv1d, nn.AdaptiveAvgPool1d),
        2: (nn.Conv2d, nn.AdaptiveAvgPool2d),
        3: (nn.Conv3d, nn.AdaptiveAvgPool3d),
    }[axes]
    net = nn.Sequential(
        conv(channels, 4, 3, padding=1), nn.ReLU(), conv(4, 4, 3, padding=1), nn.ReLU(),
        pool(2), nn.Flatten(), nn.Linear(4 * 2**axes, 4),
    ).eval()  # fmt: skip
    with torch.no_grad():
        net[-1].weight.mul_(20)
    return net


def volume(channels=1, seed=0, sizes=SIZES):
    return torch.rand(channels, *sizes, generator=torch.Generator().manual_seed(seed))


def signal(channels=2, seed=0):
    return torch.rand(channels, LENGTH, generator=torch.Generator().manual_seed(seed))


def scan(order="DHW", levels=None):
    sizes = SIZES if order == "DHW" else SIZES[::-1]
    spacing = (3.0, 1.0, 1.0) if order == "DHW" else (1.0, 1.0, 3.0)
    return Scan.of(volume(sizes=sizes).numpy(), Geometry.of_spacing(sizes, spacing, order), levels)


@pytest.fixture
def explore():
    """Makes explorers, and closes them."""
    made = []

    def make(model, image, **options):
        made.append(OcclusionExplorer(model, image, **{"window": 4, "stride": 2, "exact": True} | options))
        made[-1].wait(120)
        return made[-1]

    yield make
    for explorer in made:
        explorer.close()


def shares(net):
    return lambda x: torch.softmax(net(x), 1)


def decoded(sent):
    codes = np.frombuffer(sent["cells"], "<u2").reshape(sent["channels"], *sent["sizes"])
    return sent["low"] + codes * ((sent["high"] - sent["low"]) / 65535)


# --- maps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [4, 8])  # the second is longer than the shortest axis
@pytest.mark.parametrize("channels", [1, 2])
def test_every_cube_has_the_difference_of_a_loop(explore, side, channels):
    net, x = network(3, channels), volume(channels)[None]
    explorer = explore(net, x[0] if channels > 1 else scan(), window=side)
    shape = (channels, *[min(side, size) for size in SIZES])
    outputs = brute_force(shares(net), x, shape, (channels, 2, 2, 2), 0.5)
    target = explorer.heatmap.target
    assert explorer.heatmap.window.shape == shape
    counts = Page(explorer).frame["counts"]
    assert np.allclose(Page(explorer).cells("values").ravel(), outputs[:, target], atol=1e-6)
    assert np.array_equal(Page(explorer).cells("classes").ravel(), outputs.argmax(1))
    assert Page(explorer).frame["sizes"] == list(SIZES) and Page(explorer).frame["finished"]
    assert counts[0] == (1 if side > SIZES[0] else 2) and np.prod(counts) == len(outputs)


@pytest.mark.parametrize("side", [4, LENGTH])
def test_every_stretch_of_a_signal_has_the_difference_of_a_loop(explore, side):
    net, x = network(1, 2), signal()[None]
    explorer = explore(net, x[0], window=side, stride=3)
    outputs = brute_force(shares(net), x, (2, side), (2, 3), 0.5)
    assert np.allclose(Page(explorer).cells("values"), outputs[:, explorer.heatmap.target], atol=1e-6)
    assert Page(explorer).frame["sizes"] == [LENGTH]


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("word", ["black", "grey", "mean", "blur", "local mean"])
def test_words_for_what_covers_mean_the_same_by_axis(explore, axes, word):
    image = volume(2) * 3 - 1 if axes == 3 else signal() * 3 - 1  # black and white are no 0 and 1
    net = network(axes, 2)
    explorer = explore(net, image, baseline=word)
    dark, bright = np.percentile(image.numpy(), [1, 99])
    filling = {
        "black": float(image.min()),
        "grey": float((dark + bright) / 2),
        "mean": Mean(),
        "blur": Blur(),
        "local mean": LocalMean(),
    }
    theirs = KryptonOcclusion(net).heatmap(
        image[None],
        explorer.heatmap.window.shape,
        explorer.heatmap.window.strides,
        filling[word] if not isinstance(filling[word], float) else float(np.float32(filling[word])),
        explorer.heatmap.target,
        activation="softmax",
    )
    assert torch.allclose(explorer.heatmap.values, theirs.values, atol=1e-6)


def test_an_approximate_map_reaches_its_target_and_is_compared(explore):
    net, blob = network(3), torch.zeros(1, 12, 20, 20)
    blob[:, 4:8, 6:14, 8:16] = 1.0  # most positions change nothing, and some a lot
    explorer = explore(net, blob, exact=False, window=5, stride=1, ssim_target=0.7, baseline="black")
    approximate = explorer.heatmap  # how much of it is measured depends on what a look takes
    explorer.exact = True
    explorer.wait(120)
    found = Page(explorer).comparison
    assert found["counts"] == list(explorer.heatmap.window.counts[1:])
    ssim = approximate.compare(explorer.heatmap).ssim
    assert found["ssim"] == pytest.approx(ssim) and ssim >= 0.7
    assert Page(explorer).frame["exact"]


def test_a_deletion_curve_of_a_volume_ends_where_all_is_covered(explore):
    net = network(3)
    explorer = explore(net, scan(), curve=True)
    (curve,) = [each for each in Page(explorer).curves["curves"] if each["name"] == "exact"]
    values = np.frombuffer(curve["values"], np.float32)
    ends = [
        shares(net)(x)[0, explorer.heatmap.target].item()
        for x in (volume()[None], torch.full((1, 1, *SIZES), 0.5))
    ]
    assert values[[0, -1]] == pytest.approx(ends, abs=1e-6)


# --- what is an image ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axes", "shape", "sizes"),
    [
        (3, (1, 9, 14, 12), (9, 14, 12)),  # or a batch of one picture of 9 channels
        (3, (2, 9, 14, 12), (9, 14, 12)),
        (3, (1, 1, 9, 14, 12), (9, 14, 12)),
        (3, (9, 14, 12), (9, 14, 12)),
        (2, (1, 9, 14, 12), (14, 12)),
        (2, (9, 14, 12), (14, 12)),
        (1, (2, 40), (40,)),
        (1, (1, 2, 40), (40,)),
        (2, (24, 20), (24, 20)),
    ],
)
def test_what_axes_mean_is_what_the_model_takes(explore, axes, shape, sizes):
    x = torch.rand(shape)
    channels = (
        {(9, 14, 12): 9, (1, 9, 14, 12): 9}.get(shape, 1) if axes == 2 else (2 if 2 in shape[:2] else 1)
    )
    explorer = explore(network(axes, channels), x)
    assert Page(explorer).view["sizes"] == list(sizes)
    assert bool(Page(explorer).view["picture"]) == (axes == 2)
    # Of a picture only grey numbers that bytes would not hold.
    assert bool(Page(explorer).sent) == (axes != 2 or shape == (24, 20))


@pytest.mark.parametrize("shape", [(24, 20), (24, 20, 3), (3, 24, 20)])
def test_grey_pictures_of_numpy_stay_pictures(shape):
    """Whatever else they may be, that comes first."""
    assert type(readings(np.zeros(shape, np.float32), None)[0]()).__name__ == "ModelInput"


def test_preprocessing_may_make_a_volume_or_a_signal_of_anything(explore):
    grey = np.zeros((24, 20), np.uint8)
    for axes, made in ((3, volume()), (3, volume()[None]), (1, signal(1)), (1, signal(1)[None])):
        explorer = explore(network(axes), grey, preprocess=lambda _, made=made: made)
        assert len(Page(explorer).view["sizes"]) == axes
        assert np.allclose(decoded(Page(explorer).sent), made.reshape(1, *made.shape[-axes:]), atol=1e-4)


def test_a_scan_keeps_its_place_through_preprocessing_that_keeps_its_cells(explore):
    kept = explore(network(3), scan(), preprocess=lambda given: given.tensor * 2)
    lost = explore(network(3), scan(), preprocess=lambda given: given.tensor[:, :, ::2])
    assert Page(kept).view["spacing"] == [3, 1, 1] and Page(kept).sent["affine"]
    assert Page(lost).view["spacing"] == [1, 1, 1] and Page(lost).sent["affine"] is None


def test_several_volumes_to_pick_from(explore):
    explorer = explore(network(3), [scan(), volume(sizes=(8, 9, 10)), volume(seed=1)])
    sizes = [Image.open(io.BytesIO(each)).size for each in Page(explorer).thumbnails]
    assert sizes[0] == (SIZES[2], SIZES[1])
    explorer.region = (0, 0, 0, 2, 2, 2)
    explorer.image_index = 1
    explorer.wait(120)
    assert explorer.region is None and Page(explorer).frame["sizes"] == [8, 9, 10]
    assert Page(explorer).sent["image"] == 1 and Page(explorer).view["image"] == 1


def test_a_scan_of_one_slice_is_a_picture(explore):
    flat = Scan.of(np.random.default_rng(0).random((1, 24, 20)), Geometry.of_spacing((1, 24, 20)))
    explorer = explore(network(2), flat)
    assert Page(explorer).view["sizes"] == [24, 20] and Page(explorer).view["picture"]
    assert Page(explorer).sent["of"] == [24, 20], "its numbers, for windows of greys"


# --- what the page is sent ----------------------------------------------------------------------------


def test_voxels_are_sent_once(explore):
    explorer = explore(network(3), scan(levels=(0.25, 0.75)))
    sent = Page(explorer).sent
    assert np.allclose(decoded(sent), volume().numpy(), atol=1e-4)
    assert sent["levels"] == [0.25, 0.75] and len(sent["affine"]) == 3
    changes = []
    explorer.observe(changes.append, "_cells")
    for name, value in (("window", 5), ("baseline", "blur"), ("target", 1), ("region", (0, 0, 0, 2, 4, 4))):
        setattr(explorer, name, value)
        explorer.wait(120)
    assert not changes and not Page(explorer).view["picture"]


def test_more_than_a_page_takes_is_sent_coarser(explore, monkeypatch):
    monkeypatch.setattr(coded, "_LARGEST_SENT", 2 * 100)
    explorer = explore(network(3), volume(sizes=(8, 12, 12)))
    sent = Page(explorer).sent
    assert sent["of"] == [8, 12, 12] and len(sent["cells"]) <= 200 and all(size > 1 for size in sent["sizes"])
    assert explorer.heatmap.window.input_shape == (1, 8, 12, 12)


def test_what_covers_a_window_is_what_the_page_cuts_out(explore):
    explorer = explore(network(3), volume(), baseline="local mean")
    view, window = Page(explorer).view, explorer.heatmap.window
    sheet = decoded(view["cover"])[0]
    assert view["byWindow"] and sheet.shape == tuple(
        n * k for n, k in zip(window.counts[1:], window.shape[1:], strict=True)
    )
    filled = LocalMean().fill(volume()[None], window, 0)
    for position in (0, 7, len(window) - 1):
        (box,) = window.boxes(np.array([position]))
        content = filled(box[None])[0][0, 0]
        begins = [
            index[0] * side
            for index, side in zip(
                window.coordinates(np.array([position]))[1:], window.shape[1:], strict=True
            )
        ]
        cut = sheet[tuple(slice(b, b + n) for b, n in zip(begins, content.shape, strict=True))]
        assert np.allclose(cut, content, atol=1e-4)


@pytest.mark.parametrize("order", ["DHW", "WHD"])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
def test_planes_show_the_patient_from_the_front(order, signs):
    """At the screen's upper left lies what is furthest to the right, forward and up."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag(signs) @ (np.eye(3)[::-1] if order == "DHW" else np.eye(3))
    geometry = Geometry(affine, (4, 5, 6), order)
    for plane, (name, ends) in zip(
        planes_of(3, geometry), {"axial": "APRL", "coronal": "SIRL", "sagittal": "SIAP"}.items(), strict=True
    ):
        assert (plane["name"], "".join(plane["ends"])) == (name, ends)
        assert {plane["across"], plane["down"], plane["right"]} == {0, 1, 2}
        corners = []
        for end in (0, 1):
            place = [2, 2, 2]
            for axis, flip in zip((plane["down"], plane["right"]), plane["flip"], strict=True):
                place[axis] = (geometry.shape[axis] - 1) * (end != flip)
            corners.append(geometry.world(place))
        fall = corners[0] - corners[1]
        along = [abs(fall)[world] > 0 for world in range(3)]
        assert along == ["R" in ends, "A" in ends, "S" in ends] and (fall >= 0).all()


# --- regions ------------------------------------------------------------------------------------------


def test_a_box_and_a_mask_in_three_dimensions(explore):
    explorer = explore(network(3), scan())
    window = explorer.heatmap.window
    mask = np.zeros(SIZES, dtype=bool)
    mask[1:2, 3:6, 8:9] = True
    for region in ((1, 3, 8, 2, 6, 9), mask):
        explorer.region = region
        explorer.wait(120)
        wanted = {
            position
            for position, box in enumerate(window.boxes(np.arange(len(window))))
            if mask[tuple(slice(*span) for span in box[1:])].any()
        }
        shown = np.flatnonzero(Page(explorer).cells("status").ravel())
        assert set(shown.tolist()) == wanted and Page(explorer).frame["total"] == len(wanted)


def test_an_interval_of_a_signal(explore):
    explorer = explore(network(1, 2), signal(), region=(10, 12))
    assert np.flatnonzero(Page(explorer).cells("status")).tolist() == [4, 5]


def test_an_atlas_is_covered_region_by_region(explore):
    net, atlas = (
        network(3),
        np.arange(5)[:, None, None] * 10 + np.arange(14)[:, None] // 7 + np.zeros(12, int),
    )
    explorer = explore(net, scan(), regions=atlas, covered=(0, 41))
    mask = torch.from_numpy(atlas)[None, None]
    x, target = volume()[None], explorer.heatmap.target
    theirs = FeatureAblation(shares(net)).attribute(
        x, torch.full_like(x, 0.5), target=target, feature_mask=mask
    )
    firsts = [theirs[mask == number][0].item() for number in np.unique(atlas)]
    assert explorer.heatmap.drop.tolist() == pytest.approx(firsts, abs=1e-6)
    both = x.masked_fill((mask == 0) | (mask == 41), 0.5)
    found = np.frombuffer(Page(explorer).together["probabilities"], np.float32)
    assert np.allclose(found, shares(net)(both)[0].detach(), atol=1e-6)
    ids = np.array(Page(explorer).view["ids"], dtype=int)
    cells = np.frombuffer(Page(explorer).view["regions"], np.int32).reshape(SIZES)
    assert np.array_equal(ids[cells], atlas)


# --- refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 15}, r"window is 15; accepted: 1 to 14, .* 5 x 14 x 12 \(depth x height x width\)"),
        (
            {"regions": "slic"},
            r"regions is 'slic', and superpixels are of pictures; accepted: None, or a mask",
        ),
        ({"regions": np.zeros((14, 12), int)}, r"regions is a mask of shape \(14, 12\); .*depth and height"),
        ({"region": (0, 0, 4, 4)}, r"region is \(0, 0, 4, 4\); accepted: None, a box of 6 integers"),
        ({"region": np.ones((14, 12), bool)}, r"region is a mask of shape \(14, 12\)"),
        ({"region": (0, 0, 0, 6, 4, 4)}, r"region is \(0, 0, 0, 6, 4, 4\)"),
    ],
)
def test_what_does_not_fit_a_volume_is_refused_by_name(explore, options, words):
    with pytest.raises(InputError, match=words):
        explore(network(3), scan(), **options)


def test_what_no_model_takes_is_refused_as_the_likeliest(explore):
    with pytest.raises(InputError, match=r"the model raised RuntimeError .*\(batch, channels, length\)"):
        explore(network(1, 3), signal(), preprocess=lambda x: x)
    with pytest.raises(InputError, match="whose white is unknown"):
        explore(network(3), np.zeros((1, *SIZES), np.int16))
    with pytest.raises(InputError, match=r"image has shape \(0, 3\)"):
        explore(network(1), torch.zeros(0, 3))
    with pytest.raises(InputError, match="preprocess returns shape"):
        explore(network(3), volume(), preprocess=lambda x: x[None, None, None])


def test_superpixels_end_where_a_volume_is_picked(explore):
    def either(x):
        return shares(network(x.ndim - 2))(x)

    explorer = explore(
        either, [torch.rand(1, 24, 20), volume(2, sizes=(8, 9, 10))[:1][None]], regions="slic:6"
    )
    explorer.image_index = 1
    explorer.wait(120)
    assert explorer.regions is None and Page(explorer).frame["sizes"] == [8, 9, 10]


# --- files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [1, 3])
def test_files(explore, tmp_path, axes):
    explorer = explore(network(axes), scan() if axes == 3 else signal(1))
    for ending in ("png", "npz", "html"):
        explorer.save(tmp_path / f"map.{ending}")
    assert Heatmap.load(tmp_path / "map.npz") == explorer.heatmap
    assert Image.open(tmp_path / "map.png").width > 900
    assert "$bytes" in (tmp_path / "map.html").read_text()


def test_niivue_has_the_scan_and_the_drop(explore):
    pytest.importorskip("ipyniivue")
    explorer = explore(network(3), scan(levels=(0.25, 0.75)), opacity=0.5)
    view = explorer.niivue()
    below, above = view.volumes
    assert (below.cal_min, below.cal_max, above.opacity) == (0.25, 0.75, 0.5)
    assert above.cal_max == pytest.approx(explorer.heatmap.drop.abs().max().item())


def test_niivue_is_given_nifti_in_the_scans_place(explore):
    from krypton_widget.niivue import volumes

    explorer = explore(network(3), scan())
    below, above = (
        nibabel.Nifti1Image.from_bytes(each["data"])
        for each in volumes(explorer.heatmap, explorer._subject.input(0), 1.0, 0.5)
    )
    assert np.array_equal(below.affine, above.affine) and below.header.get_zooms() == (1, 1, 3)
    assert np.allclose(below.get_fdata(), volume()[0].numpy().transpose(2, 1, 0), atol=1e-6)
    window = explorer.heatmap.window
    nearest = np.ix_(*[window.nearest(axis) for axis in (1, 2, 3)])
    drop = explorer.heatmap.drop.numpy().reshape(window.counts[1:])[nearest]
    assert np.allclose(above.get_fdata(), drop.transpose(2, 1, 0), atol=1e-6)


def test_niivue_says_what_is_missing(explore, monkeypatch):
    explorer = explore(network(3), scan())
    real = importlib.import_module

    def without(name, *rest):
        if name == "ipyniivue":
            raise ModuleNotFoundError("No module named 'ipyniivue'")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(InputError, match="ipyniivue is needed for this.*pip install ipyniivue"):
        explorer.niivue()
    with pytest.raises(InputError, match=r"the image is 60 \(length\); accepted: a volume"):
        explore(network(1, 2), signal()).niivue()
