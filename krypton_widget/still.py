"""A still picture beside a widget, for pages that show a saved notebook without a kernel."""

from __future__ import annotations

import base64
from typing import Any

_GONE = {
    "application/vnd.jupyter.widget-view+json": {"version_major": 2, "version_minor": 0, "model_id": ""},
    "text/plain": "",
}
"""The view of a widget that is no more: Jupyter shows nothing in its place. Pages without a kernel know no
widgets, and show the picture that comes with it."""


def show(bundle: Any) -> None:
    """Show what a widget's ``_repr_mimebundle_`` gives: data by type, or these and their metadata.

    Examples:
        >>> show({"text/plain": "a widget"})  # outside a notebook
        {'text/plain': 'a widget'}
    """
    from IPython.display import display

    data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
    display(data, raw=True, metadata=metadata)  # type: ignore[no-untyped-call]


class Place:
    """An output of a notebook's cell that holds nothing yet.

    Examples:
        >>> place = Place()  # outside a notebook
        {'application/vnd.jupyter.widget-view+json': ...}
        >>> place.fill(b"PNG", "a map")  # which nobody sees there
    """

    def __init__(self) -> None:
        from IPython.display import display

        self._handle = display(_GONE, raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def fill(self, png: bytes, words: str) -> None:
        """Put a picture and its alternative text into the output; from any thread."""
        if self._handle is not None:
            data = {**_GONE, "image/png": base64.b64encode(png).decode()}
            self._handle.update(data, raw=True, metadata={"image/png": {"alt": words}})
