"""Heatmaps: values against brute force, the attribution they make, pictures and files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import Occlusion
from PIL import Image
from support.tiny_models import SmallCNN, assert_close, incremental, output_scale
from support.truth import brute_force, geometry

from krypton_engine import Heatmap, InputError, KryptonOcclusion

WINDOW, STRIDES = (3, 7, 6), (3, 5, 4)


@pytest.fixture(scope="module")
def occlusion(cnn):
    return KryptonOcclusion(cnn)


@pytest.fixture(scope="module")
def heatmap(occlusion, image):
    with incremental():
        return occlusion.heatmap(image, WINDOW, STRIDES, target=1, classes="all")


@pytest.fixture(scope="module")
def outputs(cnn, image, heatmap):
    """Every output at every position, one forward pass each: ``(5, 5, 5)``."""
    return brute_force(cnn, image, *geometry(heatmap)).reshape(*heatmap.values.shape, -1)


@pytest.fixture(scope="module")
def scale(cnn, image):
    return output_scale(cnn, image)


# --- numbers ------------------------------------------------------------------------------------------


def test_values_are_the_occluded_outputs(cnn, image, heatmap, outputs, scale):
    assert heatmap.values.shape == (
        5,
        5,
    )  # rows and columns, ceil((24 - 7) / 5) + 1 and ceil((20 - 6) / 4) + 1
    assert_close(heatmap.values, outputs[..., 1], scale)
    with torch.no_grad():
        base = cnn(image)[0]
    assert_close(heatmap.base, base[1], scale)
    assert_close(heatmap.base_outputs, base, scale)
    assert_close(heatmap.drop, base[1] - outputs[..., 1], scale)
    assert float(heatmap.drop.abs().max()) > 1e-3 * scale
    assert heatmap.target == 1
    assert heatmap.seconds > 0
    assert torch.equal(heatmap.image, image[0])
    assert heatmap.window.shape == WINDOW and heatmap.window.strides == STRIDES


def test_positions_are_the_first_cells(heatmap):
    assert heatmap.positions.shape == (5, 5, 2)
    assert heatmap.positions[:, 0, 0].tolist() == [0, 5, 10, 15, 20]
    assert heatmap.positions[0, :, 1].tolist() == [0, 4, 8, 12, 16]


def test_everything_is_measured(heatmap):
    assert heatmap.measured.dtype == torch.bool and heatmap.measured.shape == (5, 5)
    assert bool(heatmap.measured.all())


def test_the_predicted_class_at_every_position(heatmap, outputs, scale):
    assert heatmap.classes.dtype == torch.int64
    assert torch.equal(heatmap.classes, outputs.argmax(-1))
    assert_close(heatmap.class_values, outputs.amax(-1), scale)


def test_a_window_can_flip_the_class(image):
    model = SmallCNN()
    with torch.no_grad():
        model.head.bias -= model(image)[0]  # a tie of all classes, so that anything tips the scales
    heatmap = KryptonOcclusion(model).heatmap(image, WINDOW, STRIDES)
    outputs = brute_force(model, image, *geometry(heatmap)).reshape(5, 5, -1)
    assert len(torch.unique(heatmap.classes)) > 1
    assert torch.equal(heatmap.classes, outputs.argmax(-1))


def test_without_a_target_it_is_the_predicted_class(cnn, image, occlusion, outputs, scale):
    predicted = int(cnn(image)[0].argmax())
    heatmap = occlusion.heatmap(image, WINDOW, STRIDES)
    assert heatmap.target == predicted
    assert_close(heatmap.values, outputs[..., predicted], scale)
    assert heatmap.outputs is None  # kept only if asked for


def test_a_negative_target(image, occlusion, outputs, scale):
    assert_close(occlusion.heatmap(image, WINDOW, STRIDES, target=-2).values, outputs[..., -2], scale)


@pytest.mark.parametrize("wanted", [{}, {"classes": "all"}, {"ssim_target": 0.9}], ids=str)
def test_outputs_may_be_integers(cnn, image, wanted):
    def votes(x):
        return (cnn(x) * 1000).round().long()

    heatmap = KryptonOcclusion(votes).heatmap(image, WINDOW, STRIDES, target=1, **wanted)
    outputs = brute_force(votes, image, *geometry(heatmap)).reshape(*heatmap.values.shape, -1)
    known = heatmap.measured
    assert_close(heatmap.values[known], outputs[known][:, 1].double(), scale=1e6)  # one vote, at a tie
    assert_close(heatmap.class_values[known], outputs[known].amax(-1).double(), scale=1e6)
    if heatmap.outputs is not None:
        assert_close(heatmap.outputs, outputs.double(), scale=1e6)
        assert heatmap.for_target(3).values.tolist() == heatmap.outputs[..., 3].tolist()


# --- every output -------------------------------------------------------------------------------------


def test_every_output_is_kept(heatmap, outputs, scale):
    assert heatmap.outputs.shape == (5, 5, 5)
    assert_close(heatmap.outputs, outputs, scale)


@pytest.mark.parametrize("target", [[2], torch.tensor([2]), torch.tensor(2)], ids=["list", "row", "number"])
def test_targets_that_captum_takes_for_a_batch_of_one(image, occlusion, target):
    heatmap = occlusion.heatmap(image, WINDOW, STRIDES, target=target)
    assert heatmap.target == 2 and torch.equal(
        heatmap.values, occlusion.heatmap(image, WINDOW, STRIDES, target=2).values
    )


@pytest.mark.parametrize("target", [0, 3, -1])
def test_another_class_costs_nothing(heatmap, outputs, scale, target):
    other = heatmap.for_target(target)
    assert other.target == target % 5
    assert_close(other.values, outputs[..., target], scale)
    assert_close(other.base, heatmap.base_outputs[target], scale)
    assert heatmap.target == 1, "the first heatmap stays as it is"
    assert torch.equal(other.measured, heatmap.measured)


@pytest.mark.parametrize("target", [5, -6])
def test_there_is_no_such_class(heatmap, target):
    with pytest.raises(InputError, match=f"target is {target}.*0 to 4"):
        heatmap.for_target(target)


def test_another_class_wants_every_output(image, occlusion):
    with pytest.raises(InputError, match='classes="all"'):
        occlusion.heatmap(image, WINDOW, STRIDES).for_target(0)


# --- grids --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "strides", "grid"),
    [
        ((3, 7, 6), (3, 5, 4), (5, 5)),
        ((1, 7, 6), (1, 5, 4), (3, 5, 5)),
        ((2, 7, 6), (2, 5, 4), (2, 5, 5)),
        ((3, 24, 6), (1, 1, 4), (5,)),
        ((3, 7, 20), 7, (4,)),
        ((1, 24, 20), 1, (3,)),
        ((3, 24, 20), 1, ()),
    ],
)
def test_the_grid_has_the_axes_that_the_window_does_not_span(cnn, image, window, strides, grid, scale):
    occlusion = KryptonOcclusion(cnn, executor="reference")
    heatmap = occlusion.heatmap(image, window, strides, target=1)
    assert heatmap.values.shape == heatmap.measured.shape == heatmap.classes.shape == grid
    assert heatmap.positions.shape == (*grid, len(grid))
    outputs = brute_force(cnn, image, *geometry(heatmap))[:, 1].reshape(grid)
    assert_close(heatmap.values, outputs, scale)
    theirs = Occlusion(cnn).attribute(image, window, strides, target=1)[0]
    assert_close(heatmap.attribution(), theirs, scale)


@pytest.mark.parametrize(
    ("rank", "shape", "window", "strides", "grid"),
    [(1, (2, 40), (2, 7), (1, 4), (10,)), (3, (1, 8, 10, 12), (1, 4, 4, 5), (1, 4, 3, 4), (2, 3, 3))],
    ids=["signal", "volume"],
)
def test_signals_and_volumes(rank, shape, window, strides, grid):
    model, x = SmallCNN(shape[0], rank=rank), torch.randn(1, *shape)
    heatmap = KryptonOcclusion(model, executor="reference").heatmap(x, window, strides, target=1)
    assert heatmap.values.shape == grid
    outputs = brute_force(model, x, *geometry(heatmap))[:, 1].reshape(grid)
    assert_close(heatmap.values, outputs, output_scale(model, x))


def test_a_model_with_one_output(cnn, image, outputs, scale):
    for forward in (lambda x: cnn(x)[:, 2], lambda x: cnn(x)[:, 2:3]):
        heatmap = KryptonOcclusion(forward).heatmap(image, WINDOW, STRIDES)
        assert_close(heatmap.values, outputs[..., 2], scale)
        assert heatmap.classes is None and heatmap.class_values is None


def test_a_target_of_several_values(segmenter, image):
    explainer = KryptonOcclusion(segmenter)
    pixel = explainer.heatmap(image, WINDOW, STRIDES, target=(2, 11, 9))
    channel = explainer.heatmap(image, WINDOW, STRIDES, target=2)
    assert pixel.values.shape == (5, 5) and pixel.target == (2, 11, 9)
    assert channel.values.shape == (5, 5, 24, 20)
    assert_close(channel.values[..., 11, 9], pixel.values, float(pixel.base.abs()))
    assert channel.attribution().shape == (24, 20, 3, 24, 20)
    theirs = Occlusion(segmenter).attribute(image, WINDOW, STRIDES, target=(2, 11, 9))[0]
    assert_close(pixel.attribution(), theirs, output_scale(segmenter, image))
    assert_close(channel.attribution()[11, 9], theirs, output_scale(segmenter, image))


def test_no_target_of_a_segmentation(segmenter, image):
    heatmap = KryptonOcclusion(segmenter).heatmap(image, (3, 12, 20), (3, 12, 20))
    assert heatmap.values.shape == (2, 4, 24, 20)
    assert_close(
        heatmap.values,
        brute_force(segmenter, image, *geometry(heatmap)),
        output_scale(segmenter, image),
    )


@pytest.mark.parametrize(
    "baselines", [0.5, torch.linspace(-1, 1, 3).reshape(3, 1, 1)], ids=["number", "tensor"]
)
def test_baselines(cnn, image, occlusion, baselines, scale):
    heatmap = occlusion.heatmap(image, WINDOW, STRIDES, baselines, 1)
    outputs = brute_force(cnn, image, *geometry(heatmap), baselines)[:, 1].reshape(5, 5)
    assert_close(heatmap.values, outputs, scale)


def test_additional_arguments(cnn, image, outputs, scale):
    explainer = KryptonOcclusion(lambda x, gain, offset: cnn(x) * gain + offset)
    heatmap = explainer.heatmap(
        image, WINDOW, STRIDES, target=1, additional_forward_args=(2.0, torch.full((1, 5), 3.0))
    )
    assert_close(heatmap.values, outputs[..., 1] * 2 + 3, 2 * scale + 3)


# --- attribution --------------------------------------------------------------------------------------


def test_the_attribution_is_captums(cnn, image, heatmap, scale):
    theirs = Occlusion(cnn).attribute(image, WINDOW, STRIDES, target=1)
    assert_close(heatmap.attribution(), theirs[0], scale)


def test_a_float64_model(image):
    model, x = SmallCNN().double(), image.double()
    heatmap = KryptonOcclusion(model).heatmap(x, WINDOW, STRIDES, target=1)
    assert heatmap.values.dtype == torch.float64
    outputs = brute_force(model, x, *geometry(heatmap))[:, 1].reshape(5, 5)
    assert_close(heatmap.values, outputs, output_scale(model, x), 1e-13)
    assert heatmap.attribution().dtype == torch.float32


# --- regions ------------------------------------------------------------------------------------------


def mask_of_one_pixel():
    mask = torch.zeros(24, 20, dtype=torch.bool)
    mask[11, 9] = True
    return mask


@pytest.mark.parametrize(
    "region",
    [
        (11, 9, 12, 10),
        [11, 9, 12, 10],
        torch.tensor([11, 9, 12, 10]),
        mask_of_one_pixel(),
        (0, 11, 9, 3, 12, 10),
    ],
    ids=["box", "list", "tensor", "mask", "box with channels"],
)
def test_only_windows_that_touch_the_region(cnn, image, occlusion, outputs, scale, region):
    heatmap = occlusion.heatmap(image, WINDOW, STRIDES, target=1, region=region)
    rows, columns = heatmap.positions[..., 0], heatmap.positions[..., 1]
    touches = (rows <= 11) & (rows + 7 > 11) & (columns <= 9) & (columns + 6 > 9)
    assert int(touches.sum()) == 4
    assert torch.equal(heatmap.measured, touches)
    assert torch.equal(heatmap.values.isnan(), ~touches)
    assert torch.equal(heatmap.classes == -1, ~touches)
    assert_close(heatmap.values[touches], outputs[..., 1][touches], scale)
    attribution = heatmap.attribution()
    covered = torch.zeros(24, 20)
    total = torch.zeros(24, 20)
    for row, column, drop in zip(rows[touches], columns[touches], heatmap.drop[touches], strict=True):
        covered[row : row + 7, column : column + 6] += 1
        total[row : row + 7, column : column + 6] += drop
    assert_close(attribution, (total / covered).expand(3, -1, -1), scale)  # NaN where no window came


def test_a_region_of_everything(image, occlusion, heatmap):
    everything = occlusion.heatmap(
        image, WINDOW, STRIDES, target=1, region=torch.ones(24, 20, dtype=torch.bool)
    )
    assert bool(everything.measured.all())
    assert torch.equal(everything.attribution(), heatmap.attribution())


# --- activations --------------------------------------------------------------------------------------


def test_softmax(image, occlusion, outputs):
    heatmap = occlusion.heatmap(image, WINDOW, STRIDES, target=1, activation="softmax", classes="all")
    probabilities = outputs.softmax(-1)
    assert_close(heatmap.values, probabilities[..., 1], 1.0)
    assert_close(heatmap.outputs, probabilities, 1.0)
    assert_close(heatmap.class_values, probabilities.amax(-1), 1.0)
    assert float(heatmap.base_outputs.sum()) == pytest.approx(1)
    assert_close(heatmap.for_target(3).values, probabilities[..., 3], 1.0)


def test_a_callable(cnn, image, occlusion, outputs, scale):
    heatmap = occlusion.heatmap(image, WINDOW, STRIDES, activation=lambda o: o[:, 1] - o[:, 0].exp())
    expected = outputs[..., 1] - outputs[..., 0].exp()
    assert_close(heatmap.values, expected, max(scale, 1.0))
    assert heatmap.target is None and heatmap.classes is None


def test_a_callable_with_classes(image, occlusion, outputs):
    heatmap = occlusion.heatmap(image, WINDOW, STRIDES, activation=torch.sigmoid)
    assert heatmap.target == int(heatmap.base_outputs.argmax())
    assert_close(heatmap.values, outputs.sigmoid()[..., heatmap.target], 1.0)


def test_a_callable_that_writes_over_its_argument(cnn, image, outputs):
    with incremental():
        heatmap = KryptonOcclusion(cnn).heatmap(image, WINDOW, STRIDES, target=1, activation=torch.sigmoid_)
    assert_close(heatmap.values, outputs.sigmoid()[..., 1], 1.0)


# --- words --------------------------------------------------------------------------------------------


def test_repr_is_one_line(heatmap):
    text = repr(heatmap)
    assert len(text.splitlines()) == 1 and len(text) < 120
    for part in ("Heatmap(5x5", "target=1", "base=", "values=", "measured=100%", " s)"):
        assert part in text


def test_repr_of_little(cnn, image, occlusion, segmenter):
    for heatmap in (
        KryptonOcclusion(cnn, executor="reference").heatmap(image, (3, 24, 20), target=1),
        occlusion.heatmap(image, WINDOW, STRIDES, region=(0, 0, 1, 1)),
        KryptonOcclusion(segmenter).heatmap(image, (3, 12, 20), (3, 12, 20)),
    ):
        assert len(repr(heatmap).splitlines()) == 1


# --- files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_text", [False, True], ids=["path", "string"])
def test_numbers_come_back(tmp_path, heatmap, as_text):
    path = tmp_path / "map.npz"
    path = str(path) if as_text else path
    heatmap.save(path)
    loaded = Heatmap.load(path)
    for name in ("values", "base", "drop", "measured", "classes", "class_values", "outputs", "base_outputs"):
        mine, theirs = getattr(loaded, name), getattr(heatmap, name)
        assert torch.equal(mine, theirs) and mine.dtype == theirs.dtype, name
    assert torch.equal(loaded.positions, heatmap.positions)
    assert torch.equal(loaded.image, heatmap.image)
    assert torch.equal(loaded.attribution(), heatmap.attribution())
    assert loaded.window == heatmap.window
    assert loaded.target == heatmap.target and loaded.seconds == heatmap.seconds
    assert loaded.baseline == heatmap.baseline == (0.0, 0.0, 0.0)
    assert repr(loaded) == repr(heatmap)
    assert loaded.for_target(3).target == 3
    assert loaded.overlay().tobytes() == heatmap.overlay().tobytes()


def test_a_partial_heatmap_comes_back(tmp_path, image, occlusion):
    heatmap = occlusion.heatmap(image, WINDOW, STRIDES, region=(0, 0, 1, 1))
    heatmap.save(tmp_path / "map.npz")
    loaded = Heatmap.load(tmp_path / "map.npz")
    assert torch.equal(loaded.measured, heatmap.measured)
    assert torch.equal(loaded.values.isnan(), ~heatmap.measured)
    assert loaded.outputs is None


def test_a_target_of_several_indices_comes_back(tmp_path, segmenter, image):
    heatmap = KryptonOcclusion(segmenter).heatmap(image, WINDOW, STRIDES, target=(2, 11, 9))
    heatmap.save(tmp_path / "map.npz")
    assert Heatmap.load(tmp_path / "map.npz").target == (2, 11, 9)


def test_the_numbers_are_plain_numpy(tmp_path, heatmap):
    heatmap.save(tmp_path / "map.npz")
    with np.load(tmp_path / "map.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["values"], heatmap.values.numpy())
        assert bool(file["measured"].all())


@pytest.mark.parametrize("name", ["map.jpg", "map", "map.pt", "nowhere/map.png", "nowhere/map.npz"])
def test_paths_that_cannot_be_written(tmp_path, heatmap, name):
    with pytest.raises(InputError, match="path is"):
        heatmap.save(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [None, b"", b"not a heatmap", b"PK\x03\x04 a broken archive", "another archive", "an array"],
    ids=["missing", "empty", "text", "broken archive", "other archive", "array"],
)
def test_files_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "map.npz"
    if content == "another archive":
        np.savez(path, x=np.zeros(3))
    elif content == "an array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"path is .*map\.npz") as told:
        Heatmap.load(path)
    assert "pickle" not in str(told.value), "numpy's advice is not for users of a heatmap"


def test_a_file_cut_short(tmp_path, heatmap):
    path = tmp_path / "map.npz"
    heatmap.save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"path is .*map\.npz"):
        Heatmap.load(path)


# --- pictures -----------------------------------------------------------------------------------------


def pixels(picture):
    return np.asarray(picture.convert("RGB"), dtype=int)


def test_the_overlay_has_the_size_of_the_image(heatmap):
    picture = heatmap.overlay()
    assert picture.size == (20, 24)  # width, height
    assert pixels(picture).std() > 5


def test_the_overlay_is_over_the_image_in_grey(heatmap):
    bare = pixels(heatmap.overlay(opacity=0))
    cells = heatmap.image.movedim(0, -1).numpy()
    stretched = ((cells - cells.min()) / (cells.max() - cells.min()) * 255).astype(np.uint8)
    np.testing.assert_allclose(bare, pixels(Image.fromarray(stretched).convert("L")), atol=1)
    assert np.abs(pixels(heatmap.overlay(opacity=1)) - bare).max() > 30


def test_the_overlay_is_red_where_occluding_lowers_the_target(heatmap):
    grey = Image.new("L", (20, 24), 128)
    picture = pixels(heatmap.overlay(grey, opacity=1))
    redder = picture[..., 0] - picture[..., 2]
    centres = heatmap.positions + torch.tensor([3, 3])  # of windows of 7 x 6
    plain = 0.05 * heatmap.drop.abs().max()
    for drop, (row, column) in zip(heatmap.drop.flatten(), centres.flatten(0, 1).tolist(), strict=True):
        if drop.abs() > plain and row < 24 and column < 20:  # the last windows of both axes are cut
            assert int(np.sign(redder[row, column])) == int(drop.sign())


@pytest.mark.parametrize("mode", ["L", "RGB", "array"])
def test_the_overlay_over_a_given_picture(heatmap, mode):
    picture = Image.new("RGB" if mode == "array" else mode, (20, 24), 200 if mode == "L" else (200, 10, 10))
    given = np.asarray(picture) if mode == "array" else picture
    assert pixels(heatmap.overlay(given)).shape == (24, 20, 3)
    level = 200 if mode == "L" else round(0.299 * 200 + 0.587 * 10 + 0.114 * 10)
    assert (np.abs(pixels(heatmap.overlay(given, opacity=0)) - level) <= 1).all()


def test_a_fixed_scale_compares_pictures(image, occlusion, heatmap):
    grey = Image.new("L", (20, 24), 128)
    largest = float(heatmap.drop.abs().max())
    assert heatmap.limits() == pytest.approx((-largest, largest))
    assert heatmap.limits(2.0) == (-2.0, 2.0)
    assert heatmap.limits((-1.0, 3.0)) == (-1.0, 3.0)
    automatic, wide = heatmap.overlay(grey), heatmap.overlay(grey, scale=1000 * largest)
    assert pixels(heatmap.overlay(grey, scale=largest)).tolist() == pixels(automatic).tolist()
    assert np.ptp(pixels(wide)) < np.ptp(pixels(automatic))


def test_a_map_without_a_range_is_drawn(image, cnn):
    heatmap = KryptonOcclusion(cnn).heatmap(torch.zeros_like(image), WINDOW, STRIDES)
    assert float(heatmap.drop.abs().max()) == 0
    assert heatmap.overlay().size == (20, 24)
    limits = heatmap.limits()
    assert limits[0] < limits[1]


def test_what_is_not_measured_stays_bare(image, occlusion):
    heatmap = occlusion.heatmap(image, WINDOW, STRIDES, region=(0, 0, 1, 1))
    bare, drawn = pixels(heatmap.overlay(opacity=0)), pixels(heatmap.overlay(opacity=1))
    assert (bare[8:] == drawn[8:]).all() and (bare[:, 7:] == drawn[:, 7:]).all()
    assert (bare[:7, :6] != drawn[:7, :6]).any()


def test_a_grey_image():
    model, x = SmallCNN(1), torch.randn(1, 1, 24, 20)
    heatmap = KryptonOcclusion(model).heatmap(x, (1, 7, 6), (1, 5, 4))
    picture = pixels(heatmap.overlay(opacity=0))
    assert (picture[..., 0] == picture[..., 1]).all() and picture.std() > 5


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"image": Image.new("RGB", (24, 20))}, "image is"),
        ({"cmap": "no such map"}, "cmap is 'no such map'"),
        ({"scale": 0.0}, "scale"),
        ({"scale": -1.0}, "scale"),
        ({"scale": (1.0, 1.0)}, "scale"),
        ({"scale": float("nan")}, "scale"),
        ({"opacity": 1.5}, "opacity"),
        ({"opacity": -0.1}, "opacity"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_pictures_that_cannot_be_drawn(heatmap, arguments, named):
    with pytest.raises(InputError, match=named):
        heatmap.overlay(**arguments)


def test_a_picture_file_has_content(tmp_path, heatmap):
    heatmap.save(tmp_path / "map.png")
    picture = Image.open(tmp_path / "map.png")
    assert picture.format == "PNG" and picture.width > 400 and picture.height > 200
    assert len(np.unique(pixels(picture).reshape(-1, 3), axis=0)) > 100
    heatmap.save(tmp_path / "titled.png", title="A dog?", scale=(-1, 1), cmap="viridis", opacity=0.3)
    assert (tmp_path / "titled.png").read_bytes() != (tmp_path / "map.png").read_bytes()


def test_drawing_leaves_matplotlib_as_it_was(tmp_path, heatmap):
    import matplotlib
    from matplotlib import pyplot as plt

    before, figures = matplotlib.get_backend(), plt.get_fignums()
    heatmap.save(tmp_path / "map.png")
    assert matplotlib.get_backend() == before and plt.get_fignums() == figures
