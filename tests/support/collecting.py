"""Collections whose maps cost nothing: a call without a model, and what two collections differ in."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from krypton_engine.collection import Collection, rows
from krypton_engine.collection.call import Explained
from krypton_engine.collection.run import Force, run
from krypton_engine.collection.sources import source_of
from krypton_engine.heatmap.heatmap import Heatmap
from krypton_engine.perturbation.windows import SlidingWindow

WINDOW = SlidingWindow((1, 8, 8), (1, 2, 2), (1, 2, 2))


@dataclass(frozen=True)
class Stub:
    """Says of an array ``(1, 8, 8)`` what is in it; notes in a file that it was asked."""

    log: str = ""
    fingerprint: str = "stub"
    seconds: float = 0.0
    fatal: str = ""  # an id that this process dies of
    ssim_target: float | None = None
    tuning: None = None

    @property
    def asked(self):
        return {"window": [1, 2, 2]}

    def check(self, item):
        pass

    def prepared(self, item, path):
        return torch.from_numpy(np.array(item.array))

    def explained(self, prepared, item, exact=False):
        if item.id == self.fatal:
            signal.raise_signal(signal.SIGKILL)
        if float(prepared.sum()) < 0:
            raise ValueError("a negative image")
        if self.log:
            with Path(self.log).open("a") as file:
                file.write(f"{item.id}\n")
        time.sleep(self.seconds)
        values = prepared[0, ::2, ::2].float().clone()
        measured = torch.ones(4, 4, dtype=torch.bool)
        return Explained(Heatmap(values, prepared.max(), measured, WINDOW, target=0))


def arrays(count, seed=0):
    """Images by id."""
    generator = np.random.default_rng(seed)
    return {f"image {i}": generator.random((1, 8, 8), dtype=np.float32) for i in range(count)}


def collect(images, out, call=None, workers=1, retry=False, ray=None):
    return run(source_of(images), call or Stub(), Path(out), "a stub", Force(workers, ray), retry, False)


def files_of(out):
    """All that is in a collection but times: its maps' files bytewise, and the records."""
    out = Path(out)
    maps = {
        str(path.relative_to(out)): path.read_bytes() for path in (out / "maps").rglob("*") if path.is_file()
    }
    table = rows.read(out / "manifest.parquet").drop_columns(["seconds", "modified"])
    others = sorted(
        str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and "maps" not in path.parts
    )
    return maps, table.to_pylist(), others


if __name__ == "__main__":  # a process that may be killed: FOLDER COUNT WORKERS SECONDS
    folder, count, workers, seconds = sys.argv[1:]
    call = Stub(log=f"{folder}/log", seconds=float(seconds))
    found = collect(arrays(int(count)), f"{folder}/out", call, int(workers))
    assert isinstance(found, Collection)
