"""`krypton doctor`: figures that are counted right, advice that fits, and words where parts are missing."""

import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from krypton_engine import KryptonOcclusion
from krypton_engine.cli import main, speed
from krypton_engine.cli.advice import Machine, advice
from krypton_engine.executors.native import engine
from krypton_engine.plan.measured import Cost, Measured

needs_engine = pytest.mark.skipif(bool(engine.MISSING), reason=engine.MISSING)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(speed, "_SIDE", 48)
    monkeypatch.setattr(speed, "_RUNS", 1)
    monkeypatch.setattr(speed, "_PEAK_SECONDS", 0.01)


def sections(printed):
    """The lines of every section, by the first word of its title; those before all are of none."""
    found = {"": (lines := [])}
    for line in printed.splitlines():
        if line.startswith(("executors", "extras", "speed", "faster")):
            found[line.split()[0]] = lines = []
        elif line:
            lines.append(line.strip())
    return found


@needs_engine
def test_doctor(capsys, quick):
    assert main(["doctor"]) == 0
    found = sections(capsys.readouterr().out)
    assert torch.__version__ in " ".join(found[""]) and found["executors"] and found["extras"]
    peak, products, convolutions, took, full = found["speed"]
    assert engine.instruction_sets()[0] in peak and "GFLOP/s" in peak
    assert products.startswith("1 x 1") and convolutions.startswith("3 x 3")
    assert all(line.split("GFLOP/s, ")[1].split(" ")[1] == "%" for line in (products, convolutions))
    assert "for 25 windows" in took and "full passes" in full  # 48 pixels, 16 of them, every 8
    assert found["faster"]


def test_doctor_without_the_engine(capsys, quick, monkeypatch):
    monkeypatch.setattr(engine, "MISSING", "the C++ engine is not installed (here)")
    assert main(["doctor"]) == 0
    found = sections(capsys.readouterr().out)
    assert found["speed"][0].startswith("peak") and "unknown" in found["speed"][0]
    assert not any("of the peak" in line for line in found["speed"])
    assert "the C++ engine is not installed" in " ".join(found["faster"])


@pytest.mark.parametrize("command", ["info", "doctor"])
def test_without_torch(capsys, monkeypatch, command):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main([command]) == 2
    assert "pip install torch" in capsys.readouterr().out


def test_rates_count_multiplications_and_additions():
    """Three cells of 8 channels to 4 by 5 x 5, in half a second; what is no convolution does not count."""
    model = nn.Sequential(
        nn.Conv2d(8, 4, 5, padding=2), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4 * 144, 2)
    ).eval()
    plan = KryptonOcclusion(model).plan(torch.rand(1, 8, 12, 12), (8, 2, 2), (8, 2, 2))
    wide, point, linear = (step.index for step in plan.steps if step.macs)
    costs = {wide: Cost(0.5, cells=3), point: Cost(0.25, cells=3), linear: Cost(9.0)}
    rates = [speed._rate(plan.steps, Measured(1, 1.0, costs), {"0": 5, "1": 1}, side) for side in (5, 1)]
    assert rates == [2 * 3 * 8 * 4 * 25 / 0.5, 2 * 3 * 4 * 4 / 0.25]


WELL = Machine(processors=8, allowed=8, threads=8)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"threads": 2}, ["2 of 8 processors", "torch.set_num_threads(8)"]),
        ({"threads": 2, "environment": {"MKL_NUM_THREADS": "2"}}, ["unset MKL_NUM_THREADS=2"]),
        ({"allowed": 1.5, "threads": 8}, ["1.5 of 8", "quota"]),
        ({"allowed": 1, "environment": {"OMP_PROC_BIND": "true"}}, ["unset OMP_PROC_BIND=true"]),
        ({"engine_missing": "the C++ engine is not installed"}, ["the C++ engine is not installed"]),
        ({"kernels": ("portable",)}, ["no AVX2"]),
        ({"driver": True}, ["NVIDIA driver", "CUDA"]),
        ({"driver": True, "gpu": True, "cuda_missing": "no nvcc"}, ["no nvcc"]),
        ({"environment": {"ATEN_CPU_CAPABILITY": "default"}}, ["unset ATEN_CPU_CAPABILITY=default"]),
        ({"load": 3.0}, ["3.0 of 8 processors were busy"]),
    ],
    ids=lambda value: next(reversed(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_advice(change, parts):
    assert advice(WELL) == []
    (sentence,) = advice(replace(WELL, **change))
    assert all(part in sentence for part in parts)


def test_all_is_well_with_a_gpu():
    assert advice(replace(WELL, gpu=True, driver=True)) == []


@needs_engine
def test_peaks():
    for kernels in engine.instruction_sets():
        assert engine.peak(kernels, 0.001) > 0
    with pytest.raises(ValueError, match="no kernels 'mmx'"):
        engine.peak("mmx", 0.001)
