"""Networks of two inputs, of which windows occlude one at a time: what the other gives is shared.

Random networks that meet early, late or twice, by sums, products and concatenations, some of them in place;
every output of every window is compared with a loop over occluded copies, in float64.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from support.truth import brute_force
from torch import nn

from krypton_engine import FallbackWarning, KryptonOcclusion
from krypton_engine.executors.registry import EXECUTORS

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10}
"""Of the largest output."""

CHANNELS, CLASSES = 6, 4
WINDOW, STRIDES = (3, 5, 4), (3, 3, 4)


@pytest.fixture(autouse=True, scope="module")
def small_networks():
    """Incremental work would not pay for networks that small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("krypton_engine.plan.plan.MINIMUM_GAIN", 0.0)
        yield


def _sum_into_first(a, b):
    a += b
    return a


def _sum_into_second(a, b):
    b += a
    return b


def _product_into_second(a, b):
    return b.mul_(a)


JOINS = {
    "sum": lambda a, b: a + b,
    "sum, the other first": lambda a, b: b + a,
    "weighted sum": lambda a, b: torch.add(b, a, alpha=0.3),
    "weighted sum, the other second": lambda a, b: torch.add(a, b, alpha=-2),
    "sum into the occluded": _sum_into_first,
    "sum into the other": _sum_into_second,
    "weighted sum into the other": lambda a, b: b.add_(a, alpha=0.5),
    "difference": lambda a, b: b - a,
    "product": lambda a, b: b * a,
    "product into the other": _product_into_second,
    "sum of what was cut": lambda a, b: b.relu_() + a.clamp(-1, 1),
    "sum in more digits": lambda a, b: b + a.double(),
    "the other twice": lambda a, b: b + a + b.sigmoid(),
    "largest": lambda a, b: torch.maximum(b, a),
    "gate": lambda a, b: b.sigmoid() * a + b,
}
ENDS = {
    "as it is": lambda y: y,
    "relu": F.relu,
    "relu in place": lambda y: F.relu(y, inplace=True),
    "silu in place": lambda y: F.silu(y, inplace=True),
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "sigmoid": torch.sigmoid,
}


@dataclass(frozen=True)
class Fusion:
    """What a network is drawn from.

    ``other`` is what the second input is: a table's row, or an image of the first's size; ``siamese`` has one
    tower for two images. They are joined before the global pool, or after it, or as the outputs.
    """

    other: str
    siamese: bool
    early: str | None
    late: str
    end: str
    last: str
    convolves: bool
    pool: str
    direct: bool


@st.composite
def fusions(draw):
    other = draw(st.sampled_from(["table", "image"]))
    return Fusion(
        other=other,
        siamese=other == "image" and draw(st.booleans()),
        early=draw(st.sampled_from([None, *JOINS])),
        late=draw(st.sampled_from(["cat", *JOINS])),
        end=draw(st.sampled_from(list(ENDS))),
        last=draw(st.sampled_from(list(ENDS))),
        convolves=draw(st.booleans()),
        pool=draw(st.sampled_from(["mean", "amax"])),
        direct=draw(st.booleans()),
    )


class Network(nn.Module):
    def __init__(self, fusion):
        super().__init__()
        self.fusion = fusion
        width = CHANNELS * (2 if fusion.late == "cat" else 1)
        self.tower = nn.Conv2d(3, CHANNELS, 3, padding=1)
        table = nn.Linear(5, CHANNELS)
        self.other = (
            table if fusion.other == "table" else self.tower if fusion.siamese else nn.Conv2d(3, CHANNELS, 1)
        )
        self.beside = nn.Linear(CHANNELS, CHANNELS)
        self.body = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.mine = nn.Linear(CHANNELS, CHANNELS)
        self.head = nn.Linear(width, CLASSES)
        self.straight = nn.Linear(CHANNELS, CLASSES)
        self.eval()

    def pooled(self, y):
        return getattr(y, self.fusion.pool)((2, 3)) if y.dim() == 4 else y

    def forward(self, x, v):
        fusion, weights = self.fusion, self.head.weight
        a, b = self.tower(x), self.other(v)
        if fusion.early is not None:
            beside = b if b.dim() == 4 else self.beside(b)[:, :, None, None].expand(-1, -1, *a.shape[2:])
            # What is expanded cannot be written to.
            a = JOINS[fusion.early](a, beside + 0).to(weights.dtype)
        a = ENDS[fusion.end](a)
        if fusion.convolves:
            a = self.body(a)
        a = self.mine(self.pooled(a))
        b = self.beside(self.pooled(self.other(v)))
        if fusion.direct:
            return ENDS[fusion.last](self.straight(b) + self.straight(a))
        y = torch.cat([a, b], 1) if fusion.late == "cat" else JOINS[fusion.late](a, b).to(weights.dtype)
        return self.head(ENDS[fusion.last](y))


@dataclass(frozen=True)
class Pictures:
    """A picture, its size, and the one box in which it is not the baseline, if it is elsewhere."""

    size: tuple[int, int]
    baseline: float
    box: tuple[slice, slice] | None
    seed: int

    def image(self):
        generator = torch.Generator().manual_seed(self.seed)
        x = torch.randn(1, 3, *self.size, generator=generator, dtype=torch.float64)
        if self.box is None:
            return x
        blank = torch.full_like(x, self.baseline)
        blank[(..., *self.box)] = x[(..., *self.box)]
        return blank


@st.composite
def pictures(draw):
    height, width = draw(st.integers(6, 13)), draw(st.integers(5, 12))
    top, left = draw(st.integers(0, height - 2)), draw(st.integers(0, width - 2))
    box = slice(top, top + draw(st.integers(1, 2))), slice(left, left + draw(st.integers(1, 2)))
    return Pictures(
        (height, width), draw(st.sampled_from([0.0, 0.5])), draw(st.sampled_from([None, box])),
        draw(st.integers(0, 2**31)),
    )  # fmt: skip


def check(fusion, asked, dtype):
    torch.manual_seed(asked[0].seed % 1000)
    model = Network(fusion).to(dtype)
    truth = copy.deepcopy(model).double()
    shape = (1, 5) if fusion.other == "table" else (1, 3, *asked[0].size)
    v = torch.randn(shape, dtype=torch.float64)
    inputs = [(one.image().to(dtype), one.baseline) for one in asked]
    mine_v = v.to(dtype)
    for executor in EXECUTORS:
        occlusion = KryptonOcclusion(model, executor=executor)
        for x, baseline in inputs:
            with torch.no_grad():
                expected = brute_force(
                    lambda one: truth(one, mine_v.double().clone()), x.double(), WINDOW, STRIDES, baseline
                )
                base = truth(x.double(), mine_v.double())[0]
            with warnings.catch_warnings():
                # Who cannot run it hands it on; nobody may give it up.
                warnings.filterwarnings("error", "occlusion runs as batched", FallbackWarning)
                warnings.filterwarnings("ignore", "the reference executor runs", FallbackWarning)
                heatmap = occlusion.heatmap(
                    x, WINDOW, STRIDES, baseline, additional_forward_args=(mine_v,), classes="all"
                )
            scale = float(expected.abs().max())
            got = heatmap.outputs.reshape(expected.shape).double()
            worst = float((got - expected).abs().max())
            assert worst <= TOLERANCE[dtype] * scale, f"{executor}: {worst:.3g} apart, outputs to {scale:.3g}"
            torch.testing.assert_close(
                heatmap.base_outputs.double(), base, rtol=0, atol=TOLERANCE[dtype] * scale
            )


def questions():
    """Two pictures of one size, so that the second meets what the first left behind."""
    return st.tuples(pictures(), st.integers(0, 2**31)).map(
        lambda drawn: [drawn[0], Pictures(drawn[0].size, drawn[0].baseline, None, drawn[1])]
    )


def _random(fusion, asked, dtype):
    note(f"{fusion}\n{asked}")
    check(fusion, asked, dtype)


_TOO_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
_ANY = given(fusions(), questions(), st.sampled_from([torch.float32, torch.float64]))


@_ANY
@settings(max_examples=6, suppress_health_check=_TOO_SLOW)
def test_random_fusions(fusion, asked, dtype):
    _random(fusion, asked, dtype)


@pytest.mark.slow
@_ANY
@settings(max_examples=60, suppress_health_check=_TOO_SLOW)
def test_many_random_fusions(fusion, asked, dtype):
    _random(fusion, asked, dtype)


ONE_BOX = [Pictures((9, 8), 0.0, (slice(3, 5), slice(2, 4)), 1), Pictures((9, 8), 0.0, None, 2)]
EVERYWHERE = [Pictures((9, 8), 0.0, None, 3), Pictures((9, 8), 0.0, None, 4)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("asked", [ONE_BOX, EVERYWHERE], ids=["one box", "everywhere"])
@pytest.mark.parametrize(
    "fusion",
    [
        Fusion("table", False, None, "sum", "relu", "as it is", True, "mean", direct=True),
        Fusion("table", False, None, "weighted sum into the other", "relu", "relu", True, "mean", False),
        Fusion("image", True, None, "sum, the other first", "relu", "as it is", True, "amax", False),
        Fusion(
            "image", False, "sum, the other first", "sum into the other", "relu", "relu", True, "mean", False
        ),
    ],
    ids=["table and image", "weighted", "siamese", "two convolutions"],
)
def test_what_the_other_input_gives_is_not_written_to(fusion, asked, dtype):
    check(fusion, asked, dtype)
