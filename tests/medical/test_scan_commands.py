"""``krypton explain`` on scans."""

import nibabel
import numpy as np
import pytest
import torch
from support import scans

from krypton_engine import InputError, KryptonOcclusion
from krypton_engine.cli import main
from krypton_engine.medical import read_scan
from krypton_engine.zoo import load, load_scan_model

FACTORY = """
import torch
from torch import nn

def network():
    torch.manual_seed(0)
    layers = nn.Conv3d(1, 3, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(24, 2)
    return nn.Sequential(*layers), lambda scan: scan.tensor / 1000, ["sick", "well"]

def half():
    return network()[0], lambda scan: scan.tensor[:, ::2]
"""
AFFINE = np.array([[0, 0, 0.8, -9], [0, 0.5, 0, 4], [3.0, 0.0, 0, 7], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    (folder / "scan_factory.py").write_text(FACTORY)
    scans.write(folder / "a series", scans.series(AFFINE, scans.volume((6, 12, 10))))
    return folder


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def explain(*words, image="a series"):
    return main(
        ["explain", image, *(words if "--model" in words else ("--model", "scan_factory:network", *words))]
    )


def test_a_series_becomes_a_map_on_it(capsys, folder, tmp_path):
    sizes = ("--window", "6,2,3.2mm", "--stride", "2,2,2")
    path = tmp_path / "map.nii.gz"
    assert (
        explain(
            *sizes,
            "--target",
            "well",
            "--activation",
            "none",
            "-o",
            str(path),
            "-o",
            str(tmp_path / "map.dcm"),
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "window 2 x 4 x 4, stride 2, black: 60 positions" in printed and "the whole scan" in printed
    assert "slices " in printed and str(path) in printed and "Doe" not in printed
    scan = read_scan(folder / "a series")
    model, x = load_scan_model("scan_factory:network", scan)
    torch.testing.assert_close(x, scan.tensor[None] / 1000)
    expected = KryptonOcclusion(model.model).heatmap(x, (1, 2, 4, 4), (1, 2, 2, 2), float(x.min()), target=1)
    found = nibabel.load(path)
    assert np.allclose(found.get_fdata().T, scans.spread(expected), atol=1e-6)
    assert np.allclose(found.affine, scan.geometry.arranged("WHD").affine, atol=1e-5)
    assert np.allclose(read_scan(tmp_path / "map.dcm").tensor[0], found.get_fdata().T)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--window", "16,16"), "--window is 16,16; accepted: one size, or 3"),
        (("--window", "99"), "--window is 99; accepted: at most the input's dimensions"),
        (("--window", "2", "--stride", "90mm"), "--stride is 90mm"),
        (("--window", "0mm"), "'0mm' is not a positive whole number"),
        (("--window", "1.5"), "'1.5' is not a positive whole number"),
        (("--regions", "slic:9"), "--regions is slic:9; accepted: none with a scan"),
        (("--method", "owen"), "--method is owen"),
        (("--baseline", "grey"), "--baseline is 'grey'; accepted: black"),
        (("--model", "vgg16-brain-mri"), "--model is 'vgg16-brain-mri', which takes pictures"),
        (("--model", "scan_factory:half"), "returns shape (1, 3, 12, 10)"),
        (("-o", "map.gif"), "--out is 'map.gif'"),
    ],
)
def test_what_is_refused(capsys, words, told):
    assert explain(*words) == 2
    assert told in capsys.readouterr().err.replace("\n", " ").replace(" Accepted:", "; accepted:").replace(
        ";;", ";"
    )


@pytest.mark.parametrize("name", ["map.dcm", "map.sc.dcm"])
def test_dicom_without_a_series_is_refused_before_the_work(capsys, folder, name):
    np.save(folder / "plain.npy", np.zeros((12, 12, 10), np.float32))
    assert explain("-o", name, "--model", "no_such:factory", image="plain.npy") == 2
    assert "IMAGE is no DICOM series" in capsys.readouterr().err


def test_millimetres_are_of_scans(capsys, folder):
    assert explain("--window", "16mm", image="chelsea") == 2
    assert "--window is 16mm; accepted: pixels, or height,width, with a picture" in capsys.readouterr().err
    (folder / "empty").mkdir()
    assert explain(image="empty") == 2
    assert "IMAGE is 'empty', a folder without DICOM images" in capsys.readouterr().err


def test_a_scan_that_is_too_small_for_the_model():
    with pytest.raises(InputError, match="accepted: a scan of other sizes"):
        load._number_of_classes("m:f", torch.nn.MaxPool3d(2), (1, 1, 4, 4))
