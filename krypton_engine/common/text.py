"""Words for errors that other code raises."""

from __future__ import annotations


def one_line(error: BaseException) -> str:
    """The text of an error, on one line of at most some 200 characters; its type where there is no text.

    Examples:
        >>> one_line(ValueError("one  two"))
        'one two'
    """
    text = " ".join(str(error).split())
    return (text[:200] + "...") if len(text) > 200 else text or type(error).__name__
