"""The reader of saved maps for napari: found by its manifest, and right in place."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from importlib.resources import files

import numpy as np
import pytest
import torch
import yaml

from krypton_engine import Heatmap, InputError
from krypton_engine.heatmap.napari import read, reader
from krypton_engine.perturbation.regions import Regions
from krypton_engine.perturbation.windows import SlidingWindow


def drawn(window, **changes):
    size = window.grid_shape
    values = torch.linspace(0, 1, len(window)).reshape(size)
    image = torch.rand(window.input_shape)
    return Heatmap(
        values, torch.tensor(0.5), torch.ones(size, dtype=torch.bool), window, 1, image=image, **changes
    )


def test_the_manifest_names_the_reader():
    (entry,) = [each for each in entry_points(group="napari.manifest") if each.name == "krypton-occlusion"]
    package, _, name = entry.value.partition(":")
    manifest = yaml.safe_load((files(package) / name).read_text())
    assert manifest["name"] == "krypton-occlusion"
    (command,), (contributed,) = manifest["contributions"]["commands"], manifest["contributions"]["readers"]
    assert contributed["command"] == command["id"] and contributed["filename_patterns"] == ["*.npz"]
    module, _, function = command["python_name"].partition(":")
    assert getattr(importlib.import_module(module), function) is reader


@pytest.mark.parametrize("window", [
    SlidingWindow((3, 40, 30), (3, 8, 6), (3, 4, 3)),
    SlidingWindow((2, 10, 40, 30), (2, 4, 8, 6), (2, 2, 4, 3)),
])  # fmt: skip
def test_a_drop_lies_where_its_window_is(window, tmp_path):
    """By the centre of the first and the last whole window, in napari's cells, whose middles are whole."""
    heatmap = drawn(window)
    heatmap.save(tmp_path / "map.npz")
    path = str(tmp_path / "map.npz")
    (below, how, kind), (drop, over, _) = reader(path)(path)
    sizes = window.input_shape[1:]
    assert (
        kind == "image" and below.shape[: len(sizes)] == sizes and how.get("rgb", False) == (len(sizes) == 2)
    )
    np.testing.assert_allclose(drop, heatmap.drop.reshape(window.counts[1:]), rtol=1e-6)
    boxes = window.boxes(np.array([0, 1]))[:, 1:]
    for index, box in zip(((0,) * len(sizes), (0,) * (len(sizes) - 1) + (1,)), boxes, strict=True):
        at = np.array(index) * over["scale"] + over["translate"]
        np.testing.assert_array_equal(at, (box[:, 0] + box[:, 1] - 1) / 2)
    assert over["contrast_limits"] == heatmap.limits()


def test_regions_are_cells_and_unknown_places_bare(tmp_path):
    mask = torch.tensor([[0, 0, 1], [2, 2, 1]])
    heatmap = drawn(Regions.of(mask, (3, 2, 3)))
    heatmap.values[1], heatmap.measured[1] = torch.nan, False
    heatmap.save(tmp_path / "map.npz")
    (_, (drop, over, _)) = read([str(tmp_path / "map.npz")])
    assert "scale" not in over and np.isnan(drop[mask == 1]).all()
    np.testing.assert_allclose(drop[mask == 2], -0.5)


def test_other_files_are_left_to_others(tmp_path):
    np.savez(tmp_path / "other.npz", values=np.zeros(3))
    (tmp_path / "words.npz").write_text("words")
    for name in ("other.npz", "words.npz", "none.npz"):
        assert reader(str(tmp_path / name)) is None
    drawn(SlidingWindow((2, 40), (2, 8), (2, 4))).save(tmp_path / "signal.npz")
    with pytest.raises(InputError, match=r"signal.npz.*pictures and volumes"):
        read(str(tmp_path / "signal.npz"))
