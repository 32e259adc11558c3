"""The files of a collection, and the order in which they are written, so that no kill loses a map.

::

    OUT/collection.json     what was asked, by which versions            written first, whole
    OUT/lock                held by the one process that writes; the system lets go of it when that dies
    OUT/fresh/ROW.npz       a finished row: its record and its map        written whole, once it is finished
    OUT/maps/GRID/FIELD     Zarr v3: an array for each grid and field, sharded; a map lies at its row's number
    OUT/parts/BLOCK.parquet records whose maps are in the shards of a block of rows
    OUT/manifest.parquet    all records, as of the last start or end

A row's number never changes: its place in the source when it was first seen. Only the process that holds
the lock writes; workers send it what they find. A finished row is first a file in ``fresh``, written beside
its place and then put there, when its content is on the disk. When all rows of a block are fresh, and at the
end, the block is *sealed*: its shards are written (each beside its place, then put there), then its part, and
only then its fresh files are removed. The manifest is written anew, in one step, out of all records; only
then are the parts removed.

Whatever is read, the first of these that has the row is right: ``fresh``, ``parts``, ``manifest``. So a kill
between any two steps leaves either the old state or the new, or a step that is done again with the same
result: sealing gives the same bytes each time, since a row's place depends neither on the order in which rows
are finished nor on who finished them. (Of its record only ``seconds`` does, and ``modified``.) What a kill or
a full disk costs is what was being computed; what it leaves beside are files that no name points to, which
the next start removes.
"""

from __future__ import annotations

from pathlib import Path

ASKED, LOCK, MANIFEST, FRESH, PARTS, MAPS = (
    "collection.json", "lock", "manifest.parquet", "fresh", "parts", "maps",
)  # fmt: skip

AUDIT = "audit"
"""Folder of the rows that have been audited, a file each."""

TUNING = "tuning.json"

FORMAT = 1
"""Version of the layout."""

BLOCK = 1024
"""Rows of a block."""


def leftovers(out: Path) -> list[Path]:
    """Files that a killed writer left beside those that it was about to put there.

    Examples:
        >>> _ = Path(".krypton-0123").write_bytes(b"half")
        >>> leftovers(Path("."))
        [...Path('.krypton-0123')]
    """
    return [*out.rglob(".krypton-*"), *out.rglob("*.partial")]
