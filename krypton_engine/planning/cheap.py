"""The choice of a cheap session: of networks that see the whole image, to the first order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from krypton_engine.executors.base import Opening, Program, Session, Unsupported
from krypton_engine.executors.programs import kept
from krypton_engine.executors.reference.grids import GridProgram
from krypton_engine.executors.reference.tokens import TokenProgram
from krypton_engine.graph.ir import Graph
from krypton_engine.graph.rewrites.linearise import linearised
from krypton_engine.plan.plan import Linearised, Plan

_LEAST_GAIN = 0.5
"""Work in full over that of a linearised position, before anything is trimmed, that is worth a try: the first
positions are measured by both, and decide."""

_ON_TOKENS: Mapping[str, Callable[[Graph], TokenProgram | GridProgram]] = {
    "tokens": TokenProgram,
    "grids": GridProgram,
}
"""Programs on tokens, by name: of tokens that attend to all, and of those that attend within windows."""


def linearised_plan(graph: Graph, exact: Plan) -> tuple[Graph, Plan] | None:
    """A graph with gates and norms over the image linearised, and its plan; None where that saves little.

    Args:
        graph: The exact one.
        exact: Its plan.

    Examples:
        >>> linearised_plan(graph, plan)  # nothing in the model sees the whole image
    """
    made = kept(graph, "linearised", linearised)
    if not made.sites:
        return None
    plan = Plan.of(made, exact.window)
    return (made, plan) if plan.gain >= _LEAST_GAIN * max(exact.gain, 1.0) else None


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
    for made_ready in _on_tokens(graph):
        with suppress(Unsupported):
            return made_ready.open(exact.window, opening, program)
    with suppress(Unsupported):
        if found := linearised_plan(graph, exact):
            made, plan = found
            return program(made, plan).open(plan, opening)
    return None


def linearised_work(graph: Graph, exact: Plan) -> Linearised | None:
    """Operators that `cheap_session` computes to the first order, and their cost; None without a session.

    Args:
        graph: The exact one.
        exact: Its plan.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture
        >>> gate = capture(Source(gated, (x,)))
        >>> linearised_work(gate, Plan.of(gate, plan.window)).operators
        'gates and norms over the image (1)'
    """
    for made_ready in _on_tokens(graph):
        return made_ready.work(exact.window)
    if found := linearised_plan(graph, exact):
        made, plan = found
        reductions = (node for node in made.nodes if node.depends and node.local and not node.axes)
        taken = {node.operands for node in reductions if any(made.nodes[i].axes for i in node.operands)}
        met = sum(min(source) < max(made.sites) for source in taken)
        return Linearised(f"gates and norms over the image ({met})", plan.macs_incremental, "at most")
    return None


def _on_tokens(graph: Graph) -> Iterator[TokenProgram | GridProgram]:
    """Programs of a graph on tokens, those that there are; gates and norms before them are linearised."""
    graph = kept(graph, "linearised", linearised)
    for name, make in _ON_TOKENS.items():
        with suppress(Unsupported):
            yield kept(graph, name, make)
