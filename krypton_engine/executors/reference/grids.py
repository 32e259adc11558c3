"""Sessions on tokens of grids, opened: what is kept of the un-occluded input."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from krypton_engine.executors.base import Opening, Unsupported
from krypton_engine.executors.reference.grid_rows import GridExample
from krypton_engine.executors.reference.token_parts import MakeProgram, TokenParts
from krypton_engine.executors.reference.token_session import TokenSession
from krypton_engine.executors.reference.window_attention import KeptWindows, as_summand, narrowed
from krypton_engine.executors.tail import values_in_full
from krypton_engine.graph.ir import Graph
from krypton_engine.graph.tokens.arrangement import Form
from krypton_engine.graph.tokens.grid_steps import (
    Each,
    Grids,
    Merged,
    Nearby,
    Pool,
    Step,
    Whole,
    WindowAttention,
)
from krypton_engine.graph.tokens.grids import find_grids
from krypton_engine.graph.tokens.steps import NoTokens
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.plan.plan import Linearised, Plan


class GridProgram:
    """A graph made ready for sessions on its tokens of grids.

    On every grid the tokens that the window touches and other ones, all of them or the most important,
    go through all layers. Their effect on other tokens of their windows is
    `krypton_engine.executors.base.Computed.dropped`.

    Args:
        graph: The model.

    Raises:
        Unsupported: The graph has none.

    Examples:
        >>> from krypton_engine.planning.cache import Source, capture
        >>> cells, attend = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.functional.scaled_dot_product_attention
        >>> by_rows = lambda x: attend(y := cells(x).movedim(1, 3), y, y).mean((1, 2))  # a row is a window
        >>> program = GridProgram(capture(Source(by_rows, (x,))))
        >>> program.work(plan.window).operators
        'attention in windows (1)'
        >>> head = lambda outputs: outputs[:, 0]
        >>> from krypton_engine.executors.reference.program import ReferenceProgram
        >>> opening = Opening((x,), torch.zeros(1), 2**30, head)
        >>> session = program.open(plan.window, opening, lambda graph, _: ReferenceProgram(graph))
        >>> torch.allclose(session.base, by_rows(x), atol=1e-5)
        True
    """

    def __init__(self, graph: Graph) -> None:
        try:
            self.grids = grids = find_grids(graph)
        except NoTokens as reason:
            raise Unsupported(str(reason)) from None
        self.graph = graph
        self._parts = TokenParts(graph, grids.start, graph, grids.after, grids.first_order)

    def open(self, window: SlidingWindow, opening: Opening, program: MakeProgram) -> TokenSession:
        """A session; see `krypton_engine.executors.reference.tokens.TokenProgram.open`."""
        grids = self.grids
        needed, example = partial(_needed, grids), partial(_example, self.graph, grids, opening.inputs)
        return self._parts.open(window, opening, program, _held(grids), needed, grids.sizes[0], example)

    def work(self, window: SlidingWindow) -> Linearised:
        """Operators taken to the first order, and the mean cost of the tokens that a window touches."""
        grids, plan = self.grids, Plan.of(self._parts.before, window)
        touched = math.prod(float(each.mean()) for each in plan.boxes[grids.start.index].values())
        macs = plan.macs_incremental + sum(node.macs for node in grids.after)
        share = {0: touched / grids.sizes[0]}
        for step in grids.steps:
            if isinstance(step, (Merged, Nearby)) and step.grid not in share:
                share[step.grid] = max(share[step.below], 1 / grids.sizes[step.grid])
            if isinstance(step, (Each, Nearby)):
                macs += step.node.macs * share[step.grid]
            elif isinstance(step, WindowAttention):
                macs += step.node.macs * min(1.0, max(share[step.grid], 1 / len(step.members)))
            elif isinstance(step, Whole):
                macs += step.node.macs
        return Linearised(self._described(), macs, "at least")

    def _described(self) -> str:
        """The operators in words."""
        attentions = self.grids.attentions
        where = "over all tokens" if all(len(step.members) == 1 for step in attentions) else "in windows"
        gates = sum(isinstance(step, Each) and bool(step.met) for step in self.grids.steps)
        gates += len(self._parts.before.sites)
        found = f"attention {where} ({len(attentions)})"
        return f"{found}, gates and norms over the image ({gates})" if gates else found


def _held(grids: Grids) -> int:
    """Bytes of what is kept of the un-occluded input.

    That is, of an attention, its queries, keys, values and result, its gradient, what is added to scores, and
    the rows that it meets; of an operator on near tokens, its operand, result and gradient; of one that meets
    a value without tokens, what the scalar owes to that.
    """
    held = sum(
        6 * step.node.bytes() + _bytes_of_scores(step) * len(step.members) for step in grids.attentions
    )
    for step in grids.steps:
        if isinstance(step, Nearby):
            held += grids.graph.nodes[step.source].bytes() + 2 * step.node.bytes()
        elif isinstance(step, Each):
            held += len(step.met) * step.node.bytes()
    return held


def _needed(grids: Grids, tokens: int) -> int:
    """Bytes of one position on its way, of which so many of the first grid's tokens are computed.

    That are windows with new tokens, more of them than these would fill, and the widest values of the layers;
    on coarser grids as large a share of the tokens may be new, twice over. Where convolutions lie between,
    these may be all of them, and windows that reach across the grid are all met.
    """
    first = min(1.0, 2 * tokens / grids.sizes[0])
    most, widest, near = 0, 0.0, 0.0
    for step in grids.steps:
        share = first
        if isinstance(step, (Pool, Whole)):
            continue
        if grids.mixed:
            share = min(1.0, 2 * first) if step.grid == 0 else 1.0
        widest = max(widest, share * step.node.bytes())
        if isinstance(step, WindowAttention):
            count = len(step.members)
            met = count if grids.mixed else min(count, 4 + math.ceil(2 * share * count))
            most = max(most, met * (4 * step.node.bytes() // count + 3 * _bytes_of_scores(step)))
        if isinstance(step, Nearby):
            whole = 2 * (grids.graph.nodes[step.source].bytes() + step.node.bytes())
            near = max(near, whole, 3 * share * _bytes_near(grids, step))
    return 2 * grids.start.bytes() + most + int(6 * widest + near)


def _bytes_near(grids: Grids, step: Nearby) -> int:
    """Bytes of what an operator reads for all of its tokens, by token."""
    tokens, parts = step.parts.shape
    return grids.graph.nodes[step.source].bytes() // grids.sizes[step.below] * tokens * parts


def _bytes_of_scores(step: WindowAttention) -> int:
    """Bytes of one window's scores."""
    windows, members = step.members.shape
    heads = step.node.numel() // (windows * members * step.node.shape[-1])
    return step.node.bytes() // step.node.numel() * heads * members**2


def _example(
    graph: Graph,
    grids: Grids,
    inputs: tuple[Tensor, ...],
    constant: Callable[[int, int], Any],
    gradients: Mapping[int, Tensor],
) -> GridExample:
    """The tokens on grids of the un-occluded input."""
    wholes = {step.node.index for step in grids.steps if isinstance(step, (Pool, Whole))}
    roots = {grids.values[i].root for step in grids.steps for i in grids.read(step) if _remembers(step)}
    roots |= {step.node.index for step in grids.steps if isinstance(step, Nearby)}
    grown = [step for step in grids.steps if isinstance(step, (Nearby, WindowAttention))]
    roots |= {i for step in grown for i in grids.alive(step)}
    read = {i for step in grids.attentions for i in (step.q, step.k, step.v)}
    meeting = [step for step in grids.steps if isinstance(step, Each) and step.met]
    read |= {i for step in meeting for i in grids.read(step)}
    values = values_in_full(graph, inputs, roots | read | wholes | {graph.output})

    def rows(index: int, value: Tensor) -> Tensor:
        form = grids.values[index]
        return _rows(value, form, grids.places[form.root])

    attentions = {
        step.node.index: _kept(step, values, constant, gradients.get(step.node.index))
        for step in grids.attentions
    }
    tables = {
        (step.node.index, i): _table(grids, step, constant(i, 1))
        for step in grids.steps
        if isinstance(step, Each)
        for i in step.differing
    }
    responses = {}
    for step in meeting:
        gradient = gradients.get(step.node.index)
        for i, found in _responses(step, values, constant, gradient).items():
            responses[step.node.index, i] = rows(step.node.index, found)
    return GridExample(
        grids,
        constant,
        tables,
        attentions,
        {i: rows(i, values[i]) for i in roots},
        {
            step.node.index: rows(step.node.index, gradients.get(step.node.index, torch.zeros_like(value)))
            for step in grids.steps
            if isinstance(step, Nearby) and (value := values[step.node.index]) is not None
        },
        responses,
        {i: values[i] for i in wholes},
        values[graph.output],
    )


def _remembers(step: Step) -> bool:
    """Whether a step reads tokens that were not computed."""
    return isinstance(step, (Merged, Nearby, Pool))


def _responses(
    step: Each, values: Mapping[int, Tensor], constant: Callable[[int, int], Any], gradient: Tensor | None
) -> dict[int, Tensor]:
    """The scalar's derivatives by values without tokens, by node: by token that meets these.

    Args:
        step: The operator.
        values: Un-occluded values, by node.
        constant: Function that gives the value of a node that no position changes.
        gradient: Gradient of the scalar by the operator's result; None for nothing.
    """
    shape = step.node.shape
    with torch.inference_mode(False), torch.enable_grad():
        spread = {i: values[i].clone().expand(shape).clone().requires_grad_() for i in step.met}

        def operand(index: int) -> Any:
            found = spread.get(index, values.get(index))
            value = constant(index, 1) if found is None else found
            return value.clone() if isinstance(value, Tensor) and index not in spread else value

        made = step.node.computed(operand)
        by = torch.zeros_like(made) if gradient is None else gradient.clone().to(made)
        found = torch.autograd.grad(made, list(spread.values()), by, allow_unused=True)
    return {i: torch.zeros(shape) if each is None else each for i, each in zip(spread, found, strict=True)}


def _rows(value: Tensor, form: Form, places: Tensor) -> Tensor:
    """The rows of all tokens, and zeros after them: ``(tokens + 1, elements)``.

    Args:
        value: Value of one copy.
        form: The way from rows to the value.
        places: The token at every place of one copy.
    """
    cells = value.movedim(form.of_tokens, tuple(range(len(form.of_tokens))))
    cells, numbers = cells.reshape(places.numel(), -1), places.flatten().long().to(value.device)
    found = value.new_zeros(int(numbers.max()) + 2, cells.shape[1])
    found[numbers[numbers >= 0]] = cells[numbers >= 0]
    return found


def _table(grids: Grids, step: Each, value: Tensor) -> Tensor:
    """A constant that differs from token to token, by token and element."""
    form, places = grids.values[step.node.index], grids.places[step.node.index]
    tokens, channels = iter(places.shape), iter(form.channels)
    sizes = [next(tokens if dim in form.of_tokens else channels) for dim in range(len(step.node.shape))]
    return _rows(value.expand(sizes), form, places)


def _kept(
    step: WindowAttention,
    values: Mapping[int, Tensor],
    constant: Callable[[int, int], Any],
    gradient: Tensor | None,
) -> KeptWindows:
    """One attention on the un-occluded input, in single precision at least."""
    q, k, v = values[step.q], values[step.k], values[step.v]
    k = k.transpose(-1, -2) if step.scores.transposed else k
    dtype = torch.promote_types(v.dtype, torch.float32)
    gradient = torch.zeros_like(v) if gradient is None else gradient
    q, k, v, gradient = (step.by_window(each).to(dtype) for each in (q, k, v, gradient))
    scale, bias = (each.to(dtype) for each in _scores(step, q.device, constant))
    return KeptWindows.of(q, k, v, scale, bias, gradient, step.members.to(v.device))


def _scores(
    step: WindowAttention, device: torch.device, constant: Callable[[int, int], Any]
) -> tuple[Tensor, Tensor]:
    """Factors of an attention's products, and summands: ``(windows, heads, members, members)``.

    A dimension along which nothing differs has size 1. Operators between products and softmax are run on
    zeros and on ones in place of products.
    """
    scores = step.scores
    if scores.product is None:
        bias = torch.zeros((), device=device) if scores.mask < 0 else as_summand(constant(scores.mask, 1))
        whole = bias.expand(*step.node.shape[:-1], step.node.shape[-2])
        factor = torch.full((1, 1, 1, 1), scores.scale, dtype=torch.float64, device=device)
        return factor, narrowed(step.by_window(whole))

    product = scores.product

    def after(products: Tensor) -> Tensor:
        found = {product.index: products}
        for node in scores.chain:
            found[node.index] = node.computed(lambda i: found[i] if i in found else constant(i, 1))
        return found[scores.chain[-1].index].reshape(product.shape) if scores.chain else products

    zeros = torch.zeros(product.shape, dtype=torch.float64, device=device)
    bias = after(zeros)
    factor = after(zeros + 1).sub_(bias)
    factor[factor.isnan()] = 1.0  # no weight is left of these
    return narrowed(step.by_window(factor)), narrowed(step.by_window(bias))
