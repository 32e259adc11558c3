"""``krypton collect``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from krypton_engine.cli import scan
from krypton_engine.cli.asking import add_map_options, check_extents, check_tuning, of_picture, of_scan
from krypton_engine.cli.command import BROKEN_PROMISE, INTERRUPTED, Command
from krypton_engine.cli.model import (
    activation_of,
    class_name,
    load,
    preparer_of,
    question_of_picture,
    target_of,
)
from krypton_engine.cli.options import WEIGHTS_HELP, add_model_options, up_to_one, whole_number
from krypton_engine.cli.running import request_for
from krypton_engine.cli.text import counted, duration, row, tell
from krypton_engine.errors import InputError

if TYPE_CHECKING:
    from krypton_engine.attr.learn import OnSample
    from krypton_engine.attr.request import MapRequest
    from krypton_engine.cli.asking import Asked
    from krypton_engine.collection import Collection
    from krypton_engine.collection.call import Explained
    from krypton_engine.collection.sources import Item
    from krypton_engine.medical import Scan
    from krypton_engine.planning.planner import Preparer
    from krypton_engine.tuning.tuning import Tuning
    from krypton_engine.zoo import ZooModel

_TOLD = 5
"""Failures that are listed."""

_ASKED = (
    "model", "window", "stride", "target", "baseline", "activation", "regions", "filling", "samples", "ssim",
    "size", "mean", "std",
)  # fmt: skip
"""Options that another collection may differ in."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder of pictures or of scans (NIfTI, OME-TIFF, DICOM series), with all below it; or a "
        "manifest, .csv or .parquet: a column path, and perhaps id, target, region (top left bottom right) "
        "and group",
    )
    add_map_options(parser)
    parser.set_defaults(method="occlusion")
    parser.add_argument(
        "-o", "--out", metavar="FOLDER", type=Path, required=True, help="where the collection is to be"
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=whole_number,
        help="processes (one a core, or fewer if OMP_NUM_THREADS gives them more threads than one)",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        nargs="?",
        const="",
        help="work on a Ray cluster, an actor a core and one a GPU; without an address on that of "
        "RAY_ADDRESS, or on one of this machine's own",
    )
    parser.add_argument(
        "--tune",
        metavar="N",
        type=whole_number,
        default=0,
        help="with --ssim: tune on so many random pictures first, and explain the rest with that",
    )
    parser.add_argument(
        "--audit",
        metavar="X",
        type=up_to_one,
        default=0.0,
        help="with --ssim: compute exact maps of this share of the pictures too, and say on how many the "
        "target was kept; below what was promised, the exit status is 3",
    )
    parser.add_argument("--retry", action="store_true", help="try pictures again that failed before")
    add_model_options(parser, weights=WEIGHTS_HELP)


@dataclass(frozen=True)
class _MapCall:
    """The maps that ``krypton explain`` makes, as `krypton_engine.collection` wants them."""

    arguments: argparse.Namespace
    model: ZooModel
    preparer: Preparer
    fingerprint: str
    tuning: Tuning | None

    @property
    def asked(self) -> Mapping[str, Any]:
        from krypton_engine.collection.call import told

        words = {name: getattr(self.arguments, name) for name in _ASKED}
        words |= {name: given and str(given) for name, given in words.items() if name in ("window", "stride")}
        return words | {"tuning": told(None if self.arguments.tuning is None else self.tuning)}

    @property
    def ssim_target(self) -> float | None:
        found: float | None = self.arguments.ssim
        return found

    def check(self, prepared: Asked | None) -> None:
        from krypton_engine.collection.call import noise_picture

        noise = noise_picture()
        self._request(prepared or of_picture(self.arguments, self.model, noise, "noise"), None)

    def prepared(self, item: Item, path: str) -> Asked:
        from krypton_engine import medical, zoo

        if not medical.is_scan(path):
            return of_picture(self.arguments, self.model, zoo.load_image(path), item.id)
        found = medical.read_scan(path)
        return of_scan(self.arguments, self.model, self.model.preprocess(found)[None], found)

    def _request(self, asked: Asked, item: Item | None, exact: bool = False) -> MapRequest:
        """The request for a map of a picture."""
        name = "noise" if item is None else item.id
        question, raw = question_of_picture(self.model, asked.x, asked.positions, asked.baseline, name)
        given = (item and item.target) or self.arguments.target
        target = int(raw.argmax()) if given is None else target_of(given, self.model, len(raw))
        ssim, tuning = (None, None) if exact else (self.arguments.ssim, self.tuning)
        region = None if item is None else item.region
        activation = activation_of(self.arguments, raw)
        return request_for(question, target, activation, ssim, tuning, asked.filling, region)

    def explained(self, prepared: Asked, item: Item, exact: bool = False) -> Explained:
        import torch

        from krypton_engine.attr import explain
        from krypton_engine.collection.call import Explained, grey, grey_of_input
        from krypton_engine.heatmap.identity import Origin

        began = time.perf_counter()
        request = self._request(prepared, item, exact)
        with torch.no_grad():
            heatmap = explain.heatmap(self.preparer, request, began, None, False, Origin())
        assert heatmap.base_outputs is not None or request.classes is None
        predicted = ""
        if heatmap.base_outputs is not None:
            predicted = class_name(self.model, int(heatmap.base_outputs.argmax()))
        x = prepared.x[0]
        picture = grey(self.model.display(x)) if prepared.scan is None else grey_of_input(x)
        return Explained(heatmap, predicted, picture)

    def tuned(self, images: Sequence[Asked], known: Tuning | None, on_progress: OnSample) -> Tuning:
        import torch

        from krypton_engine.attr.learn import learn, learning_request

        if any(not asked.baseline.equal(images[0].baseline) for asked in images):
            accepted = "one for all with --tune: grey, black or a number"
            raise InputError(
                "--baseline", images[0].covers, accepted, "which differs from picture to picture"
            )
        requests = (self._request(asked, None, exact=True) for asked in images)
        target = None if self.arguments.target is None else self._request(images[0], None, exact=True).target
        with torch.no_grad():
            request = learning_request(requests, target, None, None, known)
            return learn(self.preparer, request, time.perf_counter(), on_progress, False)

    def with_tuning(self, tuning: Tuning) -> _MapCall:
        from krypton_engine.collection.call import hashed, tuning_digest

        return replace(self, tuning=tuning, fingerprint=hashed(self.fingerprint, tuning_digest(tuning)))


def _collect(arguments: argparse.Namespace) -> int:
    from krypton_engine.collection.call import fingerprint_of
    from krypton_engine.collection.crew import usual_workers
    from krypton_engine.collection.run import Force, run
    from krypton_engine.collection.sources import source_of

    began = time.monotonic()
    tuning = check_tuning(arguments)
    try:
        source = source_of(arguments.source)
        first = _first_scan(list(source.items))
    except InputError as error:
        raise error.named("SOURCE") from None
    if first is None:
        check_extents(arguments)
        model, noun = load(arguments, arguments.weights or "pretrained"), "picture"
    else:
        model, noun = scan.load(arguments, first)[0], "scan"
    fingerprint = fingerprint_of(model.model, model.preprocess)
    call = _MapCall(arguments, model, preparer_of(arguments), fingerprint, tuning)
    workers = arguments.workers or (None if arguments.ray is not None else usual_workers(model.model))
    force = Force(workers, arguments.ray)
    row("model", f"{model.name}: {model.note}")
    by = "what the cluster has" if workers is None else counted(workers, "worker")
    row(f"{noun}s", f"{source.count}, by {by}")
    try:
        collection = run(
            source, call, arguments.out, model.name, force, arguments.retry, sys.stderr.isatty(),
            arguments.tune, arguments.audit,
        )  # fmt: skip
    except KeyboardInterrupt:
        tell(f"krypton: interrupted; what is done is in {arguments.out}, and the same command goes on")
        return INTERRUPTED
    except OSError:
        tell(f"krypton: what is done is kept in {arguments.out}, and the same command goes on")
        raise
    _show(collection, arguments.out, noun)
    row("took", duration(time.monotonic() - began))
    audit = collection.audit
    if audit is not None:
        row("audit", audit)
    if audit is not None and audit.is_broken:
        tell(f"krypton: the promise is broken: the target is kept on fewer than {audit.promise:.0%}")
        return BROKEN_PROMISE
    return 0


def _first_scan(items: Sequence[Item]) -> Scan | None:
    """The first scan that can be read, by which the model is loaded; None where the images are pictures.

    Raises:
        InputError: Some are scans and some are pictures, or no scan can be read.
    """
    from krypton_engine.collection.work import read
    from krypton_engine.medical import is_scan, read_scan

    scans = [item for item in items if is_scan(item.path)]
    if not scans:
        return None
    if len(scans) < len(items):
        picture = next(item for item in items if not is_scan(item.path))
        given = f"scans, such as {scans[0].id}, and pictures, such as {picture.id}"
        raise InputError("source", given, "either, which take different models", verb="holds")
    reason = InputError("source", "nothing")
    for item in scans:
        try:
            with read(item) as (_, path):
                return read_scan(path)
        except (OSError, InputError) as error:
            reason = InputError("source", f"{counted(len(scans), 'scan')}", problem=f"none readable: {error}")
    raise reason


def _show(collection: Collection, out: Path, noun: str) -> None:
    """Write the contact sheets, and print what became of the images."""
    failures = collection.failures
    row("explained", f"{len(collection)} of {counted(len(collection) + len(failures), noun)}")
    for name, reason in list(failures.items())[:_TOLD]:
        row("failed", f"{name}: {reason}")
    if len(failures) > _TOLD:
        row("", f"and {len(failures) - _TOLD} more: {out / 'manifest.parquet'} has them all")
    for name in ("contact.html", "contact.png"):
        collection.contact_sheet(out / name)
    row("written", f"{out}: open {out / 'contact.html'}")


COMMAND = Command("collect", "compute the heatmaps of a whole collection", _add_options, _collect)
