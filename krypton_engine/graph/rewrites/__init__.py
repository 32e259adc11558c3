"""Rewrites of a graph: the same values from fewer operators.

A rewrite is a pure function from a graph to a graph. `SIMPLIFICATIONS` is run once on every captured graph,
in its order, before the graph is planned or run. `FUSIONS` is for engines that compute what follows a
convolution where they compute the convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from krypton_engine.graph.ir import Graph
from krypton_engine.graph.rewrites.editing import pruned
from krypton_engine.graph.rewrites.folding import fold_batch_norms, pool_fewer_channels, scale_batch_norms
from krypton_engine.graph.rewrites.fusion import fuse_additions, fuse_epilogues
from krypton_engine.graph.rewrites.narrowing import drop_rows_of_one


@dataclass(frozen=True)
class Rewrite:
    """One rule, and the reason for its place in the list.

    Attributes:
        name: The change, in words.
        apply: The function.
        place: The reason for its place.
    """

    name: str
    apply: Callable[[Graph], Graph]
    place: str


SIMPLIFICATIONS = (
    Rewrite("drop what is not needed", pruned, "first: who is not needed does not count as a reader"),
    Rewrite("drop rows of one", drop_rows_of_one, "before folds, which look for images"),
    Rewrite(
        "fold batch norms",
        fold_batch_norms,
        "next, while a batch norm still has its statistics, which in float64 lose nothing",
    ),
    Rewrite(
        "scale by batch norms that are left",
        scale_batch_norms,
        "after those that fold are gone: rounded numbers could not be folded as exactly",
    ),
    Rewrite(
        "pool fewer channels",
        pool_fewer_channels,
        "then, since the bias that comes after the pooling is that of the folded convolution",
    ),
    Rewrite("drop what is not needed any more", pruned, "last: weights, and a batch norm's numbers"),
)
"""Rules that every captured graph is rewritten by, in order."""


def simplified(graph: Graph) -> Graph:
    """``graph`` after all of `SIMPLIFICATIONS`.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture
        >>> layers = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()
        >>> graph = capture(Source(torch.nn.Sequential(*layers).eval(), (x,)))
        >>> [node.op for node in graph.nodes if node.depends]
        ['input', 'conv2d', 'relu']
    """
    for rewrite in SIMPLIFICATIONS:
        graph = rewrite.apply(graph)
    return graph


FUSIONS = (
    Rewrite("fuse additions", fuse_additions, "first: an activation follows the sum, not what is summed"),
    Rewrite("fuse epilogues", fuse_epilogues, "last: nothing is taken in behind an activation"),
)
"""Rules for engines that add and apply activations to a convolution's result where they compute it."""


def fused(graph: Graph) -> Graph:
    """``graph`` after all of `FUSIONS`.

    Numbers of nodes stay, so that a plan of ``graph`` is one of the fused graph too. What a fused node has
    taken in stays where it was as well, but is no longer local: in full, the nodes run one by one as before.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture
        >>> layers = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()
        >>> graph = fused(capture(Source(torch.nn.Sequential(*layers), (x,))))
        >>> end = graph.nodes[graph.output]
        >>> end.op, end.on_box.epilogue.low, [graph.nodes[step].op for step in end.on_box.steps]
        ('relu', 0.0, ['conv2d', 'relu'])
    """
    for rewrite in FUSIONS:
        graph = rewrite.apply(graph)
    return graph
