"""A plan as people read it: a table, and its totals."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from krypton_engine.plan.plan import Plan

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
    return "\n".join(lines)


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
