"""A plan as people read it: expected cost of every layer, cost that a run measured, and the totals."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from krypton_engine.perturbation.positions import Positions
from krypton_engine.plan.measured import Measured
from krypton_engine.plan.steps import Step

WIDTH = 80
"""Columns of a plan as text: those of the narrowest usual terminal."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Column(Generic[Item]):
    """A column of a table.

    Attributes:
        heading: Lines of the heading, top to bottom.
        width: Characters; negative for text that begins at the left.
        cell: Function that gives the text for an item.
        rank: Order in which a narrow terminal drops the columns of the table: the highest first.
    """

    heading: tuple[str, ...]
    width: int
    cell: Callable[[Item], str]
    rank: int = 0

    def placed(self, text: str) -> str:
        """A text in its place."""
        return text.ljust(-self.width) if self.width < 0 else text.rjust(self.width)


def _lines(columns: Sequence[_Column[Item]], items: Sequence[Item], width: int) -> list[str]:
    """A table of items, of as many columns as fit."""
    kept = list(columns)
    while len(kept) > 1 and sum(abs(column.width) + 1 for column in kept) - 1 > width:
        kept.remove(max(kept, key=lambda column: column.rank))
    rows = [[column.heading[i] for column in kept] for i in range(len(kept[0].heading))]
    rows += [[column.cell(item) for column in kept] for item in items]
    return [
        " ".join(column.placed(text) for column, text in zip(kept, row, strict=True)).rstrip() for row in rows
    ]


def listing(window: Positions, steps: Sequence[Step], output: int, width: int) -> list[str]:
    """Lines of text: the window, and a table of all steps that compute.

    Args:
        window: The positions.
        steps: Every step of the plan.
        output: Number of the operator that gives the result, which is listed in any case.
        width: Characters of a line; columns that do not fit are left out.

    Examples:
        >>> listing(plan.window, plan.steps, plan.output, width=60)[0]
        'window 3x8x8, stride 3x4x4, input 3x24x20: 20 positions'
    """
    listed = [step for step in steps if step.macs or step.reason or step.index == output]
    columns: list[_Column[Step]] = [
        _Column(("step",), -18, lambda step: _last(step.name, 18)),
        _Column(("operator",), -13, lambda step: step.op[:13], 2),
        _Column(("output",), 13, lambda step: _by(step.shape[1:]), 4),
        _Column(("largest box",), 11, lambda step: _by(step.box) if step.box else "full", 1),
        _Column(("MMACs",), 9, lambda step: f"{step.macs / 1e6:.2f}", 3),
        _Column(("incremental",), 11, lambda step: f"{step.macs_incremental / 1e6:.2f}"),
    ]
    head, *rows = _lines(columns, listed, width)
    lines = [*_indented("", window.describe(), width), "", head]
    for step, row in zip(listed, rows, strict=True):
        lines.append(row)
        if step.reason:
            lines += _indented("    ", f"full from here: {step.reason}", width)
    skipped = len(steps) - len(listed)
    return [*lines, *_indented("", f"({skipped} steps that only touch elements are not listed)", width)]


def totals(named: Iterable[tuple[str, str]], width: int) -> list[str]:
    """Lines of text: the name of each total, and beside it the words for it, wrapped.

    Examples:
        >>> totals([("views", "3 MiB")], width=40)
        ['views                  3 MiB']
    """
    return [line for name, words in named for line in _indented(f"{name:23}", words, width)]


@dataclass(frozen=True)
class _Line:
    """Steps of a plan that are one line of its analysis: one that computes, and those on its result.

    Attributes:
        first: The step that names it.
        expected: Share of the expected time.
        measured: Share of the measured time.
        seconds: Measured seconds of one position.
        boxes: Share of the value's cells, expected and measured; None where no box was computed.
    """

    first: Step
    expected: float
    measured: float
    seconds: float
    boxes: tuple[float, float] | None

    @property
    def name(self) -> str:
        """The model's own name of the step."""
        return "input" if self.first.op == "input" else self.first.name

    @property
    def ratio(self) -> float:
        """Measured over expected time."""
        return self.measured / self.expected if self.expected else 1.0


def analysis(steps: Sequence[Step], measured: Measured, positions: int, width: int) -> list[str]:
    """Lines of text: the measured time and cells of every step, beside the expected ones.

    Args:
        steps: Every step of the plan.
        measured: A run of the plan.
        positions: Positions of the window.
        width: Characters of a line; columns that do not fit are left out.

    Examples:
        >>> from krypton_engine.plan.measured import Cost, Measured
        >>> measured = Measured(20, 0.5, {7: Cost(0.1), 10: Cost(0.3)})
        >>> for line in analysis(plan.steps, measured, 20, width=80)[:2]:
        ...     print(line)
        measured               20 of 20 positions in 0.50 s
        steps                  0.40 s, all threads together
    """
    ran = f"{measured.positions} of {positions} positions in {measured.seconds:.2f} s"
    if not measured.costs:
        return totals([("measured", ran), ("", "(this executor does not time single steps)")], width)
    total = sum(cost.seconds for cost in measured.costs.values())
    lines = totals([("measured", ran), ("steps", f"{total:.2f} s, all threads together")], width)
    columns: list[_Column[_Line]] = [
        _Column(("", "step"), -18, lambda line: _last(line.name, 18)),
        _Column(("", "operator"), -10, lambda line: line.first.op[:10], 4),
        _Column(("time", "expected"), 8, lambda line: f"{line.expected:.1%}", 1),
        _Column(("", "measured"), 8, lambda line: f"{line.measured:.1%}"),
        _Column(("", "ratio"), 5, lambda line: f"{line.ratio:.1f}"),
        _Column(("µs a", "position"), 8, lambda line: f"{line.seconds * 1e6:.1f}", 5),
        _Column(("cells", "expected"), 8, lambda line: f"{line.boxes[0]:.1%}" if line.boxes else "", 3),
        _Column(("", "measured"), 8, lambda line: f"{line.boxes[1]:.1%}" if line.boxes else "", 2),
    ]
    found = _measured_lines(steps, measured)
    worst = max(found, key=lambda line: line.measured - line.expected)
    return [
        *lines,
        "",
        *_lines(columns, found, width),
        *_indented("", "(shares; a line includes the steps up to the next line)", width),
        *_indented(
            "",
            f"furthest above its expected share: {worst.name}, {worst.measured:.1%} of the time "
            f"instead of {worst.expected:.1%}",
            width,
        ),
    ]


def _measured_lines(steps: Sequence[Step], measured: Measured) -> list[_Line]:
    """The lines of an analysis; each begins where a step multiplies, or has another grid of cells."""
    groups: list[list[Step]] = []
    for step in steps:
        if not groups or step.macs or step.cells != groups[-1][-1].cells:
            groups.append([])
        groups[-1].append(step)
    work = sum(step.work for step in steps)
    total = sum(cost.seconds for cost in measured.costs.values())
    positions = max(measured.positions, 1)
    lines = []
    for group in groups:
        costs = [(step, measured.costs[step.index]) for step in group if step.index in measured.costs]
        took = sum(cost.seconds for _, cost in costs)
        boxes = [(step.share, cost.cells / positions / step.cells) for step, cost in costs if cost.cells]
        expected = sum(step.work for step in group) / work
        share = took / total if total else 0.0
        lines.append(_Line(group[0], expected, share, took / positions, boxes[0] if boxes else None))
    return lines


def _indented(head: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(head + text, width, subsequent_indent=" " * len(head), break_long_words=False)


def _last(name: str, length: int) -> str:
    return name if len(name) <= length else "…" + name[1 - length :]


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
