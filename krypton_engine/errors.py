"""What Krypton raises and warns with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from krypton_engine.heatmap import Heatmap


class InputError(ValueError, AssertionError):
    """An argument that cannot be used; the message names it, what was given and what is accepted.

    It is both a ``ValueError`` and an ``AssertionError`` because Captum's callers catch the latter.
    """


class FallbackWarning(UserWarning):
    """The full computation runs instead of the incremental one; the message says why."""


class OcclusionCancelled(RuntimeError):
    """A run was cancelled; ``partial`` holds what had been computed by then."""

    def __init__(self, partial: Heatmap) -> None:
        super().__init__("the occlusion run was cancelled; .partial holds what had been computed")
        self.partial = partial
