"""A plan as people read it: expected cost of every layer, cost that a run measured, and the totals."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from krypton_engine.plan.measured import Measured
    from krypton_engine.plan.plan import Plan
    from krypton_engine.plan.steps import Step

WIDTH = 80
"""Columns of a plan as text: those of the narrowest usual terminal."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Column(Generic[Item]):
    """A column of a table.

    Attributes:
        heading: Its lines of heading, top to bottom.
        width: Characters; negative for text that begins at the left.
        cell: Its text for an item.
        rank: Among the columns of its table, as a narrow terminal drops them: the highest first.
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


def table(plan: Plan, width: int = WIDTH) -> str:
    r"""A plan as text: one line for every step that computes, the totals, and the times that were measured.

    Args:
        plan: The plan.
        width: Characters of a line; columns that do not fit are left out.

    Examples:
        >>> print("\n".join(table(plan, width=44).splitlines()[:6]))
        window 3x8x8, stride 3x4x4, input 3x24x20:
        20 positions
        <BLANKLINE>
        step               largest box incremental
        0                        10x10        0.02
        3                          8x8        0.03
    """
    window = plan.window
    listed = [step for step in plan.steps if step.macs or step.reason or step.index == plan.output]
    steps: list[_Column[Step]] = [
        _Column(("step",), -18, lambda step: _last(step.name, 18)),
        _Column(("operator",), -13, lambda step: step.op[:13], 2),
        _Column(("output",), 13, lambda step: _by(step.shape[1:]), 4),
        _Column(("largest box",), 11, lambda step: _by(step.box) if step.box else "full", 1),
        _Column(("MMACs",), 9, lambda step: f"{step.macs / 1e6:.2f}", 3),
        _Column(("incremental",), 11, lambda step: f"{step.macs_incremental / 1e6:.2f}"),
    ]
    head, *rows = _lines(steps, listed, width)
    lines = [
        *_indented(
            "",
            f"window {_by(window.shape)}, stride {_by(window.strides)}, input {_by(window.input_shape)}: "
            f"{len(window)} positions",
            width,
        ),
        "",
        head,
    ]
    for step, row in zip(listed, rows, strict=True):
        lines.append(row)
        if step.reason:
            lines += _indented("    ", f"full from here: {step.reason}", width)
    skipped = len(plan.steps) - len(listed)
    totals = [
        ("full forward pass", f"{plan.macs / 1e6:12.1f} MMACs a position"),
        ("incremental", f"{plan.macs_incremental / 1e6:12.1f} MMACs a position, the mean"),
        ("redundancy ratio", f"{plan.redundancy_ratio:12.2f}  (paper eq. 20)"),
        ("with memory traffic", f"{plan.gain:12.2f}"),
        ("materialised views", f"{plan.bytes_views / 2**20:12.1f} MiB at most"),
        ("one position", f"{(plan.bytes_per_position + plan.frontier_bytes) / 2**20:12.1f} MiB at most"),
        ("runs", "incrementally" if plan.incremental else "as batched full inference"),
    ]
    lines += _indented("", f"({skipped} steps that only touch elements are not listed)", width)
    if plan.linearised is not None:
        found = plan.linearised
        cost = f"{found.macs / 1e6:.1f} MMACs a position {found.bound}, the mean"
        totals.append(("with an SSIM target", f"a map to the first order in {found.operators}: {cost}"))
    if plan.executor:
        totals.append(("executor", plan.executor))
    lines.append("")
    for name, value in totals:
        lines += _indented(f"{name:23}", value, width)
    if plan.measured is not None:
        lines += ["", *_analysis(plan, plan.measured, width)]
    return "\n".join(lines)


@dataclass(frozen=True)
class _Line:
    """Steps of a plan that are one line of its analysis: one that computes, and what is done to its result.

    Attributes:
        first: The step that names it.
        expected: Share of the expected time.
        measured: Share of the measured time.
        seconds: Measured, for one position.
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


def _analysis(plan: Plan, measured: Measured, width: int) -> list[str]:
    """The measured time and cells of every step, beside the expected ones."""
    ran = f"{measured.positions} of {len(plan.window)} positions in {measured.seconds:.2f} s"
    lines = _indented(f"{'measured':23}", ran, width)
    if not measured.costs:
        return [*lines, *_indented(" " * 23, "(this executor tells no step from another)", width)]
    total = sum(cost.seconds for cost in measured.costs.values())
    lines += _indented(f"{'steps':23}", f"{total:.2f} s, all threads together", width)
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
    found = _measured_lines(plan, measured)
    worst = max(found, key=lambda line: line.measured - line.expected)
    return [
        *lines,
        "",
        *_lines(columns, found, width),
        *_indented("", "(shares; a line counts what follows up to the next one)", width),
        *_indented(
            "",
            f"furthest above what was expected: {worst.name}, {worst.measured:.1%} of the time in "
            f"place of {worst.expected:.1%}",
            width,
        ),
    ]


def _measured_lines(plan: Plan, measured: Measured) -> list[_Line]:
    """The lines of an analysis; each begins where a step multiplies, or has another grid of cells."""
    groups: list[list[Step]] = []
    for step in plan.steps:
        if not groups or step.macs or step.cells != groups[-1][-1].cells:
            groups.append([])
        groups[-1].append(step)
    work = sum(step.work for step in plan.steps)
    total = sum(cost.seconds for cost in measured.costs.values())
    positions = max(measured.positions, 1)
    lines = []
    for steps in groups:
        costs = [(step, measured.costs[step.index]) for step in steps if step.index in measured.costs]
        took = sum(cost.seconds for _, cost in costs)
        boxes = [(step.share, cost.cells / positions / step.cells) for step, cost in costs if cost.cells]
        expected = sum(step.work for step in steps) / work
        share = took / total if total else 0.0
        lines.append(_Line(steps[0], expected, share, took / positions, boxes[0] if boxes else None))
    return lines


def _indented(head: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(head + text, width, subsequent_indent=" " * len(head), break_long_words=False)


def _last(name: str, length: int) -> str:
    return name if len(name) <= length else "…" + name[1 - length :]


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def describe(plan: Plan) -> Mapping[str, float]:
    """The totals of a plan, for tables and JSON.

    Examples:
        >>> totals = describe(plan)
        >>> totals["positions"], round(totals["mmacs_full"], 3), round(totals["redundancy_ratio"], 1)
        (20, 0.178, 3.3)
    """
    return {
        "positions": len(plan.window),
        "mmacs_full": plan.macs / 1e6,
        "mmacs_incremental": plan.macs_incremental / 1e6,
        "redundancy_ratio": plan.redundancy_ratio,
        "gain": plan.gain,
    }
