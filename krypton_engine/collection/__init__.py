"""Maps of a whole collection: resumable, by several workers, verified."""

from krypton_engine.collection.collection import Collection
from krypton_engine.collection.run import explain

__all__ = ["Collection", "explain"]
