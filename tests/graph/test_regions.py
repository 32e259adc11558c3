"""The algebra of changed intervals against brute force over single cells."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from krypton_engine.graph.regions import IndexMap, SpanMap, SpreadMap, WindowMap, slide_inwards, union


@st.composite
def window_maps(draw):
    """A convolution's or a pooling's map, with as many outputs as padding on the right allows for."""
    kernel, stride, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    reach = dilation * (kernel - 1) + 1
    n_in = draw(st.integers(1, 16))
    left, right = draw(st.integers(0, reach)), draw(st.integers(0, reach + stride))
    assume(n_in + left + right >= reach)
    n_out = (n_in + left + right - reach) // stride + 1
    return WindowMap(n_in, n_out, kernel, stride, left, dilation)


@st.composite
def index_maps(draw):
    """Any rearrangement of cells; -1 is a constant."""
    n_in = draw(st.integers(1, 10))
    return IndexMap(n_in, tuple(draw(st.lists(st.integers(-1, n_in - 1), min_size=1, max_size=14))))


@st.composite
def spread_maps(draw):
    """A transposed convolution's map, as a kernel without holes makes it."""
    stride, reach = draw(st.integers(1, 5)), draw(st.integers(0, 6))
    n_in = draw(st.integers(1, 10))
    length = (n_in - 1) * stride + max(reach, stride - 1) + 1
    padding = draw(st.integers(0, min(reach, length - 1)))
    return SpreadMap(n_in, draw(st.integers(1, length - padding)), stride, reach, padding)


@st.composite
def span_maps(draw):
    """Spans that move forward, of any lengths."""
    n_in, n_out = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    cells = st.integers(0, n_in - 1)
    firsts, lasts = (sorted(draw(st.lists(cells, min_size=n_out, max_size=n_out))) for _ in range(2))
    pairs = [sorted(pair) for pair in zip(firsts, lasts, strict=True)]
    return SpanMap(n_in, tuple(first for first, _ in pairs), tuple(last + 1 for _, last in pairs))


def intervals(n):
    return st.tuples(st.integers(0, n), st.integers(0, n))


def changed(step, lo, hi):
    first, last = step.changed(np.array([lo]), np.array([hi]))
    return (int(first[0]), int(last[0])) if last[0] > first[0] else None


def readers(step, lo, hi):
    """Outputs that read a cell of [lo, hi), one by one."""
    outputs = range(step.n_out)
    return [o for o in outputs if any(lo <= c < hi for c in np.ravel(step.sources(np.array([o]))))]


def bounds(cells):
    return (min(cells), max(cells) + 1) if cells else None


def drawn_box(step, data):
    """A box of outputs: how many, the cells that they read, and where these begin by the step itself."""
    lo = data.draw(st.integers(0, step.n_out - 1))
    extent = data.draw(st.integers(1, step.n_out - lo))
    read = step.sources(np.arange(lo, lo + extent))
    return extent, read, int(step.first_read(np.array([lo]))[0])


# --- windows ------------------------------------------------------------------------------------------


@given(window_maps())
def test_a_window_reads_its_cells(step):
    outputs = np.arange(step.n_out)
    expected = [
        [o * step.stride - step.padding + step.dilation * j for j in range(step.kernel)] for o in outputs
    ]
    assert step.sources(outputs).tolist() == expected
    assert step.first_read(outputs).tolist() == [row[0] for row in expected]


@given(window_maps(), st.data())
def test_a_windows_changes_are_bounded(step, data):
    lo, hi = data.draw(intervals(step.n_in))
    truth, answer = bounds(readers(step, lo, hi)), changed(step, lo, hi)
    if step.dilation == 1 or hi - lo >= step.dilation or hi <= lo:
        assert answer == truth
    elif truth is not None:  # a hole of the kernel may lie over all that changed: then more is recomputed
        assert answer is not None and answer[0] <= truth[0] and truth[1] <= answer[1]


@given(window_maps(), st.floats(0.01, 1), st.data())
def test_a_clipped_window_changes_the_middle(step, tau, data):
    lo, hi = data.draw(intervals(step.n_in))
    whole, clipped = changed(step, lo, hi), changed(step.clipped(tau), lo, hi)
    assert (clipped is None) == (whole is None) and changed(step.clipped(1), lo, hi) == whole
    if whole is not None:
        limit = max(1, int(tau * step.n_out + 1e-9))
        assert clipped[1] - clipped[0] == min(limit, whole[1] - whole[0])
        assert (whole[1] - clipped[1]) - (clipped[0] - whole[0]) in (0, 1)


@given(window_maps(), st.data())
def test_all_intervals_at_once(step, data):
    pairs = data.draw(st.lists(intervals(step.n_in), min_size=1, max_size=5))
    lo, hi = np.array(pairs).T
    first, last = step.changed(lo, hi)
    alone = [changed(step, a, b) for a, b in pairs]
    together = [(a, b) if b > a else None for a, b in zip(first.tolist(), last.tolist(), strict=True)]
    assert together == alone


@given(window_maps(), st.data())
def test_a_box_reads_one_interval(step, data):
    extent, read, start = drawn_box(step, data)
    assert (start, start + step.extent_read(extent)) == (read.min(), read.max() + 1)


@given(window_maps())
def test_a_window_that_does_nothing_says_so(step):
    if step.is_identity():
        assert step.n_in == step.n_out
        assert step.sources(np.arange(step.n_out)).ravel().tolist() == list(range(step.n_in))


def test_a_wide_stride_skips_cells():
    shortcut = WindowMap(n_in=8, n_out=4, kernel=1, stride=2)
    assert changed(shortcut, 3, 4) is None
    assert changed(shortcut, 3, 5) == (2, 3)


# --- spreads and spans --------------------------------------------------------------------------------


def written(step, cell):
    """Outputs that an input of a spread is written to, by the words of its docstring."""
    outputs = (cell * step.stride - step.padding + j for j in range(step.reach + 1))
    return [o for o in outputs if 0 <= o < step.n_out]


@given(spread_maps(), st.data())
def test_a_spreads_changes_are_bounded(step, data):
    lo, hi = data.draw(intervals(step.n_in))
    truth = bounds([o for cell in range(lo, hi) for o in written(step, cell)])
    answer = changed(step, lo, hi)
    if step.reach + 1 >= step.stride:
        assert answer == truth
    elif truth is not None:  # between the cells of a small kernel nothing changes: it may be recomputed
        assert answer is not None and answer[0] <= truth[0] and truth[1] <= answer[1]


@given(spread_maps(), st.data())
def test_a_spread_reads_what_is_written_to_a_box(step, data):
    lo = data.draw(st.integers(0, step.n_out - 1))
    extent = data.draw(st.integers(1, step.n_out - lo))
    first = int(step.first_read(np.array([lo]))[0])
    read = range(first, first + step.extent_read(extent))
    assert all(
        cell in read
        for cell in range(step.n_in)
        if not set(range(lo, lo + extent)).isdisjoint(written(step, cell))
    )
    start = int(step.first_written(np.array([first]))[0])
    assert start <= lo and lo + extent <= start + step.extent_written(len(read))


@given(span_maps(), st.data())
def test_a_spans_changes_are_bounded_exactly(step, data):
    lo, hi = data.draw(intervals(step.n_in))
    assert changed(step, lo, hi) == bounds(readers(step, lo, hi))


@given(span_maps(), st.data())
def test_a_span_reads_one_interval(step, data):
    extent, read, first = drawn_box(step, data)
    assert first == read.min() and read.max() < first + step.extent_read(extent)
    spans = [list(range(a, b)) for a, b in zip(step.first, step.end, strict=True)]
    assert [sorted(set(row)) for row in step.sources(np.arange(step.n_out)).tolist()] == spans
    assert step.is_identity() == (spans == [[i] for i in range(step.n_in)])


# --- rearrangements -----------------------------------------------------------------------------------


@given(index_maps(), st.data())
def test_an_index_maps_changes_are_bounded_exactly(step, data):
    lo, hi = data.draw(intervals(step.n_in))
    assert changed(step, lo, hi) == bounds(readers(step, lo, hi))


@given(index_maps())
def test_an_index_map_reads_its_sources(step):
    assert step.n_out == len(step.source)
    assert tuple(step.sources(np.arange(step.n_out)).ravel()) == step.source
    assert step.is_identity() == (step.source == tuple(range(step.n_in)))


# --- unions and slides --------------------------------------------------------------------------------


@given(st.lists(intervals(12), min_size=1, max_size=4))
def test_a_union_bounds_what_is_not_empty(pairs):
    lo, hi = union([(np.array([a]), np.array([b])) for a, b in pairs])
    expected = bounds([cell for a, b in pairs for cell in range(a, b)])
    assert ((int(lo[0]), int(hi[0])) if hi[0] > lo[0] else None) == expected


@given(st.integers(1, 12), st.data())
def test_a_box_slides_inwards_and_still_holds_its_cells(n, data):
    extent = data.draw(st.integers(1, n))
    length = data.draw(st.integers(1, extent))
    lo = data.draw(st.integers(0, n - length))
    start = int(slide_inwards(np.array([lo]), extent, n)[0])
    assert 0 <= start <= lo
    assert lo + length <= start + extent <= n
