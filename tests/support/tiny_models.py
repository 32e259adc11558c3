"""Models small enough to check by hand or to run thousands of times, and how two answers are compared.

The convolutional ones are just large enough that incremental work pays, so that a test which forbids the
`FallbackWarning` exercises the incremental path.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from captum.attr import Occlusion
from torch import nn

from krypton_engine import FallbackWarning, KryptonOcclusion

TOLERANCE = 1e-5
"""Of the largest output: float32 rounds at 6e-8, and two orders of summation differ by some tens of that."""


# --- models without a convolution, for answers computed by hand ---------------------------------------


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.eval()


class Weighted(Plain):
    """``(2a + 3b + 5c, relu(a - b))`` for rows ``(a, b, c)``, of any number type."""

    def forward(self, x):
        total = 2 * x[:, 0] + 3 * x[:, 1] + 5 * x[:, 2]
        return torch.stack([total, (x[:, 0] - x[:, 1]).clamp_min(0)], dim=1)


class ReluDifference(Plain):
    """``relu(x - 1) - relu(y - 2)``: ints stay ints, and any number of dimensions goes."""

    def forward(self, x, y):
        return (x - 1).clamp_min(0) - (y - 2).clamp_min(0)


class ThreeInputs(Plain):
    """``(gain * (sum(x) + 2 sum(y)), sum(x) * sum(z))`` for each example."""

    def forward(self, x, y, z, gain=1, offset=None):
        x, y, z = x.sum(1), y.sum(1), z.sum(1)
        first = gain * (x + 2 * y)
        return torch.stack([first if offset is None else first + offset, x * z], dim=1)


class TwoSmallImages(Plain):
    """A 2x2 convolution that adds up its cells, on the sum or difference of two one-channel images."""

    def forward(self, x, y=None):
        both = torch.cat([x, -x] if y is None else [x + y, x - y], dim=1)
        sums = F.conv2d(both, torch.ones(2, 1, 2, 2), groups=2)
        return torch.stack([sums.relu().sum((2, 3))[:, 0], sums.relu().amax((1, 2, 3))], dim=1)


# --- convolutional networks ---------------------------------------------------------------------------


def settle(model):
    """``model`` in eval mode, its batch norms with statistics and weights that are not the identity."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
    return model.eval()


class SmallCNN(nn.Module):
    """Convolutions, batch norm and pooling, then a linear layer: ``(n, channels, h, w) -> (n, classes)``."""

    def __init__(self, channels=3, classes=5, rank=2):
        super().__init__()
        conv, norm = [(nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d)][
            rank - 1
        ]
        pool = [nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d][rank - 1]
        maximum = [F.max_pool1d, F.max_pool2d, F.max_pool3d][rank - 1]
        self.stem = conv(channels, 12, 3, padding=1)
        self.norm = norm(12)
        self.body = conv(12, 16, 3, padding=1)
        self.pool = pool(2)
        self.head = nn.Linear(16 * 2**rank, classes)
        self.maximum = maximum
        settle(self)

    def features(self, x):
        x = self.maximum(self.norm(self.stem(x)).relu(), 2)
        return self.pool(self.body(x).relu())

    def forward(self, x):
        return self.head(self.features(x).flatten(1))


class Segmenter(nn.Module):
    """``(n, 3, h, w) -> (n, 4, h, w)``: every pixel its own row of classes."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Conv2d(12, 4, 1)
        settle(self)

    def forward(self, x):
        return self.head(self.body(x))


class TwoViews(nn.Module):
    """Two images of different shapes, one tower each: ``(n, 3, h, w), (n, 1, h', w') -> (n, 4)``."""

    def __init__(self):
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(1, 12, 5), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU())
        self.head = nn.Linear(24, 4)
        settle(self)

    def forward(self, x, y):
        return self.head(torch.cat([self.left(x).mean((2, 3)), self.right(y).amax((2, 3))], dim=1))


class SmallViT(nn.Module):
    """Patches and self-attention: everything depends on everything, so nothing is incremental."""

    def __init__(self, size=24, patch=4, width=16, classes=5):
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.where = nn.Parameter(torch.randn(1, (size // patch) ** 2, width) * 0.3)
        self.qkv = nn.Linear(width, 3 * width)
        self.head = nn.Linear(width, classes)
        self.eval()

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.where
        query, key, value = self.qkv(tokens).chunk(3, dim=-1)
        return self.head((tokens + F.scaled_dot_product_attention(query, key, value)).mean(1))


# --- comparisons --------------------------------------------------------------------------------------


@contextmanager
def incremental():
    """No full inference inside: its warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        yield


@contextmanager
def full_inference(count=1):
    """Inside, ``count`` warnings say that full inference runs."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    said = [str(w.message) for w in caught if issubclass(w.category, FallbackWarning)]
    assert len(said) == count, said


def tuple_of(value):
    return value if isinstance(value, tuple) else (value,)


def output_scale(forward, inputs, additional=None):
    """Largest output for the un-occluded inputs."""
    additional = () if additional is None else tuple_of(additional)
    with torch.no_grad():
        return float(torch.as_tensor(forward(*tuple_of(inputs), *additional)).abs().max())


def assert_close(mine, theirs, scale, tolerance=TOLERANCE):
    """Same shape, type and NaNs; values within ``tolerance * scale``."""
    assert mine.shape == theirs.shape
    assert mine.dtype == theirs.dtype
    assert mine.device == theirs.device
    assert torch.equal(mine.isnan(), theirs.isnan())
    worst = float((mine - theirs).detach().abs().nan_to_num(0).max())
    assert worst <= tolerance * scale, f"{worst:.3g} apart, outputs are up to {scale:.3g}"


def assert_like_captum(forward, inputs, shapes, strides=None, *, occlusion=None, evaluations=(None,), **rest):
    """KryptonOcclusion's attributions of ``inputs`` are Captum's, for each ``perturbations_per_eval``.

    Captum runs one perturbation an evaluation, the definition of the result. Its map has to say something:
    a range below 1e-3 of the outputs would prove nothing.
    """
    theirs = Occlusion(forward).attribute(inputs, shapes, strides, **rest)
    scale = output_scale(forward, inputs, rest.get("additional_forward_args"))
    said = max(float(t.abs().max()) for t in tuple_of(theirs))
    assert said > 1e-3 * scale, "the map is flat; the comparison would prove nothing"
    occlusion = KryptonOcclusion(forward) if occlusion is None else occlusion
    for evaluation in evaluations:
        mine = occlusion.attribute(inputs, shapes, strides, perturbations_per_eval=evaluation, **rest)
        assert isinstance(mine, tuple) == isinstance(theirs, tuple)
        assert len(tuple_of(mine)) == len(tuple_of(theirs))
        for one, other in zip(tuple_of(mine), tuple_of(theirs), strict=True):
            assert_close(one, other, scale)
    return theirs


def peak_bytes(call):
    """Most bytes that PyTorch holds at a time on top of what it held before."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, record_shapes=False
    ) as profile:
        call()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    held = np.cumsum([event.nbytes() for event in events])
    assert len(held), "the profiler saw no allocation"
    return int(held.max())
