"""Explain a collection: the run from a source to a folder of maps."""

from __future__ import annotations

import os
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

import krypton_engine
from krypton_engine.attr.checks import Activation
from krypton_engine.attr.request import Fillings
from krypton_engine.collection import rows
from krypton_engine.collection.call import Call, OcclusionCall
from krypton_engine.collection.collection import Collection
from krypton_engine.collection.crew import Crew, Engine, LocalWorker, replies, saved_call, threads_each
from krypton_engine.collection.plan import Ledger, pending
from krypton_engine.collection.rows import FAILED
from krypton_engine.collection.sources import Source, source_of
from krypton_engine.collection.store import Store
from krypton_engine.collection.work import Here, Task
from krypton_engine.common.arguments import at_least
from krypton_engine.tuning.tuning import Tuning

if TYPE_CHECKING:
    import PIL.Image

_CALL = ".krypton-call"
"""The call as workers read it, for as long as a run lasts; a killed run's is removed by the next."""


def explain(
    source: str | os.PathLike[str] | Mapping[str, Any] | Iterable[tuple[str, Any]],
    model: object,
    sliding_window_shapes: tuple[int, ...] | None = None,
    strides: int | tuple[int, ...] | None = None,
    baselines: Fillings = None,
    target: int | tuple[int, ...] | None = None,
    *,
    out: str | os.PathLike[str],
    preprocess: Callable[[PIL.Image.Image], Tensor] | None = None,
    regions: Tensor | None = None,
    activation: Activation = None,
    region: Tensor | Sequence[int] | None = None,
    classes: Literal["predicted", "all"] = "predicted",
    ssim_target: float | None = None,
    tuning: Tuning | None = None,
    executor: str = "auto",
    memory_budget: int | None = None,
    workers: int = 1,
    retry: bool = False,
    show_progress: bool = False,
) -> Collection:
    """Explain every image of a collection, and keep the maps in a folder.

    The same call goes on where an earlier one ended, however it ended: a row is done again only if its
    image's bytes, the model or the image's own target or region have changed. A file of the same size and
    time of change counts as unchanged. Maps are those of `KryptonOcclusion.heatmap`, bit by bit on the same
    machine with as many threads; of approximate maps without a tuning that holds for networks for which no
    cheap map is drawn upon, whose cost is a matter of time.

    Args:
        source: A folder, with all below it; a manifest, ``.csv`` or ``.parquet``, with a column ``path`` and
            perhaps ``id``, ``target`` (an index, or a name of a model of the zoo), ``region`` (top left
            bottom right) and ``group``; or pairs of an id and an array, the model's input without a batch
            dimension, or a mapping of them. Pairs may come one by one.
        model: The model, any forward function, or a `krypton_engine.zoo.ZooModel`, which has a preprocessing
            and names of classes.
        sliding_window_shapes: As in `KryptonOcclusion.heatmap`.
        strides: As in `KryptonOcclusion.heatmap`.
        baselines: As in `KryptonOcclusion.heatmap`.
        target: As in `KryptonOcclusion.heatmap`; a manifest may say otherwise for its rows.
        out: The folder; it may not be there yet, be empty, or hold a collection of the same call.
        preprocess: From an RGB picture to the model's input ``(C, H, W)``; needed for files.
        regions: As in `KryptonOcclusion.heatmap`.
        activation: As in `KryptonOcclusion.heatmap`.
        region: As in `KryptonOcclusion.heatmap`; a manifest may say otherwise for its rows.
        classes: As in `KryptonOcclusion.heatmap`.
        ssim_target: As in `KryptonOcclusion.heatmap`.
        tuning: As in `KryptonOcclusion.heatmap`.
        executor: As of `KryptonOcclusion`.
        memory_budget: As of `KryptonOcclusion`, for each worker.
        workers: Processes; with 1 this one does it all. Several share the cores, or have the threads of
            ``OMP_NUM_THREADS`` each.
        retry: Whether images that failed before are tried again.
        show_progress: Whether to draw a progress bar with the time left and images a minute.

    Returns:
        The collection. Images that failed are rows with a reason: ``Collection.failures``.

    Raises:
        InputError: An argument that cannot be used, or a folder of another call, of a newer version, or in
            use; nothing has been computed then.
        OSError: The folder cannot be written to, or is full; what is done is kept.

    Examples:
        >>> images = {"left": x[0], "right": x[0].flip(2)}
        >>> collection = explain(images, model, (3, 8, 8), (3, 4, 4), out="maps")
        >>> collection["left"].drop.shape, len(collection)
        (torch.Size([5, 4]), 2)
    """
    arguments = {
        "sliding_window_shapes": sliding_window_shapes, "strides": strides, "baselines": baselines,
        "target": target, "regions": regions, "activation": activation, "region": region,
        "classes": classes, "ssim_target": ssim_target, "tuning": tuning,
    }  # fmt: skip
    at_least(1, "workers", workers)
    found = source_of(source)
    call = OcclusionCall.of(model, arguments, preprocess, executor, memory_budget)
    return run(found, call, Path(out), words(model), workers, retry, show_progress)


def words(model: object) -> str:
    """The name of a model, for people.

    Examples:
        >>> words(zoo_model), words(model)
        ('a model', 'Sequential')
    """
    name = getattr(model, "name", None) or getattr(model, "__qualname__", None) or type(model).__name__
    return str(name)


def run(
    source: Source, call: Call, out: Path, model: str, workers: int, retry: bool, show_progress: bool
) -> Collection:
    """Explain what is left of a collection.

    Args:
        source: The images.
        call: The call that explains one.
        out: The folder.
        model: Name of the model.
        workers: Processes.
        retry: Whether images that failed before are tried again.
        show_progress: Whether to draw a progress bar.

    Raises:
        InputError: Arguments that fit no image, or a folder that cannot be used.

    Examples:
        >>> arguments = {"sliding_window_shapes": (3, 8, 8), "strides": (3, 8, 8)}
        >>> call = OcclusionCall.of(model, arguments, None, "auto", None)
        >>> found = run(source_of({"a": x[0]}), call, Path("maps"), "a model", 1, False, False)
        >>> found["a"].window.strides
        (3, 8, 8)
    """
    if source.is_listed:
        call.check(next((item for item in source.items if item.array is not None), None))
    asked = {
        "krypton": krypton_engine.__version__, "torch": torch.__version__,
        "python": platform.python_version(), "model": model, "call": dict(call.asked),
    }  # fmt: skip
    with Store(out, asked) as store:
        ledger = Ledger(rows.read_all(out), call, retry)
        tasks: Iterable[Task] = ledger.tasks(source.items)
        if source.is_listed:
            tasks = list(tasks)
            store.begin(pending(task) for task in tasks if not task.known)
        total = len(tasks) if isinstance(tasks, list) else source.count
        try:
            if total != 0:
                _work(store, call, tasks, total, workers, show_progress)
        except KeyboardInterrupt:
            store.write_manifest()
            raise
        store.finish()
    return Collection(out)


def _work(
    store: Store, call: Call, tasks: Iterable[Task], total: int | None, workers: int, show_progress: bool
) -> None:
    """Work through tasks, and keep what comes of them."""
    engine = _engine(store, call, workers)
    told: set[str] = set()
    failures, began = 0, time.monotonic()
    try:
        with tqdm(total=total, desc="Krypton", unit="image", disable=not show_progress) as bar:
            for done, reply in enumerate(replies(engine, tasks), 1):
                if reply.record is not None:
                    store.keep(reply.record, reply.arrays)
                    failures += reply.record["status"] == FAILED
                for category, text in reply.notes:
                    if text not in told:
                        told.add(text)
                        warnings.warn(text, category, stacklevel=4)
                pace = f"{60 * done / (time.monotonic() - began):.3g} images/min"
                bar.set_postfix_str(pace + f", {failures} failed" * bool(failures), refresh=False)
                bar.update()
    finally:
        engine.close()
        (store.out / _CALL).unlink(missing_ok=True)


def _engine(store: Store, call: Call, workers: int) -> Engine:
    """This process, or a crew of several."""
    if workers == 1:
        return Here(call)
    path = store.out / _CALL
    saved_call(call, path)
    return Crew(call, [LocalWorker(path, threads_each(workers)) for _ in range(workers)])
