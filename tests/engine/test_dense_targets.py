"""Heads on segmentation networks, against Captum and float64."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch
from captum.attr import Occlusion
from torch import nn

from krypton_engine import KryptonOcclusion, targets
from krypton_engine.errors import InputError

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
UP = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
POOL = {2: torch.max_pool2d, 3: torch.max_pool3d}
SIZES = {2: (24, 20), 3: (12, 8, 10)}
WINDOW = {2: ((1, 6, 6), (1, 3, 3)), 3: ((1, 4, 4, 4), (1, 4, 2, 3))}


class Segmenter(nn.Module):
    """A U-Net of two levels; its output in a mapping, as torchvision's, or alone."""

    def __init__(self, rank: int, classes: int, named: bool) -> None:
        super().__init__()
        conv = CONV[rank]
        self.fine, self.coarse = conv(1, 16, 3, padding=1), conv(16, 24, 3, padding=1)
        self.up, self.head = UP[rank](24, 16, 2, 2), conv(32, classes, 3, padding=1)
        self.rank, self.named = rank, named

    def forward(self, x):
        fine = self.fine(x).relu()
        coarse = self.coarse(POOL[self.rank](fine, 2)).relu()
        y = self.head(torch.cat([fine, self.up(coarse)], 1))
        return {"out": y, "aux": y} if self.named else y


def structure(rank: int) -> torch.Tensor:
    mask = torch.zeros(SIZES[rank], dtype=torch.bool)
    mask[tuple(slice(n // 4, n // 2) for n in SIZES[rank])] = True
    return mask


HEADS = {
    "volume": lambda rank: targets.volume(1, cell=0.125),
    "mean in a region": lambda rank: targets.mean_in(structure(rank), 1),
    "Dice": lambda rank: targets.dice(structure(rank), 1),
}


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("name", HEADS)
def test_heads(name, classes, rank):
    torch.manual_seed(1)
    model = nn.Sequential(Segmenter(rank, classes, named=classes == 3), HEADS[name](rank)).eval()
    x, (window, strides) = torch.randn(1, 1, *SIZES[rank]), WINDOW[rank]
    occlusion = KryptonOcclusion(model)
    ours = occlusion.attribute(x, window, strides, target=0)
    theirs = Occlusion(model).attribute(x, window, strides, target=0)
    right = Occlusion(copy.deepcopy(model).double()).attribute(x.double(), window, strides, target=0)
    size = float(model(x).detach())
    allowed = 3 * float((theirs - right).abs().max()) + 1e-7 * size
    assert float((ours - right).abs().max()) <= allowed
    assert float(right.abs().max()) > 1e-3 * size
    plan = occlusion.plan(x, window, strides)
    local = [step.op for step in plan.steps if step.local]
    assert "sum" not in local and {"sigmoid", "softmax"} & set(local), "the box runs up to the sum"


def test_what_a_head_says():
    logits = torch.randn(2, 3, 6, 5)
    mask = torch.rand(6, 5) > 0.5
    p = logits.softmax(1)[:, 2]
    torch.testing.assert_close(targets.volume(2)(logits), p.sum((1, 2))[:, None])
    torch.testing.assert_close(
        targets.mean_in(mask, 2)(logits)[:, 0], torch.stack([each[mask].mean() for each in p])
    )
    overlap = 2 * (p * mask).sum((1, 2)) / (p.sum((1, 2)) + mask.sum())
    torch.testing.assert_close(targets.dice(mask, 2)(logits)[:, 0], overlap)
    torch.testing.assert_close(targets.volume(0, activate=False)(p[:, None])[:, 0], p.sum((1, 2)))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: targets.volume(-1), "index"),
        (lambda: targets.volume(1.5), "index"),
        (lambda: targets.volume(3)(torch.zeros(1, 3, 4, 4)), "index"),
        (lambda: targets.volume(1)(torch.zeros(1, 3)), "output"),
        (lambda: targets.volume(1)({"logits": torch.zeros(1, 3, 4, 4)}), "output"),
        (lambda: targets.volume(1)([torch.zeros(1, 3, 4, 4)]), "list"),
        (lambda: targets.volume(1, cell=float("nan")), "cell"),
        (lambda: targets.volume(1, cell=0), "cell"),
        (lambda: targets.mean_in(torch.zeros(4, 4)), "region"),
        (lambda: targets.dice(torch.zeros(4, 4, dtype=torch.bool)), "mask"),
        (lambda: targets.dice(torch.ones(4, 4, dtype=torch.bool))(torch.zeros(1, 3, 4, 5)), "mask"),
    ],
)
def test_wrong_heads(call, name):
    with pytest.raises(InputError, match=name):
        call()


def test_a_mask_that_is_written_to_afterwards():
    mask, logits = structure(2), torch.randn(1, 1, *SIZES[2])
    head = targets.dice(mask)
    before = head(logits)
    mask.zero_()
    assert torch.equal(head(logits), before)


# --- boxes ------------------------------------------------------------


@functools.cache
def small_detector(kind="Faster R-CNN"):
    """Shared, and not to be changed. A few dozen proposals take a hundredth of the time of a thousand."""
    from torchvision.models import detection
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    torch.manual_seed(3)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    small = {"min_size": 64, "max_size": 96, "num_classes": 3}
    if kind == "RetinaNet":
        return detection.RetinaNet(backbone, **small, score_thresh=0.0, topk_candidates=40).eval()
    few = {"rpn_pre_nms_top_n_test": 40, "rpn_post_nms_top_n_test": 40}
    return detection.FasterRCNN(backbone, **small, **few, box_score_thresh=0.0).eval()


@pytest.mark.parametrize("kind", ["Faster R-CNN", "RetinaNet"])
def test_box_scores(kind):
    """Against the detector itself on covered images, box by box by torchvision."""
    from torchvision.ops import box_iou

    detector = small_detector(kind)
    x = torch.rand(1, 3, 72, 96)
    with torch.no_grad():
        (found,) = detector(list(x))
    box, label = found["boxes"][0], int(found["labels"][0])
    model = targets.box_score(detector, box, label).eval()
    occlusion = KryptonOcclusion(model)
    heatmap = occlusion.heatmap(x, (3, 36, 48), (3, 36, 48))
    assert "full from here: krypton::box_score" in str(occlusion.plan(x, (3, 36, 48), (3, 36, 48)))
    for row in range(2):
        for column in range(2):
            covered = x.clone()
            covered[..., 36 * row : 36 * row + 36, 48 * column : 48 * column + 48] = 0
            with torch.no_grad():
                (now,) = detector(list(covered))
            overlap = box_iou(box[None], now["boxes"])[0] * now["scores"] * (now["labels"] == label)
            expected = float(overlap.max()) if len(overlap) else 0.0
            assert float(heatmap.values[row, column]) == pytest.approx(expected, abs=1e-4)
    assert float(heatmap.values.std()) > 1e-3


@pytest.mark.slow
def test_two_scores_of_one_detector():
    """The exporter calls them through proxies, which have other identities."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            detector = small_detector()
            self.first = targets.box_score(detector, (2, 3, 40, 50), 1)
            self.second = targets.box_score(detector, (30, 10, 90, 70), 2)

        def forward(self, x):
            return torch.cat([self.first(x), self.second(x)], 1)

    model, x = Both().eval(), torch.rand(1, 3, 72, 96)
    for target in (0, 1):
        ours = KryptonOcclusion(model).attribute(x, (3, 36, 48), (3, 36, 48), target=target)
        theirs = Occlusion(model).attribute(x, (3, 36, 48), (3, 36, 48), target=target)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_score_that_is_made_anew_in_every_call():
    detector, x = small_detector(), torch.rand(1, 3, 72, 96)
    occlusion = KryptonOcclusion(lambda x: targets.box_score(detector, (2, 3, 40, 50), 1)(x))
    with pytest.raises(InputError, match="made once and kept"):
        occlusion.heatmap(x, (3, 36, 48), (3, 36, 48))


def test_copies_of_a_score():
    score, x = targets.box_score(small_detector(), (2, 3, 40, 50), 1), torch.rand(1, 3, 72, 96)
    other = copy.deepcopy(score)
    other.box.copy_(torch.tensor([30.0, 10.0, 90.0, 70.0]))
    expected = targets.box_score(score.detector, other.box, 1)(x)
    assert torch.equal(other(x), expected) and not torch.equal(score(x), expected)
    del score
    assert torch.equal(other(x), expected) and torch.equal(pickle.loads(pickle.dumps(other))(x), expected)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda detector: targets.box_score(nn.Linear(2, 2), (0, 0, 1, 1), 1), "detector"),
        (lambda detector: targets.box_score(detector, (0, 0, 1), 1), "box"),
        (lambda detector: targets.box_score(detector, (4, 0, 1, 1), 1), "box"),
        (lambda detector: targets.box_score(detector, (0, 0, 1, 1), 0.5), "label"),
    ],
)
def test_wrong_boxes(call, name):
    with pytest.raises(InputError, match=name):
        call(small_detector())
