"""What Krypton raises and warns with."""

from __future__ import annotations

from typing import Any


class InputError(ValueError, AssertionError):
    """An argument that cannot be used; the message names it, what was given and what is accepted.

    It is both a ``ValueError`` and an ``AssertionError`` because Captum's callers catch the latter.
    """


class OutdatedError(InputError):
    """A map to be resumed that the forward function no longer gives: what it depends on has changed since."""


class FallbackWarning(UserWarning):
    """The full computation runs instead of the incremental one; the message says why."""


class RoundingWarning(UserWarning):
    """A map is about as small as what rounding does to it, so that nothing can prove it right."""


class OcclusionCancelled(RuntimeError):
    """A run was cancelled; ``partial``, a Heatmap or a Tuning, holds what had been computed by then."""

    def __init__(self, partial: Any) -> None:
        super().__init__("the occlusion run was cancelled; .partial holds what had been computed")
        self.partial = partial
