"""A run's end between two operators of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor
from torch.overrides import TorchFunctionMode

from krypton_engine.graph.export import exporting
from krypton_widget.worker import Cancelled


class Stopped(BaseException):
    """A computation has been given up. Like Ctrl-C, this is no failure that anybody on the way may catch."""


class Stoppable(TorchFunctionMode):
    """A context whose computation ends between two operators: a pass may take longer than a slider waits.

    The context ends a computation once, so that its cleaning up is not cut short; an export runs to its end.
    """

    def __init__(self, stopped: Cancelled) -> None:
        super().__init__()
        self._stopped, self._ended = stopped, False

    def __torch_function__(
        self,
        function: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        # What takes no tensor may be the way out already: no_grad() turns gradients on again so.
        computes = any(isinstance(each, Tensor) for each in args)
        if computes and not self._ended and not exporting() and self._stopped():
            self._ended = True
            raise Stopped
        return function(*args, **(kwargs or {}))
