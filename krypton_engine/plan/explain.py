"""A plan as people read it: a table of what is expected, one of what was measured, and the totals."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from krypton_engine.plan.measured import Measured
    from krypton_engine.plan.plan import Plan, Step

WIDTH = 80
"""Columns of a plan as text: those of the narrowest usual terminal."""


def table(plan: Plan) -> str:
    """A plan as text: one line for every step that computes, then the totals."""
    window = plan.window
    lines = [
        f"window {_by(window.shape)}, stride {_by(window.strides)}, input {_by(window.input_shape)}: "
        f"{len(window)} positions",
        "",
        f"{'step':18} {'operator':13} {'output':>13} {'largest box':>11} {'MMACs':>9} {'incremental':>11}",
    ]
    skipped = 0
    for step in plan.steps:
        if not step.macs and not step.reason and step.index != plan.output:
            skipped += 1
            continue
        box = _by(step.box) if step.box else "full"
        lines.append(
            f"{_last(step.name, 18):18} {step.op[:13]:13} {_by(step.shape[1:]):>13} {box:>11} "
            f"{step.macs / 1e6:9.2f} {step.macs_incremental / 1e6:11.2f}"
        )
        if step.reason:
            lines += _indented("    ", f"full from here: {step.reason}")
    lines += [
        f"({skipped} steps that only touch elements are not listed)",
        "",
        f"full forward pass      {plan.macs / 1e6:12.1f} MMACs a position",
        f"incremental            {plan.macs_incremental / 1e6:12.1f} MMACs a position, the mean",
        f"redundancy ratio       {plan.redundancy_ratio:12.2f}  (paper eq. 20)",
        f"with memory traffic    {plan.gain:12.2f}",
        f"materialised views     {plan.bytes_views / 2**20:12.1f} MiB at most",
        f"one position           {(plan.bytes_per_position + plan.frontier_bytes) / 2**20:12.1f} MiB at most",
        f"runs                   {'incrementally' if plan.incremental else 'as batched full inference'}",
    ]
    if plan.executor:
        lines += _indented("executor               ", plan.executor)
    if plan.measured is not None:
        lines += ["", *_analysis(plan, plan.measured)]
    return "\n".join(lines)


def _analysis(plan: Plan, measured: Measured) -> list[str]:
    """Expected beside measured: one line for every row of the plan, with the steps up to the next row."""
    lines = [
        f"measured: {measured.positions} of {len(plan.window)} positions computed in {measured.seconds:.2f} s"
    ]
    if not measured.costs:
        return [*lines, "(the executor tells no step from another)"]
    work = sum(step.work for step in plan.steps)
    seconds = sum(cost.seconds for cost in measured.costs.values())
    lines += [
        f"steps, all threads together: {seconds:.2f} s",
        "",
        f"{'':30} {'share of time':^22} {'µs a':>9} {'cells of the value':>18}",
        f"{'step':18} {'operator':11} {'expected':>8} {'measured':>8} {'x':>4} {'position':>9} "
        f"{'expected':>9} {'measured':>8}",
    ]
    for steps in _rows(plan):
        took = sum(measured.costs[step.index].seconds for step in steps if step.index in measured.costs)
        expected, share = sum(step.work for step in steps) / work, took / max(seconds, 1e-12)
        boxed = next((s for s in steps if s.local and s.index in measured.costs), None)
        cells = f"{'':>9} {'':>8}"
        if boxed is not None and measured.positions:
            found = measured.costs[boxed.index].cells / (measured.positions * boxed.cells)
            cells = f"{boxed.share:9.1%} {found:8.1%}"
        times = f"{share / expected:4.1f}" if expected else f"{'':4}"
        lines.append(
            f"{_last(steps[0].name, 18):18} {steps[0].op[:11]:11} {expected:8.1%} {share:8.1%} {times} "
            f"{took / max(measured.positions, 1) * 1e6:9.1f} {cells}".rstrip()
        )
    return [*lines, "(a line counts the steps up to the next; x: measured over expected)"]


def _rows(plan: Plan) -> list[list[Step]]:
    """The steps of a plan, in groups that begin where a step multiplies, or has another grid of cells."""
    rows: list[list[Step]] = []
    for step in plan.steps:
        if not rows or step.macs or step.cells != rows[-1][-1].cells:
            rows.append([])
        rows[-1].append(step)
    return rows


def _indented(head: str, text: str) -> list[str]:
    return textwrap.wrap(head + text, WIDTH, subsequent_indent=" " * len(head), break_long_words=False)


def _last(name: str, length: int) -> str:
    return name if len(name) <= length else "…" + name[1 - length :]


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def describe(plan: Plan) -> Mapping[str, float]:
    """The totals of a plan, for tables and JSON."""
    return {
        "positions": len(plan.window),
        "mmacs_full": plan.macs / 1e6,
        "mmacs_incremental": plan.macs_incremental / 1e6,
        "redundancy_ratio": plan.redundancy_ratio,
        "gain": plan.gain,
    }
