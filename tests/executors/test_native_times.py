"""What a session of the C++ engine says that its runs cost."""

from __future__ import annotations

import os

import numpy as np
import pytest

from krypton_engine.executors.native import engine

pytestmark = pytest.mark.skipif(
    bool(engine.MISSING) and "KRYPTON_REQUIRE_NATIVE" not in os.environ, reason=engine.MISSING
)

IDENTITY = (-float("inf"), float("inf"), "identity", 0.0)
POSITIONS = 5


@pytest.fixture
def session():
    """A convolution of 3x3 over 8x8 cells and its mean; every position changes 2x2 cells of the input."""
    program = engine._native.Program("", (1, 8, 8), 3)
    window = (8, 8, 3, 1, 1, 1)
    weight = np.ones((4, 3, 1, 3, 3), np.float32)
    convolved = program.convolution([0], [(1, 1, 1, 1, 0, 1), window, window], 1, weight, None, IDENTITY)
    program.mean(convolved, IDENTITY)
    extents = np.array([[1, 2, 2], [1, 4, 4]])
    x = np.arange(8 * 8 * 3, dtype=np.float32).reshape(1, 8, 8, 3)
    return engine._native.Session(program, extents, [], x, np.zeros_like(x), 2, [])


def run(session):
    out = np.empty((POSITIONS, 4), np.float32)
    assert session.run(np.array([[0, 3, 0, 1, 2, 4, 2, 4]] * POSITIONS), None, [], [(0, out)])
    return out


def test_nothing_is_measured_unless_asked(session):
    run(session)
    assert not session.timed
    assert session.times() == ([], [])


def test_cells_and_seconds_by_value_and_layer(session):
    plain = run(session)
    session.timed = True
    measured = run(session)
    np.testing.assert_array_equal(measured, plain)
    values, layers = session.times()
    assert [cells for _, cells in values] == [POSITIONS * 2 * 2, POSITIONS * 4 * 4]
    assert [cells for _, cells in layers] == [POSITIONS * 4 * 4]
    assert all(seconds > 0 for seconds, _ in values + layers)

    run(session)
    assert session.times()[0][1][1] == 2 * POSITIONS * 4 * 4, "runs add up"
    session.timed = False
    before = session.times()
    run(session)
    assert session.times() == before, "what was measured stays, and nothing is added"
    session.timed = True
    assert [cells for _, cells in session.times()[0]] == [0, 0], "and begins anew"
