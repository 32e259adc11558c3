"""Collections of scans: files and series of slices, by command and from Python."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from support import scans

from krypton_engine import KryptonOcclusion
from krypton_engine.cli import main
from krypton_engine.collection import Collection, explain
from krypton_engine.medical import read_scan
from krypton_engine.zoo import load_scan_model

FACTORY = """
import torch
from torch import nn

def network():
    torch.manual_seed(0)
    layers = nn.Conv3d(1, 3, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(24, 2)
    return nn.Sequential(*layers), lambda scan: scan.tensor / 1000, ["sick", "well"]
"""
AFFINE = np.array([[0, 0, 0.8, -9], [0, 0.5, 0, 4], [3.0, 0.0, 0, 7], [0, 0, 0, 1.0]])
COLLECT = "scans", "--model", "scans_of_a_folder:network", "--stride", "2,2,2", "--workers", "1"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two series, one of them of files without an ending, a NIfTI and one that is torn."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans_of_a_folder.py").write_text(FACTORY)
    found = tmp_path / "scans"
    (found / "anna").mkdir(parents=True)
    for seed, name in enumerate(("anna/t1", "bob")):
        scans.write(found / name, scans.series(AFFINE, scans.volume((6, 12, 10), seed)))
    for path in (found / "anna/t1").iterdir():
        path.rename(path.with_suffix(".dcm"))
    nibabel = pytest.importorskip("nibabel")
    cells = np.random.default_rng(0).normal(0, 300, (10, 12, 6)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(cells, np.eye(4)), found / "carl.nii.gz")
    (found / "torn.nii.gz").write_bytes((found / "carl.nii.gz").read_bytes()[:99])
    return found


def alone(path, shape=(1, 2, 4, 4)):
    model, x = load_scan_model("scans_of_a_folder:network", read_scan(path))
    found = KryptonOcclusion(model.model).heatmap(
        x, shape, (1, 2, 2, 2), float(x.min()), int(model.model(x).argmax()), activation="softmax",
        classes="all",
    )  # fmt: skip
    return replace(found, image=None)


def test_maps_of_scans_are_those_of_one_scan(folder, capsys):
    words = "collect", *COLLECT, "--window", "6,2,3.2mm", "-o", "maps"
    sizes = {"anna/t1": (1, 2, 4, 4), "bob": (1, 2, 4, 4), "carl.nii.gz": (1, 6, 2, 3)}
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "4, by 1 worker" in printed and "3 of 4 scans" in printed, printed
    found = Collection("maps")
    assert list(found) == list(sizes) and list(found.failures) == ["torn.nii.gz"]
    for name, shape in sizes.items():
        torch.testing.assert_close(found[name].values, alone(folder / name, shape).values)
    x = read_scan(folder / "bob").tensor[0]
    shown = found.picture("bob").astype(float)
    assert shown.shape == (6, 12, 10)
    assert np.corrcoef(shown.ravel(), x.numpy().ravel())[0, 1] > 0.9
    assert "data:image/jpeg" in (folder.parent / "maps/contact.html").read_text()

    computed = {name: found.row(name)["seconds"] for name in found}
    one = sorted((folder / "bob").iterdir())[3]
    one.write_bytes(one.read_bytes() + bytes(8))  # DICOM may end so
    assert main(words) == 0
    again = Collection("maps")
    assert [name for name in again if again.row(name)["seconds"] != computed[name]] == ["bob"]


def test_from_python_a_scan_needs_no_preprocessing(folder, tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten())
    found = explain(folder / "anna/t1", model, (1, 2, 4, 4), (1, 2, 2, 2), out=tmp_path / "maps")
    x = read_scan(folder / "anna/t1").tensor[None]
    expected = KryptonOcclusion(model).heatmap(x, (1, 2, 4, 4), (1, 2, 2, 2))
    assert found["t1"] == replace(expected, image=None)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--window", "16,16"), "--window is 16,16; accepted: one size, or 3"),
        (("--model", "vgg16-brain-mri"), "--model is 'vgg16-brain-mri', which takes pictures"),
        (("--size", "40"), "--size is (40, 40); accepted: none with a scan"),
    ],
)
def test_what_a_collection_of_scans_refuses(folder, capsys, words, told):
    assert main(["collect", *COLLECT, *words, "-o", "maps"]) == 2
    assert told in " ".join(capsys.readouterr().err.split()).replace(" Accepted:", "; accepted:").replace(
        ";;", ";"
    )
    assert not (folder.parent / "maps").exists()


def test_pictures_among_scans_are_refused(folder, capsys):
    Image.new("L", (9, 9)).save(folder / "photo.png")
    assert main(["collect", *COLLECT, "-o", "maps"]) == 2
    assert "holds scans, such as anna/t1, and pictures, such as photo.png" in " ".join(
        capsys.readouterr().err.split()
    )
