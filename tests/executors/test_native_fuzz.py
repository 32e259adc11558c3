"""The C++ engine called wrongly: every misuse is a ValueError or a TypeError, and nothing crashes."""

from __future__ import annotations

import math
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from krypton_engine.executors.native import engine

pytestmark = pytest.mark.skipif(
    bool(engine.MISSING) and "KRYPTON_REQUIRE_NATIVE" not in os.environ, reason=engine.MISSING
)
_native = engine._native

DEPTH, HEIGHT, WIDTH, CHANNELS = 4, 9, 7, 5
SIZES = (DEPTH, HEIGHT, WIDTH)
PLAIN = (-math.inf, math.inf, "identity", 0.0)
RELU = (0.0, math.inf, "identity", 0.0)
SAME = [(n, n, 3, 1, 1, 1) for n in SIZES]
# Numbers at which something may go wrong.
numbers = st.sampled_from([0, 1, 2, 3, 5, 7, 9, 10, 16, 1 << 20, 1 << 31, 1 << 62, -1, -3, -(1 << 62)])


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def small_program(isa: str = "") -> Any:
    """Values: 0 the input, 1 a convolution of 4 channels, 2 its pooling. Layers: 0 their mean,
    1 ten numbers."""
    program = _native.Program(isa, SIZES, CHANNELS)
    program.convolution([0], SAME, 1, floats(4, CHANNELS, 3, 3, 3), floats(4), RELU)
    windows = [(DEPTH, 2, 2, 2, 0, 1), (HEIGHT, 4, 3, 2, 0, 1), (WIDTH, 3, 3, 2, 0, 1)]
    program.pool(1, windows, 4, None, PLAIN)
    program.mean(2, PLAIN)
    program.dense(0, floats(10, 4), None, PLAIN)
    return program


def gated_program() -> Any:
    """After the values of the small program: 3 the moments of value 1, 4 its norm, 5 the mean of value 1."""
    program = small_program()
    assert program.moments(1, True) == 3
    assert program.norm(3, 4, 2, 1e-5, None, None) == 4
    assert program.moments(1, False) == 5
    return program


def whole(count: int) -> np.ndarray:
    return np.array([SIZES, SIZES, (2, 4, 3)][:count], dtype=np.int64)


def small_session(threads: int = 2, isa: str = "") -> Any:
    x = floats(*SIZES, CHANNELS)
    return _native.Session(small_program(isa), whole(3), [1, 2], x, np.zeros_like(x), threads, [])


def boxes(count: int) -> np.ndarray:
    random = np.random.default_rng(1)
    ends = [np.sort(random.integers(0, n + 1, (count, 2)), 1) for n in (CHANNELS, *SIZES)]
    return np.stack(ends, 1).reshape(count, 8)


def outputs(session: Any, count: int = 20) -> np.ndarray:
    out = np.full((count, 10), np.nan, dtype=np.float32)
    assert session.run(boxes(count), None, [], [(1, out)])
    return out


def refused(call: Any, *args: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        call(*args)


def replaced(args: list[Any], index: int, value: Any) -> list[Any]:
    return [value if i == index else arg for i, arg in enumerate(args)]


# Good arguments of every method, and for each some that are wrong.
WRONG_FLOATS = [
    floats(3),
    floats(1, 2, 3, 4, 5, 6),
    floats(40, 40).T,
    floats(4).astype(np.float64),
    "four",
    3,
]
WRONG_OPERANDS = [[], [-1], [3], [99], [0, 1, 2], [1 << 40], ["a"], None]
WRONG_END = [(0.0, 1.0, "sine", 0.0), (math.nan, 1.0, "identity", 0.0), (0.0, 1.0), None]
WRONG_WINDOW = [
    (8, 9, 3, 1, 1, 1), (9, 0, 3, 1, 1, 1), (9, 9, 0, 1, 1, 1), (9, 9, 3, 0, 1, 1), (9, 9, 3, 1, -1, 1),
    (9, 9, 3, 1, 1, 0), (9, 900, 3, 1, 1, 1), (9, 9, 3, 1, 1, 20), (-9, -9, 3, 1, 1, 1), (9, 9, 3, 1, 1),
    (1 << 62, 1 << 62, 3, 1, 1 << 62, 1), (9, 1 << 40, 3, 1, 1 << 40, 1),
]  # fmt: skip
WRONG_WINDOWS = [None, SAME[:2], SAME[0], *([SAME[0], wrong, SAME[2]] for wrong in WRONG_WINDOW)]
WRONG_SIZES = [
    None, 3, SIZES[1:], (*SIZES, 1), *(
        (*SIZES[:axis], n, *SIZES[axis + 1:]) for axis in range(3) for n in (0, -1, 8, 10, 1 << 62)
    ),
]  # fmt: skip
# First cells reached, their ends, cells read and how many: every output of a side twice as long reads two.
TWICE = (
    [max(0, 2 * i - 2) for i in range(HEIGHT)],
    [2 * i + 2 for i in range(HEIGHT)],
    [min(o // 2, HEIGHT - 2) for o in range(18)],
    [o // 2 + 3 for o in range(18)],
)
HALVES = np.tile(np.float32([[0.75, 0.25]]), (18, 1))
METHODS: dict[str, tuple[list[Any], dict[int, list[Any]]]] = {
    "convolution": (
        [[0], SAME, 1, floats(4, CHANNELS, 3, 3, 3), floats(4), PLAIN],
        {
            0: [*WRONG_OPERANDS, [1], [0, 0], [0, 2]],
            1: WRONG_WINDOWS,
            2: [0, -1, 2, 3, 1 << 62],
            3: [*WRONG_FLOATS, floats(4, CHANNELS, 3, 3, 2), floats(4, CHANNELS, 2, 3, 3),
                floats(4, CHANNELS + 1, 3, 3, 3), floats(0, CHANNELS, 3, 3, 3)],
            4: [*WRONG_FLOATS[1:], floats(5), floats(0)],
            5: WRONG_END,
        },
    ),
    "pool": (
        [0, SAME, CHANNELS, [[1.0] * n for n in SIZES], PLAIN],
        {
            0: [-1, 3, 1, 2, "a", None],
            1: WRONG_WINDOWS,
            2: [0, -1, 4, 6, 1 << 40],
            3: [[[1.0]] * 3, [[]] * 3, [[0.0] * n for n in SIZES], 3, [[math.nan] * n for n in SIZES],
                [[1.0] * n for n in SIZES[1:]]],
            4: [*WRONG_END, (0.0, 1.0, "identity", 0.0)],
        },
    ),
    "combine": (
        ["add", [0, 0], SIZES, CHANNELS, floats(CHANNELS), floats(CHANNELS), PLAIN],
        {
            0: ["", "modulo", None],
            1: [*WRONG_OPERANDS, [0, 1], [0, 2], [1]],
            2: WRONG_SIZES,
            3: [0, -1, 4, 6],
            4: [None, *WRONG_FLOATS],
            5: [None, *WRONG_FLOATS],
            6: WRONG_END,
        },
    ),
    "prelu": (
        [0, floats(CHANNELS), PLAIN],
        {0: [-1, 1, 3, 99, "a", None], 1: [None, *WRONG_FLOATS], 2: WRONG_END},
    ),
    "foreign": (
        [[0, 1], SIZES, CHANNELS, lambda given, out: None, 4],
        {
            0: WRONG_OPERANDS,
            1: WRONG_SIZES,
            2: [0, -1, 1 << 40],
            3: [None, "a"],
            4: [-1, 1 << 50, None],
        },
    ),
    "resample": (
        [0, (DEPTH, 18, WIDTH), [None, TWICE, None], [None, HALVES, None]],
        {
            0: [-1, 3, 99, "a", None],
            1: [*WRONG_SIZES, (DEPTH, 17, WIDTH), (DEPTH, 19, WIDTH), (DEPTH, 18, WIDTH + 1)],
            2: [None, [TWICE] * 3, [TWICE], *(
                [None, table, None] for table in (
                    None, TWICE[:3], (*TWICE[:3], [1] * 18), ([0] * 3, *TWICE[1:]),
                    ([-1] * HEIGHT, *TWICE[1:]), (TWICE[0], [99] * HEIGHT, *TWICE[2:]),
                    (*TWICE[:2], TWICE[2][::-1], TWICE[3]))
                )],
            3: [None, [HALVES] * 3, [None, HALVES, floats(WIDTH, 1)], *(
                [None, table, None] for table in (
                    None, floats(18, 3) + 1, floats(17, 2), floats(18, 0), *WRONG_FLOATS)
                )],
        },
    ),
    "interleave": (
        [1, (1, 2, 1), True],
        {
            0: [-1, 3, 99, "a", None],
            1: [None, (2, 1), (0, 2, 1), (1, -1, 1), (3, 1, 1), (1, 2, 4), (1, 1 << 62, 1), (1, 1, 1 << 40)],
            2: [None, "a"],
        },
    ),
    "concat": (
        [[0, 1], [(0, 2), (1, 4)], SIZES, floats(5), floats(5), PLAIN],
        {
            0: [*WRONG_OPERANDS, [0, 2]],
            1: [[], [(0, 2)], [(0, 2), (1, 5)], [(-1, 2), (1, 4)], [(2, 0), (1, 4)], [(0, 0), (1, 1)]],
            2: WRONG_SIZES,
            3: [None, *WRONG_FLOATS],
            5: WRONG_END,
        },
    ),
    "reindex": (
        [0, ([1, 1], [0, 1, -1], [6, 0]), CHANNELS, 0.0, PLAIN],
        {
            0: [-1, 3, 1, "a"],
            1: [None, ([0], [0]), *((bad, [0], [0]) for bad in ([], [4], [-2], ["a"], [1 << 62])),
                ([0], [9], [0]), ([0], [0], [7]), ([0], [0], [])],
            2: [0, -1, 4, 6],
            3: ["a", None],
            4: [*WRONG_END, (0.0, 1.0, "identity", 0.0)],
        },
    ),
    "layer_norm": (
        [0, SIZES, CHANNELS, 1e-5, floats(CHANNELS), floats(CHANNELS), PLAIN],
        {
            0: [-1, 3, 1, 2],
            1: WRONG_SIZES,
            2: [0, -1, 4, 6],
            3: [-1.0, math.nan, "a"],
            4: WRONG_FLOATS,
            5: WRONG_FLOATS,
            6: [*WRONG_END, (0.0, 1.0, "identity", 0.0)],
        },
    ),
    "mean": ([1, PLAIN], {0: [-1, 3, 99, "a"], 1: WRONG_END}),
    "sum": ([1, PLAIN], {0: [-1, 3, 99, "a"], 1: WRONG_END}),
    "cells": (
        [2, floats(6, 96), floats(6), PLAIN],
        {0: [-1, 3, 0, 1], 1: [*WRONG_FLOATS, floats(6, 95), floats(0, 96)], 2: WRONG_FLOATS, 3: WRONG_END},
    ),
    "dense": (
        [1, floats(6, 10), floats(6), PLAIN],
        {0: [-1, 2, 99], 1: [*WRONG_FLOATS, floats(6, 9), floats(0, 10)], 2: WRONG_FLOATS, 3: WRONG_END},
    ),
    "constant": ([floats(1, 2, 3, 4)], {0: [*WRONG_FLOATS, floats(0, 2, 3, 4), floats(1, 2, 3, 0)]}),
    "run_bytes": (
        [whole(3), [1], 2, 10],
        {0: [whole(2), whole(3) + 1, -whole(3), whole(3).astype(np.int32)], 1: [[-1], [3]], 2: [0, -1],
        3: [-1]},
    ),
}  # fmt: skip
WRONG = [
    (name, index, i) for name, (_, bad) in METHODS.items() for index in bad for i in range(len(bad[index]))
]


def test_methods_take_what_is_right():
    for name, (args, _) in METHODS.items():
        assert getattr(small_program(), name)(*args) >= 0, name


@pytest.mark.parametrize("name", METHODS)
def test_methods_refuse_what_is_wrong(name):
    args, wrong = METHODS[name]
    for index, values in wrong.items():
        for value in values:
            program = small_program()
            before = program.weight_bytes
            try:
                refused(getattr(program, name), *replaced(args, index, value))
            except pytest.fail.Exception:
                pytest.fail(f"{name} took {value!r} as its argument {index}")
            assert program.weight_bytes == before  # nothing was half added
            program.mean(2, PLAIN)  # and the program goes on


# The same on the program with global values.
GATED: dict[str, tuple[list[Any], dict[int, list[Any]]]] = {
    "moments": ([1, True], {0: [-1, 6, 99, "a", None], 1: [None, "a"]}),
    "euclidean_norm": ([1], {0: [-1, 6, 99, "a", None]}),
    "largest": ([1], {0: [-1, 6, 99, "a", None]}),
    "norm": (
        [3, 4, 2, 1e-5, floats(4), floats(4)],
        {
            0: [-1, 1, 4 + 2, 5, 99],
            1: [0, -1, 20, 1 << 40, 1 << 62],
            2: [0, 3, -1, 1 << 62],
            3: [-1.0, math.nan, "a"],
            4: WRONG_FLOATS,
            5: [*WRONG_FLOATS, floats(5)],
        },
    ),
    "meet": (
        [1, 5, "factor", floats(4), floats(4), True, RELU],
        {
            0: [-1, 0, 5, 6, None],
            1: [-1, 1, 2, 4, 99],
            2: ["", "both", "gate", None],
            3: [None, *WRONG_FLOATS, floats(5)],
            4: [None, *WRONG_FLOATS, floats(5)],
            5: [None, "a"],
            6: WRONG_END,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GATED)
def test_global_values_refuse_what_is_wrong(name):
    args, wrong = GATED[name]
    assert getattr(gated_program(), name)(*args) == 6
    for index, values in wrong.items():
        for value in values:
            try:
                refused(getattr(gated_program(), name), *replaced(args, index, value))
            except pytest.fail.Exception:
                pytest.fail(f"{name} took {value!r} as its argument {index}")


def test_gradients_are_those_of_what_meets_a_global_value():
    x = floats(*SIZES, CHANNELS)
    program = gated_program()
    assert program.meet(1, 4, "both", None, None, False, RELU) == 6
    gradient = floats(*SIZES, 4)
    extents = np.array([*whole(3), *[(1, 1, 1)] * 3, SIZES], dtype=np.int64)
    good = [program, extents, [6], x, np.zeros_like(x), 2, [], [(6, gradient)]]
    for wrong in (None, 3, [(1, gradient)], [(3, gradient)], [(99, gradient)], [(6, gradient[1:])], [(6,)]):
        refused(_native.Session, *replaced(good, 7, wrong))
    session = _native.Session(*good)
    out, effects = np.empty((20, *SIZES, 4), dtype=np.float32), np.empty(20)
    assert session.run(boxes(20), effects, [(6, np.zeros((20, 3), dtype=np.int64), out)], [])
    assert np.isfinite(out).all() and np.isfinite(effects).all() and effects.any()


def test_programs_refuse_what_is_wrong():
    for sizes in [(0, 1, 1), (1, -1, 1), (1, 1, 0), (1 << 40, 1, 1), (1 << 20,) * 3, (1, 1), 1, None]:
        refused(_native.Program, "", sizes, 1)
    for channels in (0, -1, 1 << 40):
        refused(_native.Program, "", (1, 1, 1), channels)
    refused(_native.Program, "abacus", (1, 1, 1), 1)


# Mostly right, so that many are taken.
windows = [
    st.tuples(st.just(n), st.integers(1, n + 4), st.integers(1, 5), *[st.integers(lo, 4) for lo in (1, 0, 1)])
    for n in SIZES
]


@given(windows[0], st.one_of(windows[1], st.tuples(*[numbers] * 6)), windows[2], st.integers(1, 2))
@example((4, 4, 3, 1, 1, 1), (9, 9, 3, 1, 1, 1), (7, 3, 3, 2, 0, 1), 1)
@example((4, 2, 3, 2, 1, 1), (9, 5, 2, 2, 0, 1), (7, 4, 2, 2, 0, 1), 1)
def test_any_window(depth, rows, columns, groups):
    """What is taken runs; what is refused is a ValueError."""
    program = small_program()
    if not 0 < rows[2] < 1 << 10:
        return
    weight = floats(4, CHANNELS, depth[2], rows[2], columns[2])
    try:
        value = program.convolution([0], [depth, rows, columns], groups, weight, None, PLAIN)
    except ValueError:
        return
    if depth[1] * rows[1] * columns[1] > 1 << 16:
        return  # right, but it would take a long time
    program.mean(value, PLAIN)
    extents = np.array([*whole(3), (depth[1], rows[1], columns[1])], dtype=np.int64)
    x = floats(*SIZES, CHANNELS)
    session = _native.Session(program, extents, [], x, x, 1, [])
    out = np.empty((3, 4), dtype=np.float32)
    assert session.run(boxes(3), None, [], [(2, out)])
    assert np.isfinite(out).all()


def test_sessions_refuse_what_is_wrong():
    x = floats(*SIZES, CHANNELS)
    good = [small_program(), whole(3), [1], x, x, 2, [(1, 0.5, floats(*SIZES, 4)), (2, 0.0, None)]]
    wrong: dict[int, list[Any]] = {
        0: [None, 3],
        1: [whole(2), whole(3) + 1, -whole(3), whole(3).astype(np.int32), whole(3).T, np.zeros((3, 3))],
        2: [[-1], [3], [1 << 40], None],
        3: [*WRONG_FLOATS, x[:-1], x.astype(np.float64), x.transpose(0, 2, 1, 3), x[..., :4], x[0], None],
        4: [*WRONG_FLOATS, x[:, :-1], x[::2]],
        5: [0, -1, 1 << 40, "two"],
        6: [
            None, *([(v, 0.5, None)] for v in (-1, 0, 3, 99)), [(1, -1.0, None)], [(1, math.nan, None)],
            [(1, 0.5)], *([(1, 0.5, g)] for g in WRONG_FLOATS), [(1, 0.5, floats(*SIZES, 5))],
        ],
    }  # fmt: skip
    for index, values in wrong.items():
        for value in values:
            refused(_native.Session, *replaced(good, index, value))
    _native.Session(*good)


def test_a_program_does_not_grow_under_its_session():
    program = small_program()
    x = floats(*SIZES, CHANNELS)
    _native.Session(program, whole(3), [], x, x, 1, [])
    for name, (args, _) in METHODS.items():
        if name != "run_bytes":
            with pytest.raises(ValueError, match="grow"):
                getattr(program, name)(*args)


def test_constants_are_not_what_a_session_keeps():
    program = small_program()
    constant = program.constant(floats(1, 2, 2, 2))
    refused(program.mean, constant, PLAIN)
    refused(program.cells, constant, floats(3, 8), None, PLAIN)
    x, extents = floats(*SIZES, CHANNELS), np.array([*whole(3), (0, 0, 0)], dtype=np.int64)
    refused(_native.Session, program, extents, [constant], x, x, 1, [])
    _native.Session(program, extents, [1], x, x, 1, [])


def test_runs_refuse_what_is_wrong():
    session = small_session()
    n = 4
    corners = np.zeros((n, 3), dtype=np.int64)
    value, rows = np.empty((n, 3, 2, 2, 4), dtype=np.float32), np.empty((n, 10), dtype=np.float32)
    good = [boxes(n), np.zeros(n), [(1, corners, value)], [(1, rows)]]
    assert session.run(*good)
    bad_boxes = []
    for column, bad in [
        (0, -1),
        (1, 6),
        (2, -1),
        (3, 5),
        (4, -1),
        (5, 10),
        (6, -1),
        (7, 8),
        (0, 6),
        (2, 1 << 62),
        (1, -(1 << 62)),
    ]:
        bad_boxes.append(boxes(n))
        bad_boxes[-1][2, column] = bad
    reversed_channels = boxes(n)
    reversed_channels[1] = [3, 1, 0, 2, 0, 2, 0, 2]
    read_only = value.copy()
    read_only.flags.writeable = False
    wrong: dict[int, list[Any]] = {
        0: [*bad_boxes, reversed_channels, boxes(n)[:, :6], boxes(n).astype(np.float64), boxes(n)[::-1],
             boxes(3)],
        1: [np.zeros(n - 1), np.zeros((n, 1)), np.zeros(n, dtype=np.float32), np.zeros(2 * n)[::2], 3],
        2: [
            *([(v, corners, value)] for v in (-1, 0, 3, 99)),  # 0 exists, but the session does not keep it
            *([(1, corners + c, value)] for c in (-1, 8, (1 << 63) - 1)),
            [(1, corners[:3], value)], [(1, corners.astype(np.int32), value)], [(1, corners, value[:3])],
            [(1, corners, np.empty((n, 3, 10, 2, 4), dtype=np.float32))],
            [(1, corners[:, :2], value)], [(1, corners, value[:, 0])],
            [(1, corners, value.astype(np.float64))],
            [(1, corners, value.transpose(0, 1, 3, 2, 4)[..., ::-1])], [(1, corners, rows)], [(1, corners)],
            [(1, corners, read_only)],
        ],
        3: [
            *([(layer, rows)] for layer in (-1, 2, 99)), [(0, rows)], [(1, rows[:3])],
            [(1, rows.astype(np.float64))],
            [(1, np.empty((10, n), dtype=np.float32).T)], [(1, value)],
        ],
    }  # fmt: skip
    for index, values in wrong.items():
        for i, bad in enumerate(values):
            try:
                refused(session.run, *replaced(good, index, bad))
            except pytest.fail.Exception:
                pytest.fail(f"run took wrong argument {i} in place of its argument {index}")
    one = np.zeros((1, 3), dtype=np.int64)
    for shape in [(1, 5, 9, 7, 4), (1, 4, 10, 7, 4), (1, 4, 9, 8, 4), (1, 4, 9, 7, 5), (2, 4, 9, 7, 4)]:
        refused(session.base, [(1, one, np.empty(shape, dtype=np.float32))], [])
    assert session.run(*good)


@pytest.mark.parametrize("value", range(3))
@pytest.mark.parametrize("axis", range(3))
def test_extents_that_are_too_small(value, axis):
    extents = whole(3)
    extents[value, axis] -= 1
    x = floats(*SIZES, CHANNELS)
    session = _native.Session(small_program(), extents, [], x, x, 2, [])
    everything = np.array([[0, CHANNELS, 0, DEPTH, 0, HEIGHT, 0, WIDTH]] * 5, dtype=np.int64)
    with pytest.raises(ValueError, match="larger than was planned"):
        session.run(everything, None, [], [])


@given(st.lists(st.tuples(*[numbers] * 8), max_size=6))
def test_any_box(rows):
    session = small_session(1)
    out = np.full((len(rows), 10), np.nan, dtype=np.float32)
    try:
        found = np.array(rows, dtype=np.int64).reshape(-1, 8)
        assert session.run(found, None, [], [(1, out)])
    except ValueError:
        return
    assert np.isfinite(out).all()


def test_tables_by_name_agree():
    names = _native.instruction_sets()
    assert names[-1] == "portable"
    results = [outputs(small_session(isa=name)) for name in names]
    for result in results:
        np.testing.assert_allclose(result, results[0], rtol=1e-4, atol=1e-5)


# -- threads and processes -----------------------------------------------------------------------------


def _in_child(session: Any, expected: np.ndarray) -> None:
    same = (outputs(session) == expected).all() and (outputs(small_session()) == expected).all()
    os._exit(0 if same else 1)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_runs_on():
    """Threads do not survive a fork; the engine makes its own for every call."""
    session = small_session()
    expected = outputs(session)
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(session, expected))
    child.start()
    child.join(60)
    assert child.exitcode == 0


def test_sessions_at_once():
    """Several threads on a session of each, and on one that they share."""
    shared = small_session()
    expected = outputs(shared, 200)
    wrong: list[int] = []

    def work(i: int) -> None:
        mine = shared if i % 2 else small_session()
        wrong.extend(i for _ in range(20) if (outputs(mine, 200) != expected).any())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not wrong


def test_cancelled_by_another_thread():
    size, layers = 64, 6
    program = _native.Program("", (1, size, size), 16)
    windows = [(1, 1, 1, 1, 0, 1), *[(size, size, 3, 1, 1, 1)] * 2]
    for value in range(layers):
        program.convolution([value], windows, 1, 0.1 * floats(16, 16, 1, 3, 3), None, PLAIN)
    x = floats(1, size, size, 16)
    extents = np.array([(1, size, size)] * (layers + 1), dtype=np.int64)
    session = _native.Session(program, extents, [], x, x, 2, [])
    many = np.array([[0, 16, 0, 1, 0, size, 0, size]] * 100_000, dtype=np.int64)
    timer = threading.Timer(0.2, session.cancel)
    start = time.perf_counter()
    timer.start()
    assert session.run(many, None, [], []) is False
    assert time.perf_counter() - start < 5


def test_threads_that_cannot_be_made():
    """They are an error: not the end of the process, nor others waiting for them."""
    code = """
import importlib.util, resource, sys
import numpy as np
spec = importlib.util.spec_from_file_location("_native", sys.argv[1])
native = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)
program = native.Program("", (1, 8, 8), 4)
program.mean(0, (0.0, 1.0, "identity", 0.0))
x, extents = np.ones((1, 8, 8, 4), dtype=np.float32), np.array([[1, 8, 8]])
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 28),) * 2)
try:
    native.Session(program, extents, [], x, x, 500, [])
except (RuntimeError, MemoryError):
    native.Session(program, extents, [], x, x, 1, [])
    print("refused")
"""
    run = [sys.executable, "-c", code, _native.__file__]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert done.stdout == "refused\n", done.stderr
