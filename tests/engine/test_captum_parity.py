"""KryptonOcclusion in place of captum.attr.Occlusion: the same call, the same numbers.

First the cases of Captum's own tests of `Occlusion`, in our words and with our models, then what images and
convolutions add. Every case is compared with the Occlusion that is installed; where the answer is easy to
compute by hand it is given too, so that both cannot be wrong together.
"""

from __future__ import annotations

import inspect

import matplotlib
import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel, Occlusion
from captum.attr import visualization as viz
from captum.metrics import sensitivity_max
from support.tiny_models import (
    ReluDifference,
    SmallCNN,
    ThreeInputs,
    TwoSmallImages,
    TwoViews,
    Weighted,
    assert_close,
    assert_like_captum,
    incremental,
    settle,
    tuple_of,
)
from torch import nn

from krypton_engine import InputError, KryptonOcclusion

EVALUATIONS = (None, 1, 2, 3, 7, 16)


def assert_answer(expected, forward, inputs, shapes, strides=None, *, evaluations=EVALUATIONS, **rest):
    """Krypton's attributions are Captum's, and both are ``expected``."""
    theirs = assert_like_captum(forward, inputs, shapes, strides, evaluations=evaluations, **rest)
    for attribution, values in zip(tuple_of(theirs), tuple_of(expected), strict=True):
        torch.testing.assert_close(attribution, torch.as_tensor(values, dtype=torch.float32))


# --- Captum's own cases: arguments that cannot be used ------------------------------------------------


@pytest.mark.parametrize("error", [AssertionError, ValueError, InputError])
class TestRefusals:
    image = torch.arange(16.0).reshape(1, 1, 4, 4)

    @pytest.mark.parametrize(
        "shapes",
        [((1, 2),), (2, 2), (1, 1, 2, 2), ((1, 2, 2), (1, 2, 2))],
        ids=["one size short", "no channels", "batch too", "a tuple too many"],
    )
    def test_improper_window_of_one_input(self, error, shapes):
        with pytest.raises(error):
            KryptonOcclusion(TwoSmallImages()).attribute(self.image, shapes, target=0)

    @pytest.mark.parametrize(
        "shapes",
        [((1, 1, 2), (1, 1, 1, 2)), ((1, 1, 2),) * 3, ((1, 1, 2),), (1, 1, 2)],
        ids=["a size too many", "a tuple too many", "a tuple short", "not told apart"],
    )
    def test_improper_windows_of_two_inputs(self, error, shapes):
        with pytest.raises(error):
            KryptonOcclusion(TwoSmallImages()).attribute((self.image, self.image), shapes, target=0)

    @pytest.mark.parametrize(
        ("shapes", "strides"),
        [
            (((1, 1, 2), (1, 2, 2)), ((1, 1, 2), (2, 1, 2, 2))),
            (((1, 1, 2), (1, 2, 2)), ((1, 1, 2), (1, 2, 2), (1, 2, 2))),
            (((1, 1, 2), (1, 2, 2)), 1),
        ],
        ids=["a size too many", "a tuple too many", "not told apart"],
    )
    def test_improper_strides_of_two_inputs(self, error, shapes, strides):
        with pytest.raises(error):
            KryptonOcclusion(TwoSmallImages()).attribute((self.image,) * 2, shapes, strides, target=0)

    @pytest.mark.parametrize("strides", [(1, 2), (1, 1, 2, 2), ((1, 2),)])
    def test_improper_strides_of_one_input(self, error, strides):
        with pytest.raises(error):
            KryptonOcclusion(TwoSmallImages()).attribute(self.image, (1, 2, 2), strides, target=0)

    @pytest.mark.parametrize(
        ("inputs", "shapes", "strides"),
        [
            (image, ((1, 1, 2),), 2),
            (image, (1, 2, 2), (1, 2, 3)),
            ((image, image), ((1, 1, 2), (1, 4, 2)), (2, (1, 2, 3))),
        ],
        ids=["along rows", "along columns", "of the second input"],
    )
    def test_too_large_stride(self, error, inputs, shapes, strides):
        with pytest.raises(error):
            KryptonOcclusion(TwoSmallImages()).attribute(inputs, shapes, strides, target=0)

    def test_window_larger_than_the_input(self, error):
        with pytest.raises(error):
            KryptonOcclusion(TwoSmallImages()).attribute(self.image, (2, 1, 2), target=0)

    def test_several_perturbations_of_an_output_that_does_not_grow(self, error):
        with pytest.raises(error):
            KryptonOcclusion(lambda x: x.sum()).attribute(torch.ones(2, 3), (1,), perturbations_per_eval=2)


# --- Captum's own cases: answers by hand --------------------------------------------------------------


class TestByHand:
    row = torch.tensor([[4.0, 1.0, 2.0]])
    rows = torch.tensor([[4.0, 1.0, 2.0], [0.0, -3.0, 5.0]])

    def test_one_cell(self):
        assert_answer([[8, 3, 10]], Weighted(), self.row, (1,), target=0)

    def test_the_other_output(self):
        assert_answer([[3, -1, 0]], Weighted(), self.row, (1,), target=1)

    def test_a_window_of_two_cells(self):
        assert_answer([[11, 12, 13]], Weighted(), self.row, (2,), target=0)

    def test_a_window_of_two_cells_with_stride(self):
        assert_answer([[11, 11, 10]], Weighted(), self.row, (2,), 2, target=0)

    def test_a_window_of_everything(self):
        assert_answer([[21, 21, 21]], Weighted(), self.row, (3,), target=0)

    def test_a_baseline_tensor_of_one_example(self):
        baselines = torch.tensor([1.0, 1.0, 0.0])
        assert_answer([[6, 8, 10]], Weighted(), self.row, (2,), baselines=baselines, target=0)

    def test_a_baseline_number(self):
        assert_answer([[6, 0, 5]], Weighted(), self.row, (1,), baselines=1, target=0)
        assert_answer([[7, 1.5, 7.5]], Weighted(), self.row, (1,), baselines=0.5, target=0)

    def test_several_examples(self):
        assert_answer([[8, 3, 10], [0, -9, 25]], Weighted(), self.rows, (1,), target=0)

    def test_a_baseline_and_a_target_for_each_example(self):
        baselines = torch.tensor([[1.0], [2.0]])
        expected = [[6, 0, 5], [-2, 3, 0]]
        assert_answer(expected, Weighted(), self.rows, (1,), baselines=baselines, target=[0, 1])

    def test_inputs_that_want_gradients(self):
        row = self.row.clone().requires_grad_()
        assert_answer([[8, 3, 10]], Weighted(), row, (1,), target=0)
        mine = KryptonOcclusion(Weighted()).attribute(row, (1,), target=0)
        assert not mine.requires_grad and row.grad is None

    def test_integers(self):
        assert_answer([[8, 3, 10], [0, -9, 25]], Weighted(), self.rows.long(), (1,), target=0)

    def test_large_integers_are_not_rounded(self):
        row = torch.tensor([[4, 1, 200_000_001]])
        expected = [[8, 3, 1_000_000_005]]
        assert_answer(expected, Weighted(), row, (1,), target=0, evaluations=(None, 1))
        mine = KryptonOcclusion(Weighted()).attribute(row, (1,), target=0)
        assert mine[0, :2].tolist() == [8, 3]  # the outputs are near 1e9, where float32 counts by 64

    def test_two_integer_inputs(self):
        x, y = torch.tensor([[-7], [5]]), torch.tensor([[3], [4]])
        expected = ([[0], [4]], [[-1], [-2]])
        assert_answer(expected, ReluDifference(), (x, y), ((1,), (1,)), target=0)

    def test_two_integer_inputs_made_float_by_a_wrapper(self):
        x, y = torch.tensor([[-7], [5]]), torch.tensor([[3], [4]])
        net = ReluDifference()
        expected = ([[0], [4]], [[-1], [-2]])
        assert_answer(expected, lambda *inputs: net(*inputs).float(), (x, y), ((1,), (1,)), target=0)

    def test_two_float_inputs(self):
        x, y = torch.tensor([[-7.0], [5.0]]), torch.tensor([[3.5], [4.0]])
        expected = ([[0], [4]], [[-1.5], [-2]])
        assert_answer(expected, ReluDifference(), (x, y), ((1,), (1,)), target=0)

    def test_inputs_without_axes(self):
        x, y = torch.tensor([-7.0, 5.0]), torch.tensor([3.5, 4.0])
        assert_answer(([0, 4], [-1.5, -2]), ReluDifference(), (x, y), ((), ()))

    def test_inputs_without_axes_that_are_the_baseline(self):
        x, y = torch.tensor([0.0, 0.0]), torch.tensor([3.5, 4.0])
        assert_answer(([0, 0], [-1.5, -2]), ReluDifference(), (x, y), ((), ()))


class TestThreeInputs:
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 1.0]])
    y = torch.tensor([[5.0, 1.0], [2.0, 3.0]])
    z = torch.tensor([[1.0, 1.0, 0.0], [2.0, 0.0, 1.0]])
    inputs = (x, y, z)
    shapes = ((3,), (1,), (2,))
    baselines = (torch.tensor([[1.0, 1, 1], [2, 0, 1]]), 2.0, torch.tensor([[1.0], [0.0]]))

    def test_an_additional_number(self):
        expected = ([[12] * 3, [10] * 3], [[20, 4], [8, 12]], [[0] * 3, [0] * 3])
        assert_answer(
            expected, ThreeInputs(), self.inputs, self.shapes, additional_forward_args=(2,), target=0
        )

    def test_the_product_of_two_inputs(self):
        expected = ([[12] * 3, [15] * 3], [[0, 0], [0, 0]], [[12, 9, 6], [10, 7.5, 5]])
        assert_answer(expected, ThreeInputs(), self.inputs, self.shapes, target=1)

    def test_an_additional_input_a_number_and_an_offset_for_each_example(self):
        additional = (self.z, 2, torch.tensor([100.0, 200.0]))
        expected = ([[12] * 3, [10] * 3], [[20, 4], [8, 12]])
        assert_answer(
            expected,
            ThreeInputs(),
            (self.x, self.y),
            self.shapes[:2],
            additional_forward_args=additional,
            target=0,
        )

    def test_baselines_and_strides_for_each_input(self):
        expected = ([[6] * 3, [4] * 3], [[12, -4], [0, 4]], [[0] * 3, [0] * 3])
        call = dict(baselines=self.baselines, additional_forward_args=(2, None), target=0)
        assert_answer(expected, ThreeInputs(), self.inputs, self.shapes, (2, 1, 2), **call)

    def test_baselines_on_the_product(self):
        expected = ([[6] * 3, [6] * 3], [[0, 0], [0, 0]], [[0, 0, -6], [10, 10, 5]])
        call = dict(baselines=self.baselines, target=1)
        assert_answer(expected, ThreeInputs(), self.inputs, self.shapes, (2, 1, 2), **call)


@pytest.mark.filterwarnings("ignore::krypton_engine.FallbackWarning")  # too small to gain anything
class TestTwoSmallImages:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    y = torch.ones(1, 1, 4, 4)

    @pytest.mark.parametrize("target", [0, 1])
    def test_whole_images(self, target):
        shapes = ((1, 4, 4), (1, 4, 4))
        # Windows of 2 x 2 cells: the middle is in four of them, an edge in two, a corner in one.
        sums = [[1, 2, 2, 1], [2, 4, 4, 2], [2, 4, 4, 2], [1, 2, 2, 1]]
        in_x = float((self.x[0, 0] * torch.tensor(sums)).sum())
        expected = {0: (in_x, 36.0), 1: (50.0, 4.0)}[target]
        expected = tuple(torch.full((1, 1, 4, 4), value) for value in expected)
        assert_answer(expected, TwoSmallImages(), (self.x, self.y), shapes, target=target)

    @pytest.mark.parametrize("target", [0, 1])
    def test_two_windows(self, target):
        shapes, strides = ((1, 2, 3), (1, 1, 2)), ((1, 2, 1), (1, 1, 2))
        assert_like_captum(
            TwoSmallImages(), (self.x, self.y), shapes, strides, evaluations=EVALUATIONS, target=target
        )

    def test_batches_of_two_images(self):
        x, y = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
        shapes, strides = ((1, 2, 3), (1, 1, 2)), ((1, 2, 1), (1, 1, 2))
        assert_like_captum(
            TwoSmallImages(), (x, y), shapes, strides, evaluations=EVALUATIONS, target=[0, 1, 0]
        )

    def test_a_batch_of_one_image(self):
        assert_like_captum(
            TwoSmallImages(), torch.randn(2, 1, 4, 4), (1, 2, 2), evaluations=EVALUATIONS, target=1
        )


@pytest.mark.filterwarnings("ignore::krypton_engine.FallbackWarning")
class TestOutputsThatDoNotGrow:
    """A sum over the batch has one row of attributions, for all examples together."""

    rows = TestByHand.rows

    @pytest.mark.parametrize("evaluation", [None, 1])
    @pytest.mark.parametrize(
        "forward",
        [
            lambda x: Weighted()(x)[:, 0].sum(),
            lambda x: Weighted()(x)[:, 0].sum().reshape(1),
            lambda x: float(Weighted()(x)[:, 0].sum()),
        ],
        ids=["no dimensions", "one row", "Python number"],
    )
    def test_sum_over_the_batch(self, forward, evaluation):
        assert_answer([[8, -6, 35]], forward, self.rows, (1,), evaluations=(evaluation,))

    @pytest.mark.parametrize("evaluation", [None, 1])
    def test_several_sums_over_the_batch(self, evaluation):
        expected = [[8, -6, 35], [3, 2, 0]]
        assert_answer(expected, lambda x: Weighted()(x).sum(0), self.rows, (1,), evaluations=(evaluation,))

    @pytest.mark.parametrize("evaluation", [None, 1])
    def test_of_images(self, cnn, images, evaluation):
        assert_like_captum(
            lambda x: cnn(x)[:, 1].sum(), images, (3, 8, 8), (3, 8, 6), evaluations=(evaluation,)
        )


# --- images through convolutions: always by the incremental path --------------------------------------

WINDOW, STRIDES = (3, 7, 6), (3, 5, 4)  # cut at both borders of the 24 x 20 images


def reference(model):
    """Boxes wherever there is a graph, also where full inference would be as fast."""
    return KryptonOcclusion(model, executor="reference")


class TestTargets:
    @pytest.mark.parametrize(
        "target",
        [
            1,
            -1,
            torch.tensor(2),
            torch.tensor([2]),
            torch.tensor([0, 3, 1]),
            [4, 0, 2],
            (3,),
            None,
        ],
        ids=str,
    )
    def test_of_a_batch(self, cnn, images, target):
        with incremental():
            assert_like_captum(cnn, images, WINDOW, STRIDES, evaluations=(None, 2), target=target)

    @pytest.mark.parametrize("target", [3, [2], torch.tensor([4]), (0,), None], ids=str)
    def test_of_one_image(self, cnn, image, target):
        with incremental():
            assert_like_captum(cnn, image, WINDOW, STRIDES, evaluations=(None, 1), target=target)

    @pytest.mark.parametrize(
        "target", [(1, 2), 1, [(1, 2), (0, 0), (1, 1)], [(1,), (0,), (1,)], (-1, 0), None], ids=str
    )
    def test_of_outputs_with_two_dimensions(self, cnn, images, target):
        def forward(x):  # (n, 2, 3)
            return torch.cat([cnn(x), cnn(x)[:, :1] * 2], dim=1).reshape(-1, 2, 3)

        with incremental():
            assert_like_captum(forward, images, WINDOW, STRIDES, target=target)

    @pytest.mark.parametrize("evaluation", [None, 1, 3])
    def test_of_a_segmentation(self, segmenter, image, evaluation):
        with incremental():
            assert_like_captum(
                segmenter, image, WINDOW, STRIDES, evaluations=(evaluation,), target=(2, 11, 9)
            )

    def test_of_a_segmentation_of_a_batch(self, segmenter, images):
        target = [(0, 3, 3), (3, 20, 18), (1, 12, 0)]
        with incremental():
            assert_like_captum(segmenter, images, WINDOW, STRIDES, target=target)

    def test_a_model_with_one_output(self, cnn, images):
        with incremental():
            assert_like_captum(lambda x: cnn(x)[:, 2], images, WINDOW, STRIDES, evaluations=(None, 2))

    def test_a_model_with_one_column(self, cnn, images):
        for target in (None, 0):
            with incremental():
                assert_like_captum(lambda x: cnn(x)[:, 2:3], images, WINDOW, STRIDES, target=target)


class TestBaselines:
    @pytest.mark.parametrize(
        "baselines",
        [None, 0, 0.5, -1, torch.tensor(0.3), torch.tensor([[-0.5]])],
        ids=["none", "zero", "float", "int", "tensor of one", "tensor of 1 x 1"],
    )
    def test_numbers(self, cnn, images, baselines):
        with incremental():
            assert_like_captum(
                cnn, images, WINDOW, STRIDES, evaluations=(None, 2), baselines=baselines, target=1
            )

    @pytest.mark.parametrize(
        "shape",
        [(1, 3, 24, 20), (3, 3, 24, 20), (3, 24, 20), (3, 1, 1), (1, 3, 1, 1), (3, 1, 1, 1), (24, 20), (20,)],
        ids=str,
    )
    def test_tensors(self, cnn, images, shape):
        with incremental():
            assert_like_captum(
                cnn, images, WINDOW, STRIDES, evaluations=(None, 2), baselines=torch.randn(shape), target=1
            )

    def test_integers_in_a_tensor(self, cnn, image):
        baselines = torch.ones(1, 3, 24, 20, dtype=torch.int64)
        with incremental():
            assert_like_captum(cnn, image, WINDOW, STRIDES, baselines=baselines, target=1)

    def test_a_baseline_that_is_part_of_the_image(self, cnn, image):
        baselines = image.clone()
        baselines[:, :, 8:13, 7:11] = 0
        with incremental():
            assert_like_captum(cnn, image, WINDOW, STRIDES, baselines=baselines, target=1)


class TestWindows:
    @pytest.mark.parametrize(
        ("shape", "strides"),
        [
            ((1, 7, 6), (1, 5, 4)),
            ((2, 7, 6), (1, 5, 4)),
            ((2, 7, 6), (2, 5, 4)),
            ((3, 7, 6), 3),
            ((3, 24, 6), (3, 24, 5)),
            ((3, 7, 20), (7, 4, 40)),
            ((1, 24, 20), (1, 30, 30)),
            ((3, 24, 20), 1),
            ((3, 1, 1), (3, 1, 1)),
            ((3, 9, 9), (3, 9, 9)),
            ((3, 23, 19), None),
        ],
        ids=[
            "one channel",
            "two channels",
            "two channels, the last window cut",
            "one stride for all",
            "a column",
            "a row, strides beyond the spanned axes",
            "a whole channel",
            "everything",
            "single pixels",
            "side by side",
            "nearly everything",
        ],
    )
    def test_of_an_image(self, cnn, image, shape, strides):
        with incremental():
            assert_like_captum(cnn, image, shape, strides, occlusion=reference(cnn), target=1)

    def test_in_a_tuple_of_one(self, cnn, image):
        with incremental():
            assert_like_captum(cnn, (image,), (WINDOW,), (STRIDES,), target=1)
            assert_like_captum(cnn, image, (WINDOW,), (STRIDES,), target=1)

    @pytest.mark.parametrize(
        ("rank", "size", "shape", "strides"),
        [
            (1, (2, 60), (2, 7), (2, 4)),
            (1, (2, 60), (1, 7), (1, 3)),
            (3, (1, 10, 12, 14), (1, 3, 4, 5), (1, 3, 4, 3)),
            (3, (2, 10, 12, 14), (1, 10, 4, 5), (1, 3, 4, 5)),
        ],
        ids=["signal", "signal, one channel", "volume", "volume, one channel, all its slices"],
    )
    def test_of_signals_and_volumes(self, rank, size, shape, strides):
        model = SmallCNN(size[0], rank=rank)
        with incremental():
            assert_like_captum(
                model, torch.randn(2, *size), shape, strides, occlusion=reference(model), target=1
            )


def check_two_images(device, **question):
    model = TwoViews().to(device)
    inputs = (torch.randn(2, 3, 20, 16).to(device), torch.randn(2, 1, 18, 22).to(device))
    windows, strides = ((3, 5, 4), (1, 6, 5)), ((3, 4, 4), (1, 5, 4))
    with incremental():
        assert_like_captum(model, inputs, windows, strides, occlusion=reference(model), **question)


class TestInputs:
    @pytest.mark.parametrize(
        "make",
        [
            lambda x: x.contiguous(memory_format=torch.channels_last),
            lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
            lambda x: torch.cat([x, x], dim=3)[..., ::2],
            lambda x: x[:1].expand(2, -1, -1, -1),
            lambda x: x.clone().requires_grad_(),
            lambda x: nn.Parameter(x.clone()) * 2,
        ],
        ids=["channels last", "transposed", "every second column", "expanded", "leaf", "with history"],
    )
    def test_of_any_layout(self, cnn, images, make):
        x = make(images)
        before = x.detach().clone()
        with incremental():
            assert_like_captum(cnn, x, WINDOW, STRIDES, target=1)
        assert torch.equal(x.detach(), before) and (not x.is_leaf or x.grad is None)

    def test_a_channels_last_model(self, images):
        model = SmallCNN().to(memory_format=torch.channels_last)
        with incremental():
            assert_like_captum(model, images, WINDOW, STRIDES, target=1)

    def test_float64_gives_float32(self, images):
        model = SmallCNN().double()
        with incremental():
            theirs = assert_like_captum(
                model, images.double(), WINDOW, STRIDES, baselines=0.1, target=[1, 2, 3]
            )
        assert theirs.dtype == torch.float32

    def test_float64_is_exact(self, images):
        model, x = SmallCNN().double(), images.double()
        theirs = Occlusion(model).attribute(x, WINDOW, STRIDES, target=1)
        with incremental():
            mine = KryptonOcclusion(model).attribute(x, WINDOW, STRIDES, target=1)
        assert_close(mine, theirs, float(theirs.abs().max()), 1e-6)

    def test_pixels_as_integers(self, cnn):
        x = torch.randint(1, 256, (2, 3, 24, 20), dtype=torch.uint8)
        for baselines in (None, 0, 128, torch.full((3, 1, 1), 90, dtype=torch.uint8)):
            with incremental():
                assert_like_captum(
                    lambda x: cnn(x.float() / 255),
                    x,
                    WINDOW,
                    STRIDES,
                    evaluations=(None, 2),
                    baselines=baselines,
                    target=1,
                )

    def test_pixels_as_integers_with_a_fractional_baseline(self, cnn):
        x = torch.randint(1, 256, (1, 3, 24, 20), dtype=torch.uint8)
        with incremental():
            assert_like_captum(lambda x: cnn(x.float() / 255), x, WINDOW, STRIDES, baselines=127.5, target=1)

    def test_two_images(self):
        baselines = (torch.randn(2, 3, 20, 16), 0.5)
        check_two_images("cpu", evaluations=(None, 1, 3), baselines=baselines, target=[1, 3])

    def test_an_image_and_a_row_of_numbers(self, cnn):
        inputs = (torch.randn(2, 3, 24, 20), torch.randn(2, 5))
        with incremental():
            assert_like_captum(
                lambda x, y: cnn(x) * y, inputs, (WINDOW, (2,)), (STRIDES, 1), baselines=(0.2, 1), target=1
            )

    def test_the_same_image_twice(self, cnn, images):
        with incremental():
            assert_like_captum(
                lambda x, y: cnn(x) - cnn(y.flip(3)),
                (images, images),
                (WINDOW,) * 2,
                (STRIDES,) * 2,
                target=1,
            )


class TestAdditionalArguments:
    @pytest.mark.parametrize(
        "additional",
        [
            2.5,
            (2.5,),
            (None,),
            (None, torch.randn(3, 5)),
            (1, torch.randn(3, 1)),
            (torch.rand(3, 1) + 1, None, "cubed"),
            torch.rand(3, 5) + 1,
        ],
        ids=[
            "number",
            "number in a tuple",
            "none",
            "none, rows",
            "number, column",
            "column, none, word",
            "rows",
        ],
    )
    def test_of_a_batch(self, cnn, images, additional):
        def forward(x, gain=None, offset=None, power="plain"):
            y = cnn(x) if power == "plain" else cnn(x) ** 3
            y = y if gain is None else y * gain
            return y if offset is None else y + offset

        with incremental():
            assert_like_captum(
                forward,
                images,
                WINDOW,
                STRIDES,
                evaluations=(None, 2),
                additional_forward_args=additional,
                target=[1, 2, 3],
            )

    def test_a_tensor_for_all_examples(self, cnn, images):
        with incremental():
            assert_like_captum(
                lambda x, gains: cnn(x) * gains,
                images,
                WINDOW,
                STRIDES,
                evaluations=(None, 1),
                additional_forward_args=torch.rand(5) + 1,
                target=1,
            )

    @pytest.mark.parametrize(
        "gains",
        [(1.0, 3.0, -2), (torch.rand(3, 1) + 1, torch.rand(3, 1) - 3, torch.tensor(4.0))],
        ids=["numbers", "tensors"],
    )
    def test_one_that_changes(self, cnn, images, gains):
        occlusion = KryptonOcclusion(lambda x, gain: cnn(x) * gain)
        for gain in gains:
            with incremental():
                assert_like_captum(
                    occlusion.forward_func,
                    images,
                    WINDOW,
                    STRIDES,
                    occlusion=occlusion,
                    additional_forward_args=gain,
                    target=1,
                )

    def test_an_image_that_is_not_occluded(self, images):
        model = TwoViews()
        with incremental():
            assert_like_captum(
                model,
                images,
                WINDOW,
                STRIDES,
                occlusion=reference(model),
                additional_forward_args=torch.randn(3, 1, 18, 22),
                target=1,
            )


# --- in Captum's company ------------------------------------------------------------------------------


def test_it_is_an_occlusion(cnn):
    assert issubclass(KryptonOcclusion, Occlusion)
    occlusion = KryptonOcclusion(cnn)
    assert occlusion.forward_func is cnn
    theirs = list(inspect.signature(Occlusion.attribute).parameters)
    mine = list(inspect.signature(KryptonOcclusion.attribute).parameters)
    assert mine[: len(theirs)] == theirs
    assert not occlusion.has_convergence_delta()
    assert occlusion.multiplies_by_inputs == Occlusion(cnn).multiplies_by_inputs


def both(ask, model):
    """What ``ask`` finds of our occlusion of a model, and of Captum's."""
    theirs = ask(Occlusion(model))
    with incremental():
        return ask(KryptonOcclusion(model)), theirs


@pytest.mark.parametrize("together", [None, 2])
@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_tunnel(cnn, images, kind, together):
    def smooth(occlusion):
        torch.manual_seed(5)
        return NoiseTunnel(occlusion).attribute(
            images,
            nt_type=kind,
            nt_samples=3,
            nt_samples_batch_size=together,
            stdevs=0.2,
            sliding_window_shapes=WINDOW,
            strides=STRIDES,
            target=[1, 2, 3],
        )

    mine, theirs = both(smooth, cnn)
    assert_close(mine, theirs, float(theirs.abs().max()), 1e-3)  # squares of small differences


def test_sensitivity(cnn, images):
    def sensitivity(occlusion):
        torch.manual_seed(6)
        np.random.seed(6)  # noqa: NPY002 -- Captum draws from it
        return sensitivity_max(
            occlusion.attribute,
            images,
            perturb_radius=0.1,
            n_perturb_samples=3,
            sliding_window_shapes=WINDOW,
            strides=STRIDES,
            target=[1, 2, 3],
        )

    mine, theirs = both(sensitivity, cnn)
    assert_close(mine, theirs, float(theirs.max()), 1e-3)  # a ratio of small differences
    assert float(theirs.min()) > 0.01


def test_visualisation(cnn, image):
    matplotlib.use("Agg")

    def drawn(occlusion):
        attribution = occlusion.attribute(image, WINDOW, STRIDES, target=1)
        _, axes = viz.visualize_image_attr(
            attribution[0].movedim(0, -1).numpy(),
            image[0].movedim(0, -1).sigmoid().numpy(),
            method="heat_map",
            sign="all",
            use_pyplot=False,
        )
        return np.asarray(axes.images[0].get_array())

    mine, theirs = both(drawn, cnn)
    assert theirs.shape == (24, 20) and np.ptp(theirs) > 0.5
    np.testing.assert_allclose(mine, theirs, atol=1e-3)


def test_the_random_stream_is_left_alone(images):
    model = SmallCNN()
    torch.manual_seed(7)
    KryptonOcclusion(model).attribute(images, WINDOW, STRIDES, target=1)
    mine = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(mine, torch.rand(3))


def test_grad_mode_is_left_alone(images):
    model = settle(SmallCNN())
    KryptonOcclusion(model).attribute(images, WINDOW, STRIDES, target=1)
    assert torch.is_grad_enabled()
    model(images).sum().backward()  # nothing of the call is in the way
    assert model.stem.weight.grad is not None
    with torch.no_grad():
        KryptonOcclusion(model).attribute(images, WINDOW, STRIDES, target=1)
        assert not torch.is_grad_enabled()


def test_in_inference_mode(images):
    with torch.inference_mode():
        model = SmallCNN()
        x = images * 1.0
        with incremental():
            assert_like_captum(model, x, WINDOW, STRIDES, target=1)


# --- on a GPU -----------------------------------------------------------------------------------------


@pytest.mark.gpu
class TestOnCuda:
    @pytest.fixture(autouse=True)
    def all_bits(self, monkeypatch):
        monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)

    def test_one_image(self, images):
        model = SmallCNN().cuda()
        with incremental():
            assert_like_captum(model, images.cuda(), WINDOW, STRIDES, baselines=0.2, target=[1, 2, 3])

    def test_two_images(self):
        check_two_images("cuda", evaluations=(None, 1), target=1)

    def test_a_heatmap_is_on_the_cpu(self, image):
        model = SmallCNN().cuda()
        heatmap = KryptonOcclusion(model).heatmap(image.cuda(), WINDOW, STRIDES)
        tensors = (heatmap.values, heatmap.base, heatmap.measured, heatmap.classes, heatmap.image)
        assert {t.device.type for t in tensors} == {"cpu"}
