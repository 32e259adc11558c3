"""The choice of a cheap session: of networks that see the whole image, to the first order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from krypton_engine.executors.base import Opening, Program, Session, Unsupported
from krypton_engine.executors.programs import kept
from krypton_engine.executors.reference.grids import GridProgram
from krypton_engine.executors.reference.tokens import TokenProgram
from krypton_engine.graph.ir import Graph
from krypton_engine.graph.rewrites.linearise import linearised
from krypton_engine.perturbation.windows import as_sliding
from krypton_engine.plan.plan import Linearised, Plan

_LEAST_GAIN = 0.5
"""Work in full over that of a linearised position, before anything is trimmed, that is worth a try: the first
positions are measured by both, and decide."""


def linearised_plan(graph: Graph, exact: Plan) -> tuple[Graph, Plan]:
    """A graph with gates and norms over the image linearised, and its plan.

    Args:
        graph: The exact one.
        exact: Its plan.

    Raises:
        Unsupported: Nothing is linearised, or that saves little.

    Examples:
        >>> linearised_plan(graph, plan)
        Traceback (most recent call last):
        krypton_engine.executors.base.Unsupported: no gate or norm goes over the image
    """
    made = kept(graph, "linearised", linearised)
    if not made.sites:
        raise Unsupported("no gate or norm goes over the image")
    plan = Plan.of(made, exact.window)
    if plan.gain < _LEAST_GAIN * max(exact.gain, 1.0):
        gain = f"full over linearised work: {plan.gain:.2f}"
        raise Unsupported(f"with its gates and norms over the image linearised little is saved ({gain})")
    return made, plan


def cheap_session(
    graph: Graph,
    exact: Plan,
    program: Callable[[Graph, Plan], Program],
    opening: Opening,
) -> Session | None:
    """A session whose outputs are right to the first order, in much less time; None where there is none.

    Args:
        graph: The exact one.
        exact: Its plan.
        program: The program of the first executor that takes a graph and its plan.
        opening: The example, a budget, and the scalar that first-order effects are effects on.

    Raises:
        InputError: The budget does not hold the gradients, or the views and one position.

    Examples:
        >>> from functools import partial
        >>> from krypton_engine.executors.registry import executor
        >>> from krypton_engine.planning.cache import Source, capture
        >>> gate = capture(Source(gated, (x,)))
        >>> program = partial(executor("reference").program, device=x.device)
        >>> head = lambda outputs: outputs[:, 0].mean((1, 2))
        >>> opening = Opening((x,), torch.zeros(1), 2**30, head)
        >>> session = cheap_session(gate, Plan.of(gate, plan.window), program, opening)
        >>> (found,) = session.compute(session.changed.boxes(np.array([0])))
        >>> x[..., :8, :8] = 0.0  # what position 0 covers
        >>> head(found.outputs)[0] + found.dropped[0], head(gated(x))[0]
        (tensor(1.06), tensor(1.06))
    """
    with suppress(Unsupported):
        return _on_tokens(graph).open(as_sliding(exact.window), opening, program)
    with suppress(Unsupported):
        made, plan = linearised_plan(graph, exact)
        return program(made, plan).open(plan, opening)
    return None


def with_cheap_map(graph: Graph, exact: Plan) -> Plan:
    """A plan that says what `cheap_session` computes to the first order and at what cost, or why nothing.

    Args:
        graph: The exact one.
        exact: Its plan.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture
        >>> gate = capture(Source(gated, (x,)))
        >>> with_cheap_map(gate, Plan.of(gate, plan.window)).linearised.operators
        'gates and norms over the image (1)'
    """
    try:
        return replace(exact, linearised=_work(graph, exact))
    except Unsupported as reason:
        return replace(exact, not_linearised=str(reason))


def _work(graph: Graph, exact: Plan) -> Linearised:
    """Operators taken to the first order, and their cost; raises `Unsupported` where there are none."""
    try:
        return _on_tokens(graph).work(as_sliding(exact.window))
    except Unsupported:
        if not kept(graph, "linearised", linearised).sites:
            raise
    made, plan = linearised_plan(graph, exact)
    reductions = (node for node in made.nodes if node.depends and node.local and not node.axes)
    taken = {node.operands for node in reductions if any(made.nodes[i].axes for i in node.operands)}
    met = sum(min(source) < max(made.sites) for source in taken)
    return Linearised(f"gates and norms over the image ({met})", plan.macs_incremental, "at most")


def _on_tokens(graph: Graph) -> TokenProgram | GridProgram:
    """The program of a graph on tokens that attend to all, or within windows; gates before are linearised.

    Raises:
        Unsupported: There is none; the reason is that of the second kind, which takes more networks.
    """
    graph = kept(graph, "linearised", linearised)
    with suppress(Unsupported):
        return kept(graph, "tokens", TokenProgram)
    return kept(graph, "grids", GridProgram)
