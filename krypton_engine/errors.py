"""Krypton's errors and warnings."""

from __future__ import annotations

from typing import Any, Self


class InputError(ValueError, AssertionError):
    """An argument that cannot be used: its name, the given value and the accepted ones.

    The arguments are attributes too, and make the message: ``argument verb given, problem; accepted: ...``.
    The error is both a ``ValueError`` and an ``AssertionError`` because callers of Captum catch the latter.

    Args:
        argument: Name of the argument, such as ``"strides"``.
        given: The given value, in words: as Python writes it, or its shape or type.
        accepted: Accepted values, in words; empty where ``problem`` says enough.
        problem: The fault of ``given``, in words; empty where ``accepted`` says enough.
        verb: Between the name and ``given``: ``"is"``, ``"has"``, ``"returns"``.

    Examples:
        >>> from krypton_engine import InputError
        >>> error = InputError("seed", "-1", "integers from 0")
        >>> print(error)
        seed is -1; accepted: integers from 0
        >>> print(error.named("--seed"))
        --seed is -1; accepted: integers from 0
    """

    def __init__(
        self, argument: str, given: str, accepted: str = "", problem: str = "", verb: str = "is"
    ) -> None:
        super().__init__(argument, given, accepted, problem, verb)  # whence pickle and copy make another
        self.argument, self.given, self.accepted = argument, given, accepted
        self.problem, self.verb = problem, verb

    def __str__(self) -> str:
        said = " ".join(filter(None, (self.argument, self.verb, self.given)))
        said += f", {self.problem}" * bool(self.problem)
        return said + f"; accepted: {self.accepted}" * bool(self.accepted)

    def named(self, argument: str) -> Self:
        """The same error for an argument that the user knows under another name, such as an option.

        Examples:
            >>> print(InputError("strides", "5", "at most the window").named("--stride"))
            --stride is 5; accepted: at most the window
        """
        return type(self)(argument, *self.args[1:])


class OutdatedError(InputError):
    """A map to be resumed that the forward function no longer gives: the model or its weights changed."""


class FallbackWarning(UserWarning):
    """The full computation runs instead of the incremental one; the message says why."""


class RoundingWarning(UserWarning):
    """A map is about as small as what rounding does to it, so that nothing can prove it right."""


class OcclusionCancelled(RuntimeError):
    """A run was cancelled; ``partial``, a Heatmap or a Tuning, holds what had been computed by then."""

    def __init__(self, partial: Any) -> None:
        super().__init__("the occlusion run was cancelled; .partial holds what had been computed")
        self.partial = partial
