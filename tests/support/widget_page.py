"""An explorer seen from its page: what is sent there, and what a person does there."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
from PIL import Image

from krypton_engine import Heatmap, KryptonOcclusion
from krypton_widget.pictures import ModelInput

SENT = {
    "sent": "_cells",
    "view": "_view",
    "frame": "_frame",
    "comparison": "_comparison",
    "together": "_together",
    "curves": "_curves",
    "names": "_class_names",
    "thumbnails": "_thumbnails",
    "failed": "_failed",
}
"""Parts of the state that only the page reads, by the names that they have here."""


class Page:
    """What a page has of an explorer: the state that the widget sends, and the messages between them."""

    def __init__(self, explorer):
        self.explorer = explorer

    def __getattr__(self, name):
        if name not in SENT:
            raise AttributeError(name)
        return self.explorer.get_state(SENT[name])[SENT[name]]

    @property
    def run(self) -> dict:
        """All that is sent of a run, by the names that it is sent by."""
        return self.explorer.get_state(["_view", "_frame", "_comparison", "running", "error", "_failed"])

    @property
    def picture(self) -> np.ndarray:
        """The picture under the map: uint8, height x width x 3."""
        return np.asarray(Image.open(io.BytesIO(self.view["picture"])))

    def cells(self, name: str) -> np.ndarray:
        """Numbers of the frame, by axis of the image."""
        kind = {"values": np.float32, "status": np.uint8, "classes": np.int32}[name]
        return np.frombuffer(self.frame[name], kind).reshape(self.frame["counts"])

    def until_drawn(self, seconds: float = 60) -> None:
        """Wait for the first map, however coarse."""
        ends = time.monotonic() + seconds
        while not self.frame:
            assert time.monotonic() < ends, "nothing was drawn"
            time.sleep(0.01)

    def press_save(self, ending: str) -> list[tuple[str, bytes]]:
        """Ask for a file as the page's button does: names and contents of the files that come."""
        came = []
        comm, send = self.explorer.comm, self.explorer.comm.send

        def receive(data, metadata=None, buffers=None):
            if data.get("method") == "custom" and data["content"]["kind"] == "file":
                came.append((data["content"]["name"], bytes(buffers[0])))

        comm.send = receive
        try:
            asked = {"method": "custom", "content": {"kind": "save", "as": ending, "view": "1"}}
            comm.handle_msg({"content": {"data": asked}, "buffers": []})
        finally:
            comm.send = send
        return came


class Drawings:
    """Notes which maps are drawn into files, and how; the files stay empty.

    Args:
        monkeypatch: pytest's.
    """

    def __init__(self, monkeypatch):
        self.taken = []
        monkeypatch.setattr(
            Heatmap,
            "content",
            lambda heatmap, ending, **picture: self.taken.append((heatmap, picture)) or b"",
        )

    def of(self, explorer, folder: Path) -> tuple[Heatmap, dict]:
        """The map that an explorer saves now, and the arguments that it is drawn with."""
        explorer.save(folder / "map.png")
        return self.taken[-1]


def map_of(model, explorer, image, window: int, stride: int, **options) -> Heatmap:
    """The engine's own map of what an explorer shows of an image that has no preprocessing."""
    given = ModelInput(image, None)
    return KryptonOcclusion(model).heatmap(
        given.x,
        (given.x.shape[1], window, window),
        (given.x.shape[1], stride, stride),
        given.patch(explorer.baseline),
        explorer.target,
        activation="softmax",
        **options,
    )
