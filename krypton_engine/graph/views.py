"""Values of which the un-occluded cells are read beside a box, and so are kept."""

from __future__ import annotations

from krypton_engine.graph.box_operators import Reindex, Total
from krypton_engine.graph.ir import Graph, Node
from krypton_engine.graph.operators import facts


def needs_view(graph: Graph, node: Node) -> bool:
    """Whether a reader takes cells of a local node outside its box, or an operand writes its part there.

    Examples:
        >>> needs_view(graph, graph.input), needs_view(graph, graph.nodes[7])  # a relu reads its own cells
        (True, False)
    """
    if not node.operands or facts(node).joins or isinstance(node.on_box, Total):
        return True
    if any(node is frontier for frontier in graph.frontiers):
        return True
    for reader, i in graph.readers[node.index]:
        other = graph.nodes[reader]
        if len(other.operands) > 1 or isinstance(other.on_box, Reindex) or not other.same_cells(i):
            return True
    return False
