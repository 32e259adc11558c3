"""Pictures of volumes and signals, pixel by pixel, and maps of volumes from end to end."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image
from skimage.metrics import structural_similarity
from support.tiny_models import SmallCNN

from krypton_engine import Heatmap, InputError, KryptonOcclusion
from krypton_engine.heatmap import signal
from krypton_engine.heatmap.paint import DROP, Paint
from krypton_engine.heatmap.status import Status
from krypton_engine.heatmap.volume import Cuts
from krypton_engine.perturbation.windows import SlidingWindow

WINDOW = SlidingWindow((2, 9, 14, 11), (2, 4, 5, 4), (2, 2, 3, 3))
YELLOW = (255, 211, 77)


def volume(drop=None, image=None, window=WINDOW):
    """A map of drops, of random ones where none are given, over an image."""
    torch.manual_seed(0)
    drop = torch.rand(window.grid_shape) - 0.3 if drop is None else drop
    image = torch.rand(window.input_shape) if image is None else image
    return Heatmap(1 - drop, torch.tensor(1.0), torch.ones(drop.shape, dtype=torch.bool), window, image=image)


def rgb(picture):
    return np.asarray(picture.convert("RGB")).astype(int)


def panels(picture, widths, gap=8):
    """Slices side by side, without the black above and below."""
    left, found = 0, []
    for width, height in widths:
        top = (picture.shape[0] - height) // 2
        found.append(picture[top : top + height, left : left + width])
        left += width + gap
    assert left - gap == picture.shape[1]
    return found


# --- volumes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_three_slices_meet_in_the_voxel_of_the_largest_attribution(last):
    window = WINDOW
    if last:
        window = SlidingWindow((9, 14, 11, 1), (4, 5, 4, 1), (2, 3, 3, 1))
    heatmap = volume(window=window)
    attribution = heatmap.attribution().mean(-1 if last else 0).numpy()
    lines = []
    picture = rgb(heatmap.overlay(opacity=0))
    depth, height, width = 26 * 9, 26 * 14, 26 * 11  # the longest side has 360 pixels at least
    for slice_ in panels(picture, ((width, height), (width, depth), (height, depth))):
        yellow = (slice_ == YELLOW).all(-1)
        lines.append((yellow.mean(1).argmax(), yellow.mean(0).argmax()))
        assert yellow.sum(1).max() > 0.8 * slice_.shape[1] and not yellow.all(0).any()
    (row, column), (from_below, same), (again, there) = lines
    voxel = (depth - 1 - from_below) // 26, row // 26, column // 26
    assert (from_below, column, row) == (again, same, there)
    assert attribution[voxel] == attribution.max()


def test_every_pixel_of_a_slice_has_the_drop_of_the_window_centred_nearest():
    """By distances, one voxel at a time."""
    heatmap = volume(image=torch.zeros(WINDOW.input_shape))
    picture = rgb(heatmap.overlay(opacity=1, slices=9))
    low, high = heatmap.limits()
    side = 12  # the longest side has 160 pixels at least, so a voxel 12
    columns = (picture.shape[1] + 8) // (11 * side + 8)
    for depth in range(9):
        top, left = depth // columns * (14 * side + 8), depth % columns * (11 * side + 8)
        for row, column in ((0, 0), (3, 7), (8, 2), (13, 10), (7, 5)):
            nearest = []
            for axis, voxel in ((1, depth), (2, row), (3, column)):
                count, size, stride = WINDOW.counts[axis], WINDOW.shape[axis], WINDOW.strides[axis]
                away = np.abs(np.arange(count) * stride + size / 2 - voxel - 0.5)
                nearest.append(count - 1 - away[::-1].argmin())  # of two as near the later
            drop = float(heatmap.drop[tuple(nearest)])
            colour = np.array(colormaps["RdBu_r"]((drop - low) / (high - low))[:3]) * 255
            expected = colour * abs(drop / high) ** 0.75
            shown = picture[top + row * side + side // 2, left + column * side + side // 2]
            np.testing.assert_allclose(shown, expected, atol=1.5)


@pytest.mark.parametrize("spacing", [(1e6, 1, 1), (1, 1e-9, 1), (1, 1, 1e12)])
def test_a_spacing_in_other_units_makes_no_endless_picture(spacing, monkeypatch):
    monkeypatch.setattr("krypton_engine.heatmap.volume._MOST_PIXELS", 512)  # not to draw 4096 at either side
    assert max(volume().overlay(spacing=spacing).size) <= 2 * 512 + 3 * 8


def test_voxels_have_the_shape_that_the_spacing_says():
    width, height = volume().overlay(spacing=(3, 1, 1.5)).size
    depth, rows, columns = 14 * 27, 14 * 14, 14 * 16.5  # in half of the smallest spacing
    assert (width, height) == (round(2 * columns + rows) + 16, depth)


def test_a_montage_has_the_slices_asked_for_from_end_to_end():
    image = torch.arange(9.0).view(1, 9, 1, 1).expand(WINDOW.input_shape)
    flat = volume(torch.zeros(WINDOW.grid_shape), image)
    picture = rgb(flat.overlay(slices=3))
    middles = [picture[80, left + 66, 0] for left in (0, 140, 280)]
    np.testing.assert_allclose(middles, np.array([1, 4, 7]) / 8 * 255, atol=1)
    assert Image.open(io.BytesIO(flat.content(".png", slices=4))).width > 600


def test_slices_go_through_what_is_known():
    """Not through the rim of a part, where few known windows cover a voxel."""
    drop = torch.linspace(0, 1, 4).view(4, 1, 1).expand(4, 4, 4).clone()
    heatmap = volume(drop)
    known = torch.zeros(drop.shape, dtype=torch.bool)
    known[:3, 1, 2] = True  # centred at most 6, 5.5 and 8 voxels from the first corner
    part = replace(heatmap, values=heatmap.values.where(known, torch.nan), measured=known)
    through = dict(Cuts.of(part._shown, None, None).through)
    assert 5 <= through[0] < 8 and 4 <= through[1] < 8 and 6 <= through[2] < 10


def test_what_is_unknown_stays_bare_and_what_is_not_finite_is_hatched_and_leads_nowhere():
    drop = torch.full(WINDOW.grid_shape, 0.2)
    drop[0, 0, 0], drop[2, 2, 1] = torch.inf, 0.9
    heatmap = volume(drop, torch.zeros(WINDOW.input_shape))
    known = torch.ones(WINDOW.grid_shape, dtype=torch.bool)
    known[:, :, -1] = False
    part = replace(heatmap, values=heatmap.values.where(known, torch.nan), measured=known)
    assert (part.status[:, :, -1] == Status.UNKNOWN).all()
    picture = rgb(part.overlay(slices=9, opacity=1))
    first = picture[: 14 * 12, : 11 * 12]
    assert (first[:, -12:] == 0).all(), "bare"
    greys = first[:24, :24]
    assert (greys == greys[..., :1]).all() and len(np.unique(greys)) == 2, "two greys"
    three = rgb(part.overlay(opacity=0))
    depth, height, width = 26 * 9, 26 * 14, 26 * 11
    crossing = panels(three, ((width, height), (width, depth), (height, depth)))[0]
    row, column = ((crossing == YELLOW).all(-1).mean(axis).argmax() for axis in (1, 0))
    assert 6 <= row // 26 < 11 and 3 <= column // 26 < 7, "within the window of the largest finite drop"


def test_a_volume_of_regions_is_drawn():
    model, x = SmallCNN(1, rank=3), torch.rand(1, 1, 8, 10, 12)
    mask = (torch.arange(8) // 4).view(8, 1, 1)
    heatmap = KryptonOcclusion(model, executor="reference").heatmap(x, regions=mask, target=1)
    picture = rgb(heatmap.overlay(x[0, 0].numpy(), opacity=1, slices=8))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 2


def test_a_volume_given_to_draw_over():
    bytes_ = np.random.default_rng(0).integers(0, 255, (9, 14, 11)).astype(np.uint8)
    flat = volume(torch.zeros(WINDOW.grid_shape))
    shown = rgb(flat.overlay(bytes_, slices=9))
    assert abs(int(shown[: 14 * 12, : 11 * 12].mean()) - int(bytes_[0].mean())) <= 2
    hounsfield = bytes_.astype(np.int16) * 10 - 1000  # stretched to its own extremes
    low, high = int(bytes_.min()), int(bytes_.max())
    stretched = (bytes_.astype(float) - low) / (high - low) * 255
    other = rgb(flat.overlay(hounsfield, slices=9))
    assert abs(other[: 14 * 12, : 11 * 12].mean() - stretched[0].mean()) <= 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"slices": 0}, "slices is 0; accepted: 1 to 9"),
        ({"slices": 10}, "slices is 10"),
        ({"slices": 2.5}, "slices is 2.5"),
        ({"spacing": (1, 1)}, "spacing is"),
        ({"spacing": (1, 0, 1)}, "spacing is"),
        ({"spacing": 2.0}, "spacing is 2.0"),
        ({"spacing": (1, float("nan"), 1)}, "spacing is"),
        ({"image": np.zeros((9, 14, 12))}, "image is ndarray"),
        ({"image": [[1, 2], [3]]}, "image is list"),
    ],
    ids=str,
)
def test_pictures_of_volumes_that_cannot_be_drawn(arguments, named):
    with pytest.raises(InputError, match=named):
        volume().overlay(**arguments)


def test_only_volumes_have_slices():
    window = SlidingWindow((1, 12, 12), (1, 4, 4), (1, 4, 4))
    for arguments in ({"slices": 3}, {"spacing": (1, 1, 1)}):
        with pytest.raises(InputError, match="no volume"):
            volume(window=window).overlay(**arguments)


def test_the_file_of_a_volume_has_content(tmp_path):
    volume().save(tmp_path / "map.png", spacing=(2, 1, 1), title="A lesion?")
    picture = rgb(Image.open(tmp_path / "map.png"))
    assert picture.shape[0] > 600 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 1000


# --- signals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 40), (40, 2), (40,)], ids=["first", "last", "no channels"])
def test_a_signal_stands_over_its_colours_and_above_the_curve_of_its_drop(shape):
    length, window = 40, tuple(8 if n == 40 else n for n in shape)
    sliding = SlidingWindow(shape, window, tuple(4 if n == 40 else n for n in shape))
    heatmap = volume(torch.tensor([0.0, 0.5, 1.0, 0.0, -1.0, 0.0, 0.0, torch.nan, 0.0]), window=sliding)
    figure = signal.figure(heatmap._shown, None, Paint.of(heatmap._shown, None, "RdBu_r", 1.0), DROP)
    above, below = figure.axes
    curves = [line.get_ydata() for line in above.lines]
    channels = heatmap.image.reshape(1, -1) if len(shape) == 1 else heatmap.image
    channels = channels.T if shape == (40, 2) else channels
    assert len(curves) == len(channels)
    for curve, channel in zip(curves, channels.numpy(), strict=True):
        np.testing.assert_allclose(np.diff(curve), np.diff(channel), atol=1e-6)  # at one scale, set apart
    (strip,) = above.images
    colours = strip.get_array().astype(int)[0]
    centres = 4 * np.arange(9) + 4  # of the windows
    assert (colours[centres[[0, 3]]] == 255).all()
    assert colours[centres[2], 0] > colours[centres[2], 2] and colours[centres[4], 0] < colours[centres[4], 2]
    drop = next(line for line in below.lines if len(line.get_xdata()) == length).get_ydata()
    assert drop[centres[1]] == 0.5 and drop[centres[4]] == -1 and np.isnan(drop[centres[7]])
    assert rgb(heatmap.overlay()).std() > 5


def test_a_signal_given_to_draw():
    sliding = SlidingWindow((1, 40), (1, 8), (1, 4))
    heatmap = replace(volume(torch.rand(9), window=sliding), image=None)
    with pytest.raises(InputError, match="image is None"):
        heatmap.overlay()
    with pytest.raises(InputError, match="image is ndarray, .*of its length"):
        heatmap.overlay(np.zeros(39))
    assert heatmap.overlay(np.arange(40)).size == heatmap.overlay(np.zeros((1, 40))).size


# --- maps ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def occlusion():
    torch.manual_seed(0)
    return KryptonOcclusion(SmallCNN(1, rank=3), executor="reference")


@pytest.fixture(scope="module")
def scan():
    torch.manual_seed(1)
    return torch.nn.functional.interpolate(torch.rand(1, 1, 6, 6, 6), (22, 24, 22), mode="trilinear")


def test_an_approximate_volume_is_like_the_exact_one_in_three_dimensions(occlusion, scan):
    call = scan, (1, 6, 8, 6), (1, 2, 2, 2)
    exact, seen = occlusion.heatmap(*call, target=1), []
    found = occlusion.heatmap(
        *call, target=1, ssim_target=0.9, on_progress=lambda heatmap, *_: seen.append(heatmap)
    )
    assert exact.values.shape == (9, 9, 9) and len(seen) > 1 and seen[0].values.shape == (9, 9, 9)
    assert found.measured.float().mean() < 0.6
    low, high = exact.values.min(), exact.values.max()
    pictures = [((high - each.values) / (high - low)).double().numpy() for each in (exact, found)]
    theirs = structural_similarity(*pictures, data_range=1, win_size=7)
    assert found.compare(exact).ssim == pytest.approx(theirs, abs=1e-6) and theirs >= 0.9
    verified = found.verify(occlusion, 0.2)
    assert verified.ssim_estimate.basis == "verified"
    assert verified.ssim_estimate.low <= verified.compare(exact).ssim <= verified.ssim_estimate.high + 0.02


def test_channels_of_an_image_are_compared_one_by_one():
    window = SlidingWindow((3, 24, 24), (1, 6, 6), (1, 2, 2))
    exact = volume(torch.rand(window.grid_shape), window=window)
    exact.values.view(3, -1)[:, 0], exact.values.view(3, -1)[:, 1] = 0.0, 1.0  # one range
    other = replace(exact, values=exact.values + 0.1 * torch.rand(window.grid_shape))
    each = [
        structural_similarity(1 - a.double().numpy(), 1 - b.double().numpy(), data_range=1)
        for a, b in zip(exact.values, other.values, strict=True)
    ]
    assert other.compare(exact).ssim == pytest.approx(np.mean(each), abs=1e-6)


@pytest.mark.parametrize(
    ("window", "strides"), [((1, 12, 12, 12), (1, 6, 6, 6)), ((1, 6, 6, 6), (1, 5, 5, 5))], ids=["27", "125"]
)
def test_a_small_volume_is_measured_whole(occlusion, scan, window, strides):
    """Of so few windows, or of ones that hardly overlap, little could be left out."""
    found = occlusion.heatmap(scan, window, strides, target=1, ssim_target=0.9)
    assert bool((found.status == Status.EXACT).all()) and found.ssim_estimate.basis == "exact"


def test_a_region_of_a_volume(occlusion, scan):
    call = scan, (1, 6, 8, 6), (1, 4, 4, 4)
    exact = occlusion.heatmap(*call, target=1)
    mask = torch.zeros(22, 24, 22, dtype=torch.bool)
    mask[2:5, 3:6, 18:20] = True
    for region in ((2, 3, 18, 5, 6, 20), mask, mask[None]):
        part = occlusion.heatmap(*call, target=1, region=region)
        covers = [
            bool(mask[tuple(slice(a, b) for a, b in box[1:])].any())
            for box in exact.window.boxes(np.arange(len(exact.window))).tolist()
        ]
        assert part.measured.flatten().tolist() == covers
        torch.testing.assert_close(part.values[part.measured], exact.values[part.measured])
        assert part.overlay().size == exact.overlay().size
