"""Explorers as users have them: many, closed, interrupted, given odd images and odd answers."""

from __future__ import annotations

import array
import gc
import io
import json
import signal
import sys
import threading
import time
import weakref

import numpy as np
import pytest
import torch
from captum.attr import Occlusion
from ipywidgets.widgets import widget as ipywidgets_registry
from PIL import Image
from support.widget_page import Drawings, Page
from torch import nn

from krypton_engine import InputError, KryptonOcclusion
from krypton_engine.graph import export
from krypton_engine.heatmap.status import Status
from krypton_widget import OcclusionExplorer
from krypton_widget.pictures import ModelInput
from krypton_widget.stopping import Stoppable, Stopped
from krypton_widget.worker import LatestWins

SIZE = (24, 20)


def network(seed=0, channels=3):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4),
    ).eval()  # fmt: skip


def picture(seed=0, size=SIZE, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8)


@pytest.fixture
def explore():
    """Makes explorers, and closes them."""
    made = []

    def make(model=None, image=None, **options):
        model = network() if model is None else model
        options = {"window": 6, "stride": 2} | options
        made.append(OcclusionExplorer(model, picture() if image is None else image, **options))
        return made[-1]

    yield make
    for explorer in made:
        explorer.close()


# --- memory -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_hundred_closed_explorers_leave_nothing():
    """Nor their models, threads or registered widgets, also where somebody keeps the last map."""
    net, kept, alive = network(), [], []
    registered = len(ipywidgets_registry._instances)
    for i in range(200):
        model = nn.Sequential(net).eval() if i % 20 == 0 else net
        explorer = OcclusionExplorer(model, picture(i), window=12, stride=8)
        explorer.observe(lambda change: None, "window")
        if i % 20 == 0:
            explorer.wait(60)
            kept.append(explorer.heatmap)
            alive.append(weakref.ref(model))
        explorer.close()
        alive.append(weakref.ref(explorer))
        del explorer, model
    gc.collect()
    assert sum(ref() is not None for ref in alive) == 0
    assert len(ipywidgets_registry._instances) == registered
    assert not any(thread.name == "krypton explorer" for thread in threading.enumerate())
    assert all(heatmap.values.isfinite().all() for heatmap in kept)


def test_what_was_refused_leaves_nothing():
    alive = []
    registered = len(ipywidgets_registry._instances)
    for options in ({"window": 99}, {"class_names": ["one"]}, {"colormap": "no such"}, {"target": 9}):
        model = network()
        alive.append(weakref.ref(model))
        with pytest.raises(InputError):
            OcclusionExplorer(model, picture(), **options)
        del model
    gc.collect()
    assert all(ref() is None for ref in alive) and len(ipywidgets_registry._instances) == registered


# --- what the page may set ----------------------------------------------------------------------------


def test_the_page_sets_controls_alone(explore, monkeypatch):
    explorer = explore()
    explorer.wait(60)
    controls = {"window", "stride", "ssim_target", "exact", "baseline", "region", "target", "image_index"}
    controls |= {"opacity", "colormap", "scale", "limit", "overlay", "threshold", "dots"}
    controls |= {"regions", "covered", "curve"}
    sent = []
    monkeypatch.setattr(explorer, "send_state", lambda key=None: sent.append(key))
    before = {name: getattr(explorer, name) for name in explorer.keys}
    for name in set(explorer.keys) - controls:
        sent.clear()
        explorer.set_state({name: before[name], "window": 8})
        assert {k: getattr(explorer, k) for k in before if k != "error"} == {
            k: v for k, v in before.items() if k != "error"
        }
        assert sent[-1] == sorted([name, "window"]) and name in explorer.error
    explorer.set_state({"running": True, "_frame": {}, "_esm": "alert(1)"})
    assert (
        not explorer.running
        and Page(explorer).frame
        and explorer.get_state("_esm") == {"_esm": before["_esm"]}
    )


ODD = [
    True,
    False,
    None,
    float("nan"),
    float("inf"),
    "6",
    [6],
    {"box": 6},
    np.bool_(True),
    1.5,
    (0, 0, np.nan, 9),
]
FITS = {
    "window": [], "stride": [], "target": [None], "image_index": [], "ssim_target": [], "limit": [1.5],
    "opacity": [], "exact": [True, False, np.bool_(True)], "baseline": [], "scale": [], "colormap": [],
    "region": [None], "regions": [None], "covered": [], "curve": [True, False, np.bool_(True)],
}  # fmt: skip


@pytest.mark.parametrize("name", FITS)
def test_odd_values_are_refused_by_name(explore, name):
    explorer = explore()
    before = getattr(explorer, name)
    for value in ODD:
        if any(value is fits or (type(value) is type(fits) and value == fits) for fits in FITS[name]):
            continue
        with pytest.raises(InputError, match=rf"{name} is .*; accepted"):
            setattr(explorer, name, value)
        explorer.error = ""
        explorer.set_state({name: value})  # as a page would
        assert getattr(explorer, name) is before or getattr(explorer, name) == before
        assert explorer.error.startswith(f"{name} is ")
        if name != "image_index":  # no argument
            with pytest.raises(InputError, match=f"{name} is "):
                explore(**{name: value})


def test_numbers_of_numpy_are_numbers(explore):
    explorer = explore(
        window=np.int64(7), stride=np.uint8(3), target=np.int32(1), ssim_target=np.float32(0.75)
    )
    explorer.opacity, explorer.region = np.float64(0.5), tuple(np.array([0, 0, 9, 9]))
    kept = (explorer.window, explorer.stride, explorer.target, explorer.ssim_target, explorer.opacity)
    assert kept == (7, 3, 1, 0.75, 0.5) and all(type(value) in (int, float) for value in kept)
    json.dumps(explorer.get_state(["window", "stride", "target", "ssim_target", "opacity", "region"]))


def test_arrays_are_boxes_and_truth_values(explore):
    explorer = explore()
    explorer.region = np.array([0, 0, 8, 8])
    assert explorer.region == (0, 0, 8, 8)
    explorer.exact = np.True_
    assert explorer.exact is True


def test_a_region_of_the_page_is_one_of_python(explore):
    explorer = explore()
    explorer.set_state({"region": {"box": [0, 0, 6, 6]}})
    assert explorer.region == (0, 0, 6, 6)
    explorer.wait(60)
    assert (
        Page(explorer).frame["asked"]["region"] == {"box": [0, 0, 6, 6]}
        and Page(explorer).frame["total"] == 9
    )
    mask = np.zeros(SIZE, np.uint8)
    mask[-1, -1] = 1
    explorer.set_state({"region": {"mask": memoryview(mask.tobytes())}})
    explorer.wait(60)
    assert np.array_equal(explorer.region, mask > 0) and Page(explorer).frame["total"] == 1
    explorer.set_state({"region": {"mask": memoryview(bytes(mask.size))}})
    assert explorer.region is None
    explorer.set_state({"region": {"mask": memoryview(b"123")}})
    assert explorer.region is None and "region is a mask of 3 pixels" in explorer.error


# --- class names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_text", [False, True])
def test_names_by_index_are_taken_by_index(explore, as_text, monkeypatch, tmp_path):
    names = ["ant", "bee", "cat", "dog"]
    given = {str(i) if as_text else i: names[i] for i in (3, 1, 0, 2)}
    explorer = explore(class_names=given)
    explorer.wait(60)
    with torch.no_grad():
        predicted = int(network()(explorer.heatmap.image[None]).argmax())
    assert Page(explorer).names == names
    title = Drawings(monkeypatch).of(explorer, tmp_path)[1]["title"]
    assert title.startswith(names[predicted])
    with pytest.raises(InputError, match="class_names"):
        explore(class_names={1: "bee", 2: "cat", 3: "dog", 4: "owl"})


# --- numbers that are none ----------------------------------------------------------------------------


class Breaks(nn.Module):
    """Gives something else than a number where one pixel is covered."""

    def __init__(self, row, column, value):
        super().__init__()
        self.inner, self.value, self.row, self.column = network(), value, row, column

    def forward(self, x):
        covered = (x[:, :, self.row, self.column] == 0).all(1, keepdim=True)
        return torch.where(covered, torch.full_like(covered, self.value, dtype=x.dtype), self.inner(x))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("exact", [False, True])
def test_positions_that_are_not_finite(explore, monkeypatch, tmp_path, value, exact):
    model = Breaks(9, 9, value).eval()
    explorer = explore(model, picture() | 1, baseline="black", exact=exact, activation=None, ssim_target=0.8)
    explorer.wait(60)
    frame = Page(explorer).frame
    covers = [
        (r, c) for r in range(10) for c in range(8) if 2 * r <= 9 < 2 * r + 6 and 2 * c <= 9 < 2 * c + 6
    ]
    if exact:
        assert frame["exact"] and frame["notFinite"] == len(covers) == 9
        drops = explorer.heatmap.drop
        assert not any(drops[r, c].isfinite() for r, c in covers)
        assert frame["largest"] == pytest.approx(float(drops[drops.isfinite()].abs().max()))
        with monkeypatch.context() as patched:
            title = Drawings(patched).of(explorer, tmp_path)[1]["title"]
        assert title.endswith("exact, 9 not finite")
    for sent in (frame, Page(explorer).comparison):
        json.dumps({k: v for k, v in sent.items() if not isinstance(v, bytes)}, allow_nan=False, default=str)
    for suffix in ("png", "npz", "html"):
        explorer.save(tmp_path / f"map.{suffix}")
    state = (tmp_path / "map.html").read_text().partition('id="state">')[2].partition("</script>")[0]

    def refuse(word):
        raise AssertionError(f"{word} in the saved page")

    saved = json.loads(state, parse_constant=refuse)
    assert saved["_frame"]["notFinite"] == frame["notFinite"]


def test_a_model_that_gives_no_number_at_all(explore):
    explorer = explore(lambda x: network()(x) * float("nan"), exact=True, activation=None)
    explorer.wait(60)
    assert (
        Page(explorer).frame["base"] is None
        and Page(explorer).frame["notFinite"] == Page(explorer).frame["total"]
    )
    assert Page(explorer).frame["largest"] == 0


@pytest.mark.parametrize("ending", ["png", "npz", "html"])
def test_a_full_disk_leaves_the_file_that_was_there(explore, tmp_path, ending):
    resource = pytest.importorskip("resource")
    explorer = explore(exact=True)
    explorer.wait(60)
    path = tmp_path / f"map.{ending}"
    path.write_bytes(b"before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(OSError, match=path.name):
            explorer.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]
    explorer.save(path)
    assert path.stat().st_size > 500
    explorer.save(tmp_path / f"map.{ending.upper()}")
    with pytest.raises(InputError, match="path is None"):
        explorer.save(None)


# --- images -------------------------------------------------------------------------------------------


def test_an_array_with_its_channels_first_is_the_picture_it_is():
    photo = picture()
    first = np.ascontiguousarray(np.moveaxis(photo, -1, 0))
    for baseline in ("grey", "blur"):
        mine, theirs = (ModelInput(image, None) for image in (first, photo))
        torch.testing.assert_close(mine.x, theirs.x)
        torch.testing.assert_close(mine.patch(baseline), theirs.patch(baseline))
        assert np.array_equal(mine.picture, theirs.picture)
    grey = picture(channels=1)[..., 0]
    one = ModelInput(grey[None] / np.float32(255), None)
    assert one.x.shape == (1, 1, *SIZE) and np.array_equal(one.picture[..., 0], grey)


def test_a_volume_and_a_small_image_are_told_what_to_do(explore):
    with pytest.raises(InputError, match=r"64 channels; of a volume give one slice.*preprocess="):
        explore(network(), np.zeros((64, 64, 64), np.float32))
    with pytest.raises(InputError, match=r"read as a volume, 9 x 64 x 64 \(depth x .*its size"):
        explore(network(), np.zeros((1, 9, 64, 64), np.float32))
    with pytest.raises(InputError, match=r"input of shape \(1, 1, 9, 24, 20\), \(batch, channels, depth"):
        explore(network(), picture(), preprocess=lambda image: torch.zeros(1, 1, 9, 24, 20))
    deep = nn.Sequential(nn.Conv2d(3, 4, 11), nn.Flatten(), nn.LazyLinear(3)).eval()
    deep(torch.zeros(1, 3, 24, 20))
    with pytest.raises(InputError, match=r"read as 8 x 9 \(height x width\) of 3 channels.*its size"):
        explore(deep, picture(size=(8, 9)))


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, bool])
def test_numbers_without_a_white_are_refused_or_left_to_preprocess(explore, dtype):
    numbers = (picture(channels=1)[..., 0] * 16).astype(dtype)
    net = network(channels=1)
    with pytest.raises(InputError, match="image has .*type"):
        explore(net, numbers)
    if dtype is bool:
        return
    x = ModelInput(numbers, lambda a: torch.from_numpy(a[None].astype(np.float32)) / 4080)
    low, high = np.percentile(numbers, [1, 99])
    assert float(x.patch("black").max()) == pytest.approx(low / 4080, abs=1e-3)
    assert float(x.patch("grey").min()) == pytest.approx((low + high) / 2 / 4080, abs=1e-3)
    assert x.patch("mean").min() == pytest.approx(numbers.mean() / 4080, abs=1e-3)
    with pytest.raises(InputError, match=r"mode 'I;16'.*numpy\.asarray"):
        explore(net, Image.fromarray(numbers.astype(np.uint16)))


def test_hounsfield_units_are_not_drawn_by_their_extremes():
    """A chip of metal or the air around does not decide what is grey."""
    slice_ = np.random.default_rng(0).normal(40, 60, (64, 64)).astype(np.float32)
    slice_[:2, :2] = 3000
    given = ModelInput(slice_, None)
    assert abs(float(given.patch("grey").mean()) - 40) < 20
    inner = given.picture[8:, 8:, 0]
    assert inner.std() > 40, "the middle is seen"


# --- stopping, anywhere -------------------------------------------------------------------------------


def answers(explorer, model):
    """Whether the map is the one of a loop over occluded copies."""
    heatmap, given = explorer.heatmap, ModelInput(picture(), None)
    patch = given.patch(explorer.baseline)
    rows = []
    with torch.no_grad():
        for top, left in heatmap.positions.reshape(-1, 2).tolist():
            x = given.x.clone()
            box = (..., slice(top, top + explorer.window), slice(left, left + explorer.window))
            x[box] = patch[box]
            rows.append(model(x).softmax(1)[0, heatmap.target])
    expected = torch.stack(rows).reshape(heatmap.values.shape)
    return bool((heatmap.status == Status.EXACT).all()) and torch.allclose(
        heatmap.values, expected, atol=1e-5
    )


def test_cancelled_and_closed_while_a_model_is_captured(explore):
    """At any moment of the first run; afterwards PyTorch and the explorer are as ever."""
    for delay in (0.0, 0.1, 0.4):
        model = network(seed=int(1000 * delay))
        explorer = explore(model, exact=True)
        time.sleep(delay)
        explorer.cancel()
        explorer.wait(60)
        explorer.window = 5
        explorer.wait(60)
        assert answers(explorer, model), delay
        assert explorer.heatmap.plan is not None and explorer.heatmap.plan.executor
        other = explore(network(seed=9), exact=True)
        time.sleep(delay)
        other.close()
    assert torch.zeros(2).add(1).sum() == 2 and torch.is_grad_enabled()
    again = explore(model, exact=True, window=7)
    again.wait(60)
    assert answers(again, model)


def test_weights_replaced_and_cancelled_while_captured_anew(explore):
    model = network()
    explorer = explore(model, exact=True)
    explorer.wait(60)
    for delay in (0.0, 0.2):
        model[0].weight = nn.Parameter(-model[0].weight.detach())
        explorer.window = 11 - explorer.window
        time.sleep(delay)
        explorer.cancel()
        explorer.wait(60)
        explorer.stride = 5 - explorer.stride
        explorer.wait(60)
        assert answers(explorer, model), delay


class Slow(nn.Module):
    """A model that takes its time, but for its capture."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner.eval()

    def forward(self, x):
        if not torch.compiler.is_exporting():
            time.sleep(0.01)
        return self.inner(x)


class Watched(nn.Module):
    """Says when it is exported, and waits there until it may go on."""

    def __init__(self):
        super().__init__()
        self.inner, self.armed = network(), False
        self.inside, self.go_on = threading.Event(), threading.Event()

    def forward(self, x):
        if self.armed and torch.compiler.is_exporting():
            self.inside.set()
            assert self.go_on.wait(60)
        return self.inner(x)


@pytest.mark.parametrize("stop", ["cancel", "move", "close"])
def test_what_stops_a_run_waits_until_an_export_is_over(explore, stop, monkeypatch):
    """Also where the engine captures anew in the middle of a run, since the model has changed."""
    model = Watched().eval()
    explorer = explore(model, exact=True)
    explorer.wait(60)
    model.armed = True
    with torch.no_grad():
        model.inner = nn.Sequential(*model.inner[:-1], nn.Linear(24, 4)).eval()
    explorer.window = 7
    assert model.inside.wait(60)
    closing, given_up = threading.Thread(target=explorer.close), threading.Event()
    cancel = LatestWins.cancel
    monkeypatch.setattr(LatestWins, "cancel", lambda worker: (cancel(worker), given_up.set())[0])
    if stop == "cancel":
        explorer.cancel()
    elif stop == "move":
        explorer.window = 8
    else:
        closing.start()
        assert given_up.wait(60)
    model.armed = False
    model.go_on.set()
    if stop == "close":
        closing.join(60)
        explorer = explore(model, exact=True)
    explorer.wait(60)
    assert not explorer.error
    explorer.window = 5
    explorer.wait(60)
    assert answers(explorer, model) and explorer.heatmap.plan is not None
    assert torch.is_grad_enabled() and type(torch.zeros(2) + 1) is torch.Tensor
    assert model.inner[0].weight.device.type == "cpu", "parameters are no fakes"


@pytest.mark.parametrize("delay", [0.01, 0.2, pytest.param(0.5, marks=pytest.mark.slow)])
def test_an_interrupt_of_the_kernel_leaves_the_first_run_alone(explore, delay):
    """Ctrl-C, or the stop button, while a cell waits for the map."""
    model = network(seed=int(100 * delay))
    explorer = explore(Slow(model), exact=True)
    timer = threading.Timer(delay, signal.raise_signal, (signal.SIGINT,))
    # What runs in the background of a shell ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            explorer.wait(60)
            for _ in range(1000):  # the run was faster; one long sleep would not hear of the signal
                time.sleep(0.01)
    finally:
        signal.signal(signal.SIGINT, before)
    explorer.wait(60)
    assert answers(explorer, model) and not explorer.error


def test_two_explorers_made_at_once_both_gain_and_nothing_printed_is_lost(monkeypatch, explore):
    """Their first runs capture in two threads, while the cell goes on."""
    printed, said = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", printed)
    monkeypatch.setattr(sys, "stderr", said)
    models = [network(seed) for seed in (1, 2)] + [network(3)] * 2
    explorers = [explore(model, exact=True) for model in models]
    lines = 0
    while any(explorer.running for explorer in explorers):
        print("line", lines)
        print("aside", lines, file=sys.stderr)
        lines += 1
        time.sleep(0.002)
    for model, explorer in zip(models, explorers, strict=True):
        explorer.wait(60)
        assert explorer.heatmap.plan is not None and answers(explorer, model)
    assert printed.getvalue().splitlines() == [f"line {i}" for i in range(lines)]
    assert [f"aside {i}" for i in range(lines)] == [
        line for line in said.getvalue().splitlines() if line.startswith("aside")
    ]


@pytest.mark.parametrize("after", [3, 90, 300, 600])
def test_wherever_a_run_is_stopped_pytorch_is_as_before(after):
    """Between any two operators, those of an export too; in a thread, as gradients are a thread's own."""
    x, model, expected, found = torch.rand(1, 3, *SIZE), network(), network(), []
    asked = [0]

    def stopped():
        asked[0] += 1
        return asked[0] > after

    def work():
        try:
            with Stoppable(stopped):
                KryptonOcclusion(model).heatmap(x, (3, 6, 6), (3, 3, 3))
        except Stopped:
            found.append("stopped")
        found.append(torch.is_grad_enabled() and not torch.compiler.is_exporting())
        found.append(type(model[0].weight) is nn.Parameter and type(model[0].weight + 1) is torch.Tensor)
        found.append(KryptonOcclusion(model).heatmap(x, (3, 6, 6), (3, 3, 3)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    *said, heatmap = found
    assert all(said) and (after > 90 or said[0] == "stopped")
    assert heatmap.plan is not None
    theirs = Occlusion(lambda x: expected(x)[:, heatmap.target]).attribute(x, (3, 6, 6), (3, 3, 3))
    torch.testing.assert_close(heatmap.attribution(), theirs[0], rtol=0, atol=1e-5)


def test_an_explorer_made_while_a_model_is_exported_waits(explore):
    """Meanwhile the parameters are fakes: neither they nor the model say anything that is true."""
    model, begun, go_on, made = network(), threading.Event(), threading.Event(), threading.Event()
    asked = []

    class Told(nn.Module):
        """Says when anybody looks at its parameters, or calls it."""

        def __init__(self):
            super().__init__()
            self.inner = model

        def parameters(self, recurse=True):
            asked.append("parameters")
            return super().parameters(recurse)

        def forward(self, x):
            asked.append("forward")
            return self.inner(x)

    def exports():
        with export._gate.export():
            begun.set()
            go_on.wait(60)

    def makes():
        explore(Told().eval())
        made.set()

    threads = [threading.Thread(target=work) for work in (exports, makes)]
    threads[0].start()
    assert begun.wait(60)
    threads[1].start()
    assert not made.wait(0.5) and not asked
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert made.is_set() and asked[:2] == ["parameters", "forward"]


class Sure(nn.Module):
    """Probabilities of a model that is all but sure, at a temperature where nobody looks."""

    def __init__(self, image):
        super().__init__()
        self.model, self.temperature = network(), array.array("d", [1.0])
        with torch.no_grad():
            self.model[-1].weight.mul_(300)
            answer = self.model(image)[0]
            self.offset = torch.zeros_like(answer)
            self.offset[0] = 9 - float(answer[0] - answer[1:].logsumexp(0))
        self.eval()

    def forward(self, x):
        return ((self.model(x) + self.offset) / self.temperature[0]).softmax(1)


def test_no_map_goes_on_that_another_model_began(explore):
    """The answer to the image as it is hardly moves, and what windows do to it moves a lot."""
    image = picture()
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    model = Sure(x)
    explorer = explore(model, image, activation=None, ssim_target=0.5, window=8, stride=2)
    explorer.wait(60)
    assert not bool(explorer.heatmap.measured.all())
    model.temperature[0] = 1.1
    explorer.exact = True
    explorer.wait(60)
    heatmap, covered = explorer.heatmap, ModelInput(image, None).patch(explorer.baseline)
    window, strides = heatmap.window.shape, heatmap.window.strides
    theirs = Occlusion(model).attribute(x, window, strides, baselines=covered, target=heatmap.target)
    span = float(theirs.abs().max())
    assert bool(heatmap.measured.all()) and span > 0
    torch.testing.assert_close(heatmap.attribution(), theirs[0], rtol=0, atol=0.03 * span)
