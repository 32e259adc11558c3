"""The roles: an executor makes programs of graphs; a program opens sessions, which compute outputs.

An executor lives in a folder of its own beside this file; ``executor.py`` in it has the name ``EXECUTOR``, an
`Executor`. `krypton_engine.executors.registry` finds the folder, and nothing else names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from krypton_engine.common.arrays import Floats, IntArray
    from krypton_engine.graph.gradients import Head
    from krypton_engine.graph.ir import Graph
    from krypton_engine.perturbation.changed import Changed
    from krypton_engine.perturbation.positions import Positions
    from krypton_engine.perturbation.windows import Contents
    from krypton_engine.plan.measured import Costs
    from krypton_engine.plan.plan import Plan


class Unsupported(Exception):
    """The reason why an executor cannot run something, in words that end a sentence."""


@dataclass(frozen=True)
class Computed:
    """Outputs for some of the changes that a session was asked for.

    Attributes:
        which: Numbers of the changes, in the order of the request: ``(changes,)``, int64.
        outputs: The model's outputs for them: ``(changes, *output_shape)``.
        dropped: First-order effect, on the head, of all that trimming dropped, or that a linearised operator
            would have done elsewhere, on the way to each output: ``(changes,)``, float64. None where nothing
            was left out, so that the outputs are exact.
    """

    which: IntArray
    outputs: Tensor
    dropped: Floats | None = None


@dataclass(frozen=True, eq=False)
class Opening:
    """The example that a session is opened on, and the means that the session has.

    Attributes:
        inputs: The tensors of the example, first dimension 1 where they are batched.
        baseline: Values that replace the occluded cells; broadcast against the occluded input.
        memory_budget: Bytes that the session may add to the process.
        head: The scalar that first-order effects are effects on; None where nothing is linearised.
    """

    inputs: tuple[Tensor, ...]
    baseline: Tensor
    memory_budget: int
    head: Head | None = None


class Walks(Protocol):
    """Inputs that change step by step, each from where its last step has left it."""

    def advance(self, which: IntArray, boxes: IntArray, contents: Contents) -> Tensor:
        """Outputs after one more change of each of some walks.

        Args:
            which: Numbers of the walks, different ones: ``(changes,)``, int64.
            boxes: The cells that change in each: ``(changes, axes, 2)``, none of them empty.
            contents: What they become, by number of the change.

        Returns:
            ``(changes, *output_shape)``.
        """

    def look(self, which: IntArray, boxes: IntArray, contents: Contents) -> Tensor:
        """Outputs after changes that no walk keeps.

        Args:
            which: Numbers of the walks that the changes begin at: ``(changes,)``, int64; a walk may be named
                several times.
            boxes, contents: As in `advance`.

        Returns:
            ``(changes, *output_shape)``.
        """

    def branch(self, source: int, into: int | None = None) -> int:
        """The number of a walk that stands where another stands, and goes its own way from there.

        Args:
            source: Number of the other walk.
            into: Number of a walk whose own way ends, and whose memory is used again; None for a new walk.
        """


class Session(Protocol):
    """A model on one input: outputs for any list of changes to it.

    Attributes:
        window: The positions that the session answers.
        changed: The cells that every position really changes.
        base: Output for the un-occluded input, ``(1, *output_shape)``.
        at_once: Number of changes that a device computes in about the time of one.
        costs: Costs that the time and the cells of every step are added to, of trimmed sessions too. None, as
            at first, measures nothing; executors that cannot time single steps leave the costs empty.
        most_walks: Number of walks that the memory budget holds at a time; 0 of a session that has none.
    """

    window: Positions
    changed: Changed
    base: Tensor
    at_once: int
    costs: Costs | None

    @property
    def most_walks(self) -> int:
        """See the attributes."""

    @property
    def executor(self) -> str:
        """The executor's description, with what the session has learnt since it was opened."""

    def compute(
        self, changes: IntArray, limit: int | None = None, contents: Contents | None = None
    ) -> Iterator[Computed]:
        """Outputs for every change, in any order, as they become known.

        A session neither merges equal changes nor looks for empty ones: its caller has done so; see
        `krypton_engine.perturbation.changed.distinct_work`.

        Args:
            changes: Boxes of input cells that change: ``(changes, axes, 2)``, half-open intervals of int64;
                at least one, none of them empty.
            limit: Largest number of changes to compute together; None for the session's own.
            contents: What the cells of each become, by number of the change; None for the baseline's values,
                where boxes are distinct.
        """

    def walks(self, starts: Sequence[Tensor | None]) -> Walks:
        """Walks from some inputs.

        Args:
            starts: Inputs ``(1, *input_shape)``; None for the session's own. With their branches at most
                `most_walks`.

        Raises:
            Unsupported: The session has none.
        """

    def trimmed(self, epsilon: float, head: Head) -> Session:
        """A session on the same input that drops small changes, and gives each drop's effect on a scalar.

        From the box of every value, rows and columns at the rim are dropped in which no element changes by
        ``epsilon`` times the root mean square of the un-occluded value.

        Args:
            epsilon: Above 0.
            head: The scalar.

        Returns:
            The session itself where nothing can be dropped.

        Raises:
            InputError: The memory budget does not hold the gradients.
        """


class Program(Protocol):
    """A graph made ready by one executor, for any input of its shape."""

    def describe(self, plan: Plan) -> str:
        """The executor that runs a plan, and its hardware, in words that begin with the executor's name."""

    def open(self, plan: Plan, opening: Opening) -> Session:
        """A session on one example.

        Args:
            plan: Graph x window.
            opening: The example, a budget, and for a linearised graph a scalar.

        Raises:
            InputError: The budget does not hold the views and one position.
            Unsupported: The scalar of a linearised graph has no gradient on this example.
        """


class Executor(Protocol):
    """An engine that can run graphs.

    Attributes:
        name: The name of the folder, which users write too.
    """

    name: str

    def about(self) -> str:
        """The engine and its hardware on this machine, for ``krypton info``.

        Raises:
            Unsupported: The executor does not run on this machine.
        """

    def preference(self, device: torch.device) -> int | None:
        """The place among executors for a device: the highest is asked first; None where none of it runs.

        The lowest of a device is the one that runs every graph.
        """

    def program(self, graph: Graph, plan: Plan, device: torch.device) -> Program:
        """``graph`` made ready for the window of a plan.

        Raises:
            Unsupported: The executor cannot run it.
        """

    def pays(self, graph: Graph, plan: Plan, device: torch.device, memory_budget: int) -> None:
        """Return where this executor is a better choice than those of lower preference.

        Raises:
            Unsupported: Another executor is, or this one cannot run the graph within a budget in bytes.
        """
