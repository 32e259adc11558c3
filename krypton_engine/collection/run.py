"""Explain a collection: the run from a source to a folder of maps."""

from __future__ import annotations

import os
import platform
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

import krypton_engine
from krypton_engine.attr.checks import Activation
from krypton_engine.attr.request import Fillings
from krypton_engine.collection import rows
from krypton_engine.collection.audit import Audited, chosen, read_audited
from krypton_engine.collection.call import Call, OcclusionCall
from krypton_engine.collection.cluster import RayWorker
from krypton_engine.collection.collection import Collection
from krypton_engine.collection.crew import (
    Crew,
    Engine,
    LocalWorker,
    replies,
    saved_call,
    threads_each,
    usual_workers,
)
from krypton_engine.collection.layout import AUDIT, TUNING
from krypton_engine.collection.plan import Ledger, pending
from krypton_engine.collection.rows import FAILED
from krypton_engine.collection.sources import Source, source_of
from krypton_engine.collection.store import Store
from krypton_engine.collection.work import Here, Reply, Task, heatmap_of, read
from krypton_engine.common import files
from krypton_engine.common.arguments import at_least
from krypton_engine.errors import InputError
from krypton_engine.medical import is_scan
from krypton_engine.tuning.tuning import CONFIDENCE, Tuning


@dataclass(frozen=True)
class Force:
    """The workers of a run.

    Attributes:
        workers: Their number; None, on a cluster, for what there is.
        ray: Address of a Ray cluster; see `explain`. None for processes of this machine.
    """

    workers: int | None
    ray: str | None = None


_TRIED = 3
"""Scans that are read to find one by which the arguments are checked."""

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
    preprocess: Callable[[Any], Tensor] | None = None,
    regions: Tensor | None = None,
    activation: Activation = None,
    region: Tensor | Sequence[int] | None = None,
    classes: Literal["predicted", "all"] = "predicted",
    ssim_target: float | None = None,
    tuning: Tuning | None = None,
    executor: str = "auto",
    memory_budget: int | None = None,
    tune: int = 0,
    audit: float = 0.0,
    workers: int | None = 1,
    ray: str | None = None,
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
        source: A folder, with all below it: pictures, or scans (NIfTI, OME-TIFF; folders of a DICOM series);
            a manifest, ``.csv`` or ``.parquet``, with a column ``path`` (of a picture, a scan or a series)
            and perhaps ``id``, ``target`` (an index, or a name of a model of the zoo), ``region`` (top left
            bottom right) and ``group``; or pairs of an id and an array, the model's input without a batch
            dimension, or a mapping of them. Pairs may come one by one.
        model: The model, any forward function, or a `krypton_engine.zoo.ZooModel`, which has a preprocessing
            and names of classes.
        sliding_window_shapes: As in `KryptonOcclusion.heatmap`.
        strides: As in `KryptonOcclusion.heatmap`.
        baselines: As in `KryptonOcclusion.heatmap`.
        target: As in `KryptonOcclusion.heatmap`; a manifest may say otherwise for its rows.
        out: The folder; it may not be there yet, be empty, or hold a collection of the same call.
        preprocess: From an RGB picture to the model's input ``(C, H, W)``, which pictures need; or from a
            `krypton_engine.medical.Scan`, without one its ``tensor``.
        regions: As in `KryptonOcclusion.heatmap`.
        activation: As in `KryptonOcclusion.heatmap`.
        region: As in `KryptonOcclusion.heatmap`; a manifest may say otherwise for its rows.
        classes: As in `KryptonOcclusion.heatmap`.
        ssim_target: As in `KryptonOcclusion.heatmap`.
        tuning: As in `KryptonOcclusion.heatmap`.
        executor: As of `KryptonOcclusion`.
        memory_budget: As of `KryptonOcclusion`, for each worker.
        tune: Number of random images to tune on before all others, with ``ssim_target``; the tuning is kept
            in the folder. 0 for none.
        audit: Share of the images, above 0 and at most 1, whose exact maps are computed as well, with
            ``ssim_target``, to say on how many it was kept: ``Collection.audit``. 0 for none.
        workers: Processes; with 1 this one does it all. Several share the cores, or have the threads of
            ``OMP_NUM_THREADS`` each. None for as many as the cores allow.
        ray: Address of a Ray cluster whose actors are the workers, as many as ``workers``, or as its cores
            and GPUs allow; empty for that of ``RAY_ADDRESS``, or one of this machine's own. None for none.
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
    if workers is not None:
        at_least(1, "workers", workers)
    found = source_of(source)
    call = OcclusionCall.of(model, arguments, preprocess, executor, memory_budget)
    force = Force(workers or (None if ray is not None else usual_workers(model)), ray)
    return run(found, call, Path(out), words(model), force, retry, show_progress, tune, audit)


def words(model: object) -> str:
    """The name of a model, for people.

    Examples:
        >>> words(zoo_model), words(model)
        ('a model', 'Sequential')
    """
    name = getattr(model, "name", None) or getattr(model, "__qualname__", None) or type(model).__name__
    return str(name)


def run(
    source: Source,
    call: Call,
    out: Path,
    model: str,
    force: Force,
    retry: bool,
    show_progress: bool,
    tune: int = 0,
    audit: float = 0.0,
) -> Collection:
    """Explain what is left of a collection.

    Args:
        source: The images.
        call: The call that explains one.
        out: The folder.
        model: Name of the model.
        force: The workers.
        retry: Whether images that failed before are tried again.
        show_progress: Whether to draw a progress bar.
        tune: Number of images to tune on.
        audit: Share of the images to audit.

    Raises:
        InputError: Arguments that fit no image, or a folder that cannot be used.

    Examples:
        >>> arguments = {"sliding_window_shapes": (3, 8, 8), "strides": (3, 8, 8)}
        >>> call = OcclusionCall.of(model, arguments, None, "auto", None)
        >>> found = run(source_of({"a": x[0]}), call, Path("maps"), "a model", Force(1), False, False)
        >>> found["a"].window.strides
        (3, 8, 8)
    """
    _check_approximation(source, call, tune, audit)
    if source.is_listed:
        _check_arguments(source, call)
    asked = {
        "krypton": krypton_engine.__version__, "torch": torch.__version__,
        "python": platform.python_version(), "model": model, "ssim_target": call.ssim_target,
        "promise": CONFIDENCE if call.tuning is None else call.tuning.confidence,
        "call": {**call.asked, "tune": tune},
    }  # fmt: skip
    with Store(out, asked) as store:
        if tune:
            call = call.with_tuning(_tuning(store, call, source, tune, show_progress))
        ledger = Ledger(rows.read_all(out), call, retry)
        tasks: Iterable[Task] = ledger.tasks(source.items)
        if source.is_listed:
            tasks = list(tasks)
            store.begin(pending(task) for task in tasks if not task.known)
        total = len(tasks) if isinstance(tasks, list) else source.count
        try:
            with closing(_answered(store, call, tasks, total, force, show_progress)) as answered:
                for reply in answered:
                    if reply.record is not None:
                        store.keep(reply.record, reply.arrays)
        except KeyboardInterrupt:
            store.write_manifest()
            raise
        store.finish()
        if audit:
            _audit(store, call, source, audit, force, show_progress)
    return Collection(out)


def _check_arguments(source: Source, call: Call) -> None:
    """Refuse arguments that fit no image, by one of the source; pictures need none."""
    others = (item for item in source.items if item.array is not None or is_scan(item.path))
    tried = list(islice(others, _TRIED))  # the rest need not be looked at
    if not tried:
        call.check(None)
    for item in tried:
        try:
            with read(item) as (_, path):
                prepared = call.prepared(item, path)
        except Exception as error:
            of_file = not isinstance(error, InputError) or error.argument == "source"
            if item.array is None and of_file:  # its row will say so
                continue
            raise
        call.check(prepared)
        return


def _check_approximation(source: Source, call: Call, tune: int, audit: float) -> None:
    """Refuse a tuning and an audit where there is nothing to tune or to audit."""
    if tune < 0:
        raise InputError("tune", f"{tune}", "a number of images, or 0")
    if not 0 <= audit <= 1:
        raise InputError("audit", f"{audit}", "a share of the images, from 0 to 1")
    for name, given in (("tune", tune), ("audit", audit)):
        if given and (call.ssim_target is None or not source.is_listed):
            accepted = "0 without an SSIM target" if source.is_listed else "0 where images come one by one"
            raise InputError(name, f"{given}", accepted)
    if tune and call.tuning is not None:
        raise InputError("tune", f"{tune}", "0 with a tuning")


def _tuning(store: Store, call: Call, source: Source, count: int, show_progress: bool) -> Tuning:
    """The tuning of a collection, on random images of it; it goes on from what is there."""
    items = {item.id: item for item in source.items}
    path, images = store.out / TUNING, []
    for name in chosen(list(items), count, "tuning"):
        with suppress(Exception), read(items[name]) as (_, where):  # of every decoder: a row will say so
            images.append(call.prepared(items[name], where))
    if not images:
        raise InputError("tune", f"{count}", problem="but none of these images can be read")
    known = Tuning.load(path) if path.exists() else None
    with tqdm(total=len(images), desc="Krypton tuning", unit="image", disable=not show_progress) as bar:

        def keep(tuning: Tuning, done: int, total: int) -> None:
            tuning.save(path)
            bar.update()

        try:
            return call.tuned(images, known, keep)
        except InputError:
            if known is None:
                raise
            return call.tuned(images, None, keep)  # what is there was made with another model


def _audit(store: Store, call: Call, source: Source, share: float, force: Force, show_progress: bool) -> None:
    """Compute exact maps of a random part, and note how similar those are that were made."""
    found, known = Collection(store.out), read_audited(store.out)
    items = {item.id: item for item in source.items}
    known_names = [name for name in found if name in items]
    names = chosen(known_names, max(1, round(share * len(known_names))), "audit")
    records = {name: found.row(name) for name in names}
    tasks = [
        Task(record["row"], items[name], exact=True)
        for name, record in records.items()
        if name not in known or known[name].key != record["hash"] or known[name].error
    ]
    with closing(
        _answered(store, call, tasks, len(tasks), force, show_progress, "Krypton audit")
    ) as answered:
        for reply in answered:
            name, record = reply.task.item.id, reply.record
            if record is None or record["hash"] != records[name]["hash"]:
                continue  # the image is another by now
            if record["status"] == FAILED:
                result = Audited(name, record["hash"], error=record["error"])
            else:
                exact = heatmap_of(record, lambda _, arrays=reply.arrays: arrays)  # type: ignore[misc]
                result = Audited(name, record["hash"], found[name].compare(exact).ssim)
            files.write(store.out / AUDIT / f"{record['row']}.json", result.packed())


def _answered(
    store: Store,
    call: Call,
    tasks: Iterable[Task],
    total: int | None,
    force: Force,
    show_progress: bool,
    title: str = "Krypton",
) -> Generator[Reply, None, None]:
    """The answers to tasks, under a progress bar."""
    if total == 0:
        return
    engine = _engine(store, call, force)
    told: set[str] = set()
    failures, began = 0, time.monotonic()
    try:
        with tqdm(total=total, desc=title, unit="image", disable=not show_progress) as bar:
            for done, reply in enumerate(replies(engine, tasks), 1):
                yield reply
                failures += reply.record is not None and reply.record["status"] == FAILED
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


def _engine(store: Store, call: Call, force: Force) -> Engine:
    """This process, a crew of several, or one of a cluster."""
    path = store.out / _CALL
    if force.ray is None and force.workers == 1:
        return Here(call)
    saved_call(call, path)
    if force.ray is not None:
        return RayWorker.crew(call, path, force.ray, force.workers)
    count = force.workers or 1
    return Crew(call, [LocalWorker(path, threads_each(count)) for _ in range(count)])
