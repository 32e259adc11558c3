"""The rows that are left to be done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from krypton_engine.collection import rows
from krypton_engine.collection.call import Call
from krypton_engine.collection.rows import DONE, FAILED, PENDING, Record
from krypton_engine.collection.sources import Item
from krypton_engine.collection.work import Task, key_of, stat_of
from krypton_engine.errors import InputError


class Ledger:
    """The rows of a collection as a run finds them.

    Args:
        table: All records.
        call: The call.
        retry: Whether rows that failed are to be tried again.

    Examples:
        >>> from krypton_engine.collection.call import OcclusionCall
        >>> call, item = OcclusionCall.of(model, {}, None, "auto", None), Item("a")
        >>> done = {"row": 0, "id": "a", "status": "done", "image": "01", "hash": key_of("01", call, item)}
        >>> ledger = Ledger(rows.table_of([done]), call, retry=False)
        >>> [(task.row, bool(task.known)) for task in ledger.tasks([item, Item("b")])]
        [(0, True), (1, False)]
    """

    def __init__(self, table: rows.Table, call: Call, retry: bool) -> None:
        self._call = call
        self._settled = (DONE,) if retry else (DONE, FAILED)
        numbers = table["row"].to_pylist()
        self._index = {name: index for index, name in enumerate(table["id"].to_pylist())}
        self._taken, self._next = set(numbers), max(numbers, default=-1) + 1
        self._numbers = numbers
        names = ("status", "hash", "image", "size", "modified")
        self._columns = {name: table[name].to_pylist() for name in names}
        self._seen: set[int] = set()

    def tasks(self, items: Iterable[Item]) -> Iterator[Task]:
        """The tasks that some items, the first of their source and the next ones, still make.

        A row that is there, of a file which has not changed since, makes none; one whose bytes have to be
        read to know that makes one that ends as soon as they are.

        Raises:
            InputError: An id that is there twice.
        """
        for position, item in enumerate(items):
            task = self._task(position, item)
            if task is not None:
                yield task

    def _task(self, position: int, item: Item) -> Task | None:
        index = self._index.get(item.id)
        row = self._new(position) if index is None else self._numbers[index]
        if row in self._seen:
            raise InputError("source", repr(item.id), "ids that are there once", verb="has twice")
        self._seen.add(row)
        if index is None:
            self._index[item.id] = len(self._numbers)
            self._numbers.append(row)
            return Task(row, item)
        if index >= len(self._columns["hash"]) or self._columns["status"][index] not in self._settled:
            return Task(row, item)
        known = self._columns["hash"][index]
        if known != key_of(self._columns["image"][index] or "", self._call, item):
            return Task(row, item)  # of another model
        if item.path and "://" not in item.path:
            was = self._columns["size"][index], self._columns["modified"][index]
            if stat_of(item) == was:
                return None
        return Task(row, item, known)

    def _new(self, position: int) -> int:
        """The number of a new row: its place in the source, or the one after all others."""
        row = self._next if position in self._taken else position
        self._taken.add(row)
        self._next = max(self._next, row + 1)
        return row


def pending(task: Task) -> Record:
    """The record of a row that has not been explained.

    Examples:
        >>> pending(Task(0, Item("a", "a.png")))["status"]
        'pending'
    """
    item = task.item
    return {
        "row": task.row, "id": item.id, "status": PENDING, "group": item.group or None,
        "path": item.path or None,
    }  # fmt: skip
