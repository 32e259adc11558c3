"""An executor is a folder: nobody else names it, and all ask it the same."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch
from support.tiny_models import SmallCNN, incremental

from krypton_engine import FallbackWarning, KryptonOcclusion
from krypton_engine.cli import main
from krypton_engine.executors import registry
from krypton_engine.executors.base import Unsupported
from krypton_engine.perturbation.windows import SlidingWindow
from krypton_engine.plan.plan import Plan
from krypton_engine.planning.cache import Source, capture


def test_names_cost_no_imports():
    code = (
        "import sys; from krypton_engine.executors.registry import NAMES; assert len(NAMES) > 2;"
        "sys.exit(', '.join({'torch', 'numpy'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("device", ["cpu", "cuda", "meta"])
def test_one_executor_of_every_device_runs_everything(device):
    found = registry.preferred(torch.device(device))
    assert found[-1].name == "reference" and len({executor.name for executor in found}) == len(found)
    for name in registry.NAMES:
        assert registry.executor(name).name == name


class Picky:
    """An executor that takes only what it likes."""

    name = "picky"

    def __init__(self):
        self.likes, self.pays_off = True, True

    def about(self):
        return "whatever it likes"

    def preference(self, device):
        return 99

    def pays(self, graph, plan, device, memory_budget):
        if not self.pays_off:
            raise Unsupported("it is too slow")

    def program(self, graph, plan, device):
        if not self.likes:
            raise Unsupported("it does not like it")
        program = registry.executor("reference").program(graph, plan, device)

        def opened(*example):
            session = program.open(*example)
            session.executor = "picky, in a good mood"
            return session

        return SimpleNamespace(describe=lambda plan: "picky", open=opened)


@pytest.fixture
def picky(monkeypatch):
    """One more folder."""
    added, find = Picky(), registry.executor
    monkeypatch.setattr(registry, "NAMES", (*registry.NAMES, "picky"))
    monkeypatch.setattr(registry, "executor", lambda name: added if name == "picky" else find(name))
    return added


@pytest.fixture
def call(image):
    return {"x": image, "sliding_window_shapes": (3, 6, 5), "strides": (3, 3, 3)}


def test_a_new_executor_is_asked_first(picky, call):
    model = SmallCNN().eval()
    with incremental():
        occlusion = KryptonOcclusion(model)
        assert occlusion.plan(**call).executor == "picky"
        heatmap = occlusion.heatmap(**call, target=1)
        assert heatmap.plan.executor == "picky, in a good mood"
        picky.pays_off = False
        assert not occlusion.plan(**call).executor.startswith("picky")
        expected = KryptonOcclusion(model, executor="reference").heatmap(**call, target=1)
    torch.testing.assert_close(heatmap.values, expected.values, rtol=1e-5, atol=1e-6)


def test_what_it_refuses_goes_on_to_the_next(picky, call):
    picky.likes = False
    with incremental():
        assert "picky" not in KryptonOcclusion(SmallCNN().eval()).plan(**call).executor


def test_info_asks_it(picky, capsys):
    assert main(["info"]) == 0
    assert "picky yes: whatever it likes" in " ".join(capsys.readouterr().out.split())


def test_why_another_runs_is_said(call, monkeypatch):
    native = registry.executor("native")

    def refuses(*_):
        raise Unsupported("it has no words for it")

    monkeypatch.setattr(type(native), "program", refuses)
    with pytest.warns(FallbackWarning, match="reference executor runs this model: it has no words"):
        plan = KryptonOcclusion(SmallCNN().eval(), executor="native").plan(**call)
    assert plan.executor == "reference (it has no words for it)"


@pytest.mark.parametrize("name", ["native", "reference"])
def test_a_program_is_made_once_and_goes_with_the_model(image, name):
    model, executor = SmallCNN().eval(), registry.executor(name)
    graph = capture(Source(model, (image,)))
    plan = Plan.of(graph, SlidingWindow(tuple(image.shape[1:]), (3, 6, 5), (3, 3, 3)))
    program = executor.program(graph, plan, image.device)
    assert executor.program(capture(Source(model, (image + 1,))), plan, image.device) is program
    gone = weakref.ref(graph), weakref.ref(program)
    del model, graph, program
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
