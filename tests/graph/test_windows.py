"""Sliding windows against brute force: where they lie, what they average to, what they really change."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from captum.attr import Occlusion
from hypothesis import given, settings
from hypothesis import strategies as st

from krypton_engine import InputError
from krypton_engine.perturbation.changed import ChangedCells, distinct_work
from krypton_engine.perturbation.windows import SlidingWindow


@st.composite
def windows(draw, max_axes=3, max_size=7):
    """Any window that Captum accepts."""
    sizes, shape, strides = [], [], []
    for _ in range(draw(st.integers(1, max_axes))):
        n = draw(st.integers(1, max_size))
        k = draw(st.integers(1, n))
        sizes.append(n)
        shape.append(k)
        strides.append(draw(st.integers(1, k if k < n else n + 3)))
    return SlidingWindow(tuple(sizes), tuple(shape), tuple(strides))


def cells(window, box):
    """The cells of a box as a boolean array."""
    mask = np.zeros(window.input_shape, dtype=bool)
    mask[tuple(slice(lo, hi) for lo, hi in box)] = True
    return mask


def every(window):
    return np.arange(len(window), dtype=np.int64)


# --- where windows lie --------------------------------------------------------------------------------


@given(windows())
def test_counts_are_captums_formula(window):
    expected = np.ceil((np.array(window.input_shape) - window.shape) / window.strides).astype(int) + 1
    assert window.counts == tuple(expected)
    assert len(window) == math.prod(window.counts)


@given(windows(max_size=5))
@settings(max_examples=50)
def test_windows_cover_what_captum_occludes(window):
    seen = []

    def forward(x):
        seen.extend(x == 0)
        return x.flatten(1).sum(1)

    Occlusion(forward).attribute(torch.ones(1, *window.input_shape), window.shape, window.strides)
    theirs = sorted(mask.numpy().tobytes() for mask in seen[1:])  # the first is the un-occluded input
    mine = sorted(cells(window, box).tobytes() for box in window.boxes(every(window)))
    assert mine == theirs


@given(windows())
def test_positions_are_numbered_with_the_last_axis_fastest(window):
    expected = list(itertools.product(*map(range, window.counts)))
    assert list(zip(*(c.tolist() for c in window.coordinates(every(window))), strict=True)) == expected
    boxes = window.boxes(every(window))
    for box, index in zip(boxes, expected, strict=True):
        for axis, (lo, hi) in enumerate(box):
            assert lo == index[axis] * window.strides[axis]
            assert hi == min(lo + window.shape[axis], window.input_shape[axis])


@given(windows())
def test_the_grid_leaves_out_the_spanned_axes(window):
    spanned = [k == n for k, n in zip(window.shape, window.input_shape, strict=True)]
    assert [window.spans(axis) for axis in range(len(spanned))] == spanned
    assert window.grid_shape == tuple(c for c, s in zip(window.counts, spanned, strict=True) if not s)
    assert math.prod(window.grid_shape) == len(window)  # a spanned axis has one position


def test_the_last_window_is_cut():
    window = SlidingWindow((10,), (4,), (4,))
    assert window.boxes(every(window))[:, 0].tolist() == [[0, 4], [4, 8], [8, 10]]


def test_a_window_over_no_axes():
    window = SlidingWindow((), (), ())
    assert len(window) == 1
    assert window.boxes(every(window)).shape == (1, 0, 2)


# --- averages -----------------------------------------------------------------------------------------


@given(windows(), st.integers(0, 2**32 - 1))
def test_average_is_the_mean_over_covering_windows(window, seed):
    differences = np.random.default_rng(seed).normal(size=(2, len(window)))
    total = np.zeros((2, *window.input_shape))
    count = np.zeros(window.input_shape)
    for p, box in enumerate(window.boxes(every(window))):
        inside = cells(window, box)
        total += differences[:, p].reshape(2, *[1] * inside.ndim) * inside
        count += inside
    assert (count > 0).all()
    average = window.average(torch.from_numpy(differences))
    assert average.dtype == torch.float32
    np.testing.assert_allclose(average.numpy(), total / count, rtol=1e-6, atol=1e-6)


# --- what windows really change -----------------------------------------------------------------------


@given(windows(), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_changed_cells_are_bounded_exactly(window, share, seed):
    differs = np.random.default_rng(seed).random(window.input_shape) < share
    boxes = ChangedCells(window, differs).boxes(every(window))
    for covered, box in zip(window.boxes(every(window)), boxes, strict=True):
        changed = differs & cells(window, covered)
        where = np.argwhere(changed)
        if not len(where):
            assert (box[:, 1] <= box[:, 0]).any(), "nothing changes, so the box is empty"
            continue
        for axis, (lo, hi) in enumerate(box):
            if window.spans(axis):
                assert (lo, hi) == tuple(covered[axis])
            else:
                assert (lo, hi) == (where[:, axis].min(), where[:, axis].max() + 1)


@given(windows(), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_every_position_is_answered_once_by_what_it_changes(window, share, seed):
    generator = np.random.default_rng(seed)
    differs = generator.random(window.input_shape) < share
    asked = generator.permutation(len(window))[: generator.integers(1, len(window) + 1)]
    work = distinct_work(ChangedCells(window, differs), asked)
    answered = np.concatenate([work.unchanged, *work.positions])
    assert sorted(answered.tolist()) == sorted(asked.tolist())
    changes = {p: differs & cells(window, window.boxes(np.array([p]))[0]) for p in asked.tolist()}
    for p in work.unchanged.tolist():
        assert not changes[p].any()
    sets = []
    for box, alike in zip(work.boxes, work.positions, strict=True):
        for p in alike.tolist():
            assert changes[p].any()
            assert np.array_equal(changes[p], differs & cells(window, box))
        sets.append(changes[int(alike[0])].tobytes())
    assert len(set(sets)) == len(sets), "the same set of cells is computed twice"


@pytest.mark.parametrize("differs", [True, False])
def test_changed_cells_of_an_input_without_axes(differs):
    window = SlidingWindow((), (), ())
    work = distinct_work(ChangedCells(window, np.array(differs)), every(window))
    assert sorted(np.concatenate([work.unchanged, *work.positions]).tolist()) == [0]


# --- regions of interest ------------------------------------------------------------------------------


@given(windows(), st.data())
def test_touching_a_mask(window, data):
    seed, share = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.floats(0.01, 0.5))
    mask = np.random.default_rng(seed).random(window.input_shape) < share
    mask.flat[seed % mask.size] = True
    expected = [p for p, b in enumerate(window.boxes(every(window))) if (mask & cells(window, b)).any()]
    assert window.touching(torch.from_numpy(mask)).tolist() == expected


@given(windows(), st.data())
def test_touching_a_box_of_the_last_axes(window, data):
    rank = data.draw(st.integers(1, len(window.shape)))
    first, last = [], []
    for n in window.input_shape[-rank:]:
        lo = data.draw(st.integers(0, n - 1))
        first.append(lo)
        last.append(data.draw(st.integers(lo + 1, n)))
    mask = np.zeros(window.input_shape, dtype=bool)
    mask[(..., *(slice(lo, hi) for lo, hi in zip(first, last, strict=True)))] = True
    expected = [p for p, b in enumerate(window.boxes(every(window))) if (mask & cells(window, b)).any()]
    assert window.touching((*first, *last)).tolist() == expected


def test_a_mask_of_the_picture_goes_for_all_channels():
    window = SlidingWindow((3, 8, 8), (3, 2, 2), (3, 2, 2))
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[5, 2] = True
    assert window.touching(mask).tolist() == [2 * 4 + 1]


BAD_REGIONS = {
    "mask that holds nothing": torch.zeros(8, 8, dtype=torch.bool),
    "mask of another shape": torch.ones(7, 8, dtype=torch.bool),
    "mask of a batch": torch.ones(1, 3, 8, 8, dtype=torch.bool),
    "mask of numbers": torch.ones(8, 8, dtype=torch.uint8),
    "half a box": (0, 0, 4),
    "empty box": (4, 0, 4, 8),
    "box upside down": (5, 0, 4, 8),
    "box beyond the image": (0, 0, 9, 8),
    "negative box": (-1, 0, 4, 4),
    "box of too many axes": (0, 0, 0, 0, 3, 8, 8, 8),
    "no box": (),
    "box of halves": (0.5, 0, 4, 4),
    "box of None": (None, 0, 4, 4),
    "number": 5,
    "word": "all",
}


@pytest.mark.parametrize("region", BAD_REGIONS.values(), ids=BAD_REGIONS)
def test_a_bad_region(region):
    with pytest.raises(InputError, match="region"):
        SlidingWindow((3, 8, 8), (3, 2, 2), (3, 2, 2)).touching(region)


# --- windows that make no sense -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "strides", "named"),
    [
        ((3, 9, 2), (1, 1, 1), "sliding_window_shapes"),
        ((3, 0, 2), (1, 1, 1), "sliding_window_shapes"),
        ((3, -2, 2), (1, 1, 1), "sliding_window_shapes"),
        ((2, 2), (1, 1, 1), "sliding_window_shapes"),
        ((3, 2, 2), (1, 0, 1), "strides"),
        ((3, 2, 2), (1, -1, 1), "strides"),
        ((3, 2, 2), (1, 1), "strides"),
        ((3, 2, 2), (1, 3, 1), "strides"),
        ((1, 2, 2), (2, 1, 1), "strides"),
    ],
)
def test_a_bad_window(shape, strides, named):
    with pytest.raises(InputError, match=named):
        SlidingWindow((3, 8, 8), shape, strides)


def test_an_empty_image():
    with pytest.raises(InputError, match="empty"):
        SlidingWindow((3, 0, 8), (3, 1, 2), (1, 1, 1))
