"""The Jupyter explorer widget. It comes with its own issue; nothing is public here yet."""

__all__: list[str] = []
