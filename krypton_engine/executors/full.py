"""The user's own forward function on occluded copies, for functions without a graph that can be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from krypton_engine.common.arrays import IntArray
from krypton_engine.common.calling import Forward
from krypton_engine.common.captum import expand_additional_forward_args, parse_forward_out, run_forward
from krypton_engine.errors import InputError
from krypton_engine.executors.base import Computed
from krypton_engine.graph.export import evaluated
from krypton_engine.graph.gradients import Head
from krypton_engine.perturbation.changed import changed_by
from krypton_engine.perturbation.positions import Positions
from krypton_engine.perturbation.windows import Contents, contents_of, occlude, replaced
from krypton_engine.plan.measured import Costs


def evaluate(
    forward_func: Forward, inputs: tuple[Tensor, ...], additional: tuple[object, ...] | None
) -> Tensor:
    """The outputs of the user's own forward function, in the form that Captum makes of them.

    The function gets copies of the tensors, so that its writes do not reach the caller's; outputs keep no
    autograd graph.

    Examples:
        >>> evaluate(lambda images, scale: scale * images.sum((1, 2, 3)), (torch.ones(2, 3, 4, 4),), (0.5,))
        tensor([24., 24.])
    """
    inputs = tuple(x.clone() for x in inputs)
    if additional is not None:
        additional = tuple(a.clone() if isinstance(a, Tensor) else a for a in additional)
    said = evaluated(lambda: run_forward(forward_func, inputs, None, additional))
    output = as_numbers("forward_func", said).detach()
    # Without dimensions it is the output of the one example, as ``squeeze()`` leaves it.
    return output.reshape(1) if output.ndim == 0 and inputs[0].shape[:1] == (1,) else output


def as_numbers(name: str, output: object) -> Tensor:
    """The result of ``name`` as a tensor of real numbers.

    Raises:
        InputError: The result is something else, such as a tuple or a dataclass of outputs.

    Examples:
        >>> as_numbers("forward_func", 3.0)
        tensor(3., dtype=torch.float64)
        >>> as_numbers("forward_func", (torch.zeros(1, 5), None))
        Traceback (most recent call last):
            ...
        krypton_engine.errors.InputError: forward_func returns tuple of Tensor, NoneType: ...
    """
    if not isinstance(output, (Tensor, int, float)):
        raise InputError(name, _in_words(output), "one tensor, or a number", verb="returns")
    numbers: Tensor = parse_forward_out(output)
    if numbers.dtype == torch.bool or numbers.is_complex() or not numbers.numel():
        raise InputError(
            name,
            f"{numbers.dtype} of shape {tuple(numbers.shape)}",
            "real numbers, at least one (of truth values .float(), say, of complex numbers .abs())",
            verb="returns",
        )
    return numbers


def _in_words(output: object) -> str:
    """A description of something that is no tensor, and how to take one out of it."""
    kind = type(output).__name__
    if isinstance(output, np.ndarray):
        return f"{kind}: make it torch.as_tensor(...)"
    if isinstance(output, Mapping):
        names = [str(name) for name in output]
        first = "logits" if "logits" in names else next(iter(names), "name")
        taken = f".{first}" if hasattr(output, first) else f"[{first!r}]"
        return f"{kind} of {', '.join(names)}: take one, as in lambda x: model(x){taken}"
    if hasattr(output, "logits"):
        return f"{kind}: take .logits, as in lambda x: model(x).logits"
    if isinstance(output, (tuple, list)):
        held = ", ".join(type(item).__name__ for item in output)
        return f"{kind} of {held}: take one, as in lambda x: model(x)[0]"
    return kind


class FullSession:
    """The user's own forward function on copies of its inputs, several positions an evaluation.

    All examples of a batch are occluded together, as Captum does, so that a function which reads across
    its batch, or whose output does not grow with it, is answered as Captum answers it. The outputs of one
    position then are those of all examples, ``(examples, *output_shape)``; with one example and one row
    they are that row.

    Args:
        forward_func: The forward function that is explained.
        inputs: Its tensor inputs.
        occluded: Number of the input that windows occlude.
        window: The positions over that input.
        baseline: Values that replace the occluded cells; broadcast against the occluded input.
        additional: Further arguments of ``forward_func``.
        base: Outputs for the un-occluded inputs.
        per_evaluation: Number of positions an evaluation; above 1 only for a function that does not read
            across its batch.

    Examples:
        >>> from krypton_engine.perturbation.windows import SlidingWindow
        >>> window = SlidingWindow((3, 24, 20), (3, 8, 8), (3, 8, 8))
        >>> session = FullSession(model, (x,), 0, window, torch.zeros(1), None, model(x), 2)
        >>> changes = window.boxes(np.array([0, 1, 2]))
        >>> [(part.which.tolist(), tuple(part.outputs.shape)) for part in session.compute(changes)]
        [([0, 1], (2, 5)), ([2], (1, 5))]
        >>> session.trimmed(0.1, lambda outputs: outputs[:, 0]) is session
        True
    """

    at_once = 1
    executor = "full inference"

    def __init__(
        self,
        forward_func: Forward,
        inputs: tuple[Tensor, ...],
        occluded: int,
        window: Positions,
        baseline: Tensor,
        additional: tuple[object, ...] | None,
        base: Tensor,
        per_evaluation: int,
    ) -> None:
        self.forward_func = forward_func
        self.inputs = inputs
        self.occluded = occluded
        self.window = window
        self.additional = additional
        x = inputs[occluded]
        self.x, self.baseline = x, baseline.to(x.device).expand(x.shape)
        self.joint = x.shape[0] != 1 or base.shape[:1] != (1,)
        self.base = base[None] if self.joint else base
        self.changed = changed_by(window, self.x, self.baseline)
        self.per_evaluation = per_evaluation
        self.costs: Costs | None = None

    def compute(
        self, changes: IntArray, limit: int | None = None, contents: Contents | None = None
    ) -> Iterator[Computed]:
        """Outputs ``(changes, *shape of base)``; see `krypton_engine.executors.base.Session.compute`."""
        count = self.per_evaluation if limit is None else min(limit, self.per_evaluation)
        for start in range(0, len(changes), count):
            which = np.arange(start, min(start + count, len(changes)))
            copies = occlude(self.x, self.baseline, changes[which], contents_of(contents, which))
            yield Computed(which, self.evaluate(copies, len(which)))

    def trimmed(self, epsilon: float, head: Head) -> FullSession:
        """The session itself: a full computation has no boxes to cut."""
        return self

    most_walks = 64
    """Walks hold nothing but inputs."""

    def walks(self, starts: Sequence[Tensor | None]) -> FullWalks:
        """See `krypton_engine.executors.base.Session.walks`; inputs are ``(examples, *input_shape)``."""
        return FullWalks(self, [self.x if start is None else start.to(self.x) for start in starts])

    def evaluate(self, occluded: Tensor, copies: int) -> Tensor:
        """Outputs for copies of the occluded input, ``(copies * examples, *input_shape)``."""
        examples = self.x.shape[0]
        inputs = tuple(
            occluded if i == self.occluded else torch.cat([x] * copies) for i, x in enumerate(self.inputs)
        )
        additional = self.additional
        if additional is not None and copies > 1:
            additional = expand_additional_forward_args(additional, copies)
        output = evaluate(self.forward_func, inputs, additional)
        if copies == 1:
            return output[None] if self.joint else output
        if output.ndim == 0 or output.shape[0] != copies * examples:
            raise InputError(
                "perturbations_per_eval",
                f"{copies}",
                "1",
                f"but the output of forward_func does not grow with its batch: {tuple(output.shape)} for "
                f"{copies * examples} rows",
            )
        return output.reshape(copies, examples, *output.shape[1:]) if self.joint else output


class FullWalks:
    """Walks of the user's own forward function; see `krypton_engine.executors.base.Walks`.

    Args:
        session: Session whose function and other inputs the walks share.
        starts: Inputs, each ``(examples, *input_shape)``.

    Examples:
        >>> from krypton_engine.perturbation.windows import SlidingWindow
        >>> window = SlidingWindow((3, 24, 20), (3, 8, 8), (3, 8, 8))
        >>> session = FullSession(model, (x,), 0, window, torch.zeros(1), None, model(x), 2)
        >>> walks, grey = session.walks([None]), lambda i: torch.full((1, 3, 8, 8), 0.5)
        >>> for box in window.boxes(np.array([0, 1])):
        ...     outputs = walks.advance(np.array([0]), box[None], grey)
        >>> x[..., :8, :16] = 0.5
        >>> torch.allclose(outputs, model(x))
        True
    """

    def __init__(self, session: FullSession, starts: Sequence[Tensor]) -> None:
        self._session = session
        self._now = list(starts)

    def advance(self, which: IntArray, boxes: IntArray, contents: Contents) -> Tensor:
        """See `krypton_engine.executors.base.Walks.advance`."""
        changed = self._changed(which, boxes, contents)
        for walk, now in zip(which.tolist(), changed, strict=True):
            self._now[walk] = now
        return self._evaluated(changed)

    def look(self, which: IntArray, boxes: IntArray, contents: Contents) -> Tensor:
        """See `krypton_engine.executors.base.Walks.look`."""
        return self._evaluated(self._changed(which, boxes, contents))

    def branch(self, source: int, into: int | None = None) -> int:
        """See `krypton_engine.executors.base.Walks.branch`."""
        number = len(self._now) if into is None else into
        self._now[number : number + 1] = [self._now[source]]
        return number

    def _changed(self, which: IntArray, boxes: IntArray, contents: Contents) -> list[Tensor]:
        """Inputs after one more change of each of some walks."""
        return [replaced(self._now[walk], boxes[i], contents(i)) for i, walk in enumerate(which.tolist())]

    def _evaluated(self, inputs: Sequence[Tensor]) -> Tensor:
        """Outputs for inputs, as many together as the session evaluates."""
        together = self._session.per_evaluation
        parts = [inputs[first : first + together] for first in range(0, len(inputs), together)]
        return torch.cat([self._session.evaluate(torch.cat(list(part)), len(part)) for part in parts])
