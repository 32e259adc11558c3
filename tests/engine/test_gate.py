"""Exports and evaluations of several threads, interrupts between any two steps, and children of a process.

Right values are Captum's, or what the operating system says of handlers.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
import torch
from captum.attr import Occlusion
from support.tiny_models import SmallCNN
from torch import nn

from krypton_engine import KryptonOcclusion
from krypton_engine.executors.full import evaluate
from krypton_engine.graph import export
from krypton_engine.planning.cache import Source, capture

WINDOW, STRIDES = (3, 7, 6), (3, 5, 4)


class Cut(Exception):
    """What the handlers of these tests raise."""


def cut(*_):
    raise Cut


def quiet(*_):
    pass


@pytest.fixture
def handlers():
    """Handlers of three signals, two of which raise."""
    mine = {signal.SIGINT: cut, signal.SIGALRM: cut, signal.SIGTERM: quiet}
    before = {number: signal.signal(number, handler) for number, handler in mine.items()}
    yield mine
    for number, handler in before.items():
        signal.signal(number, handler)


def cut_often(work, number, rounds=400):
    """Run ``work`` again and again until a signal comes, at another moment in each of many rounds.

    Moments are the operating system's: a tracing function would also raise where no handler ever runs.
    """
    moments, again, unraisable = random.Random(0), [], []
    with mock.patch.object(sys, "unraisablehook", unraisable.append):
        for _ in range(rounds):
            pause, heard = moments.random() * 1e-3, threading.Event()
            kill = threading.Thread(target=_send, args=(number, pause, heard, again))
            try:
                kill.start()
                while True:
                    work()
            except Cut as error:
                raised = error  # kept, as a shell keeps the last error with all its frames
            heard.set()
            kill.join()
            yield raised
    # What a handler raises in a finaliser, Python swallows and tells the hook; nothing else may.
    assert len(again) <= len(unraisable), "a signal came, and what its handler raised went nowhere"


def _send(number, pause, heard, again):
    """Send this process a signal, and again as long as nobody has heard it, which is noted."""
    time.sleep(pause)
    os.kill(os.getpid(), number)
    while not heard.wait(20):
        again.append(number)
        os.kill(os.getpid(), number)


SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGALRM], ids=["ctrl-c", "alarm"])


@SIGNALS
def test_an_evaluation_that_is_cut_short_holds_up_nobody(number, handlers, monkeypatch):
    monkeypatch.setattr(export, "_LONGEST_WAIT", 600.0)
    x = torch.zeros(1, 3, 4, 4)
    for _ in cut_often(lambda: evaluate(lambda a: a.sum((1, 2, 3)), (x,), None), number):
        assert {each: signal.getsignal(each) for each in handlers} == handlers
    thread = threading.Thread(target=lambda: export.export(torch.relu, [], (x,), (True,)), daemon=True)
    thread.start()
    thread.join(100)
    assert not thread.is_alive(), "an export waits for an evaluation that is long gone"


@SIGNALS
def test_an_interrupt_at_the_end_of_what_must_be_whole_loses_no_handler(number, handlers):
    def work():
        with export.whole():
            pass

    for _ in cut_often(work, number):
        assert {each: signal.getsignal(each) for each in handlers} == handlers


def test_signals_that_wait_are_all_heard(handlers):
    heard = []
    signal.signal(signal.SIGTERM, lambda *_: heard.append("term"))
    with pytest.raises(Cut), export.whole():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert heard == ["term"]


def test_an_evaluation_costs_next_to_nothing():
    began = time.process_time()
    for _ in range(2000):
        export.evaluated(int)
    assert (time.process_time() - began) / 2000 < 20e-6


def in_another_thread(work):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


@pytest.mark.parametrize("kind", ["evaluates", "explains", "captures"])
def test_a_forward_that_waits_for_a_thread_even_while_it_is_exported(kind, image, monkeypatch):
    monkeypatch.setattr(export, "_LONGEST_WAIT", 0.2)
    monkeypatch.setattr(export, "_STANDSTILL", 0.5)
    inner, outer, known = SmallCNN(), SmallCNN(), SmallCNN()
    KryptonOcclusion(known).attribute(image, WINDOW, STRIDES, target=1)
    work = {
        "evaluates": lambda: evaluate(inner, (image,), None),
        "explains": lambda: KryptonOcclusion(known).attribute(image, WINDOW, STRIDES, target=1),
        "captures": lambda: KryptonOcclusion(inner).attribute(image, WINDOW, STRIDES, target=1),
    }[kind]
    asked = []

    def forward(x):
        if torch.compiler.is_exporting() or not asked:
            asked.append(1)
            in_another_thread(work)
        return outer(x)

    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        thread = threading.Thread(
            target=lambda: found.append(
                KryptonOcclusion(forward).attribute(image, WINDOW, STRIDES, target=1)
            ),
            daemon=True,
        )
        thread.start()
        thread.join(90)
    assert found, "it ends"
    theirs = Occlusion(outer).attribute(image, WINDOW, STRIDES, target=1)
    assert torch.allclose(found[0], theirs, atol=1e-5)


def test_an_export_within_an_export_keeps_other_threads_out():
    """They come in only where the outer one is over: until then the parameters of its model are fakes."""
    inside, over, came = threading.Event(), [], []
    inner = nn.Conv2d(3, 2, 3)
    x = torch.rand(1, 3, 8, 8)

    def forward(a):
        if torch.compiler.is_exporting() and not inside.is_set():
            # Whether PyTorch can export within an export is its affair.
            with contextlib.suppress(export.ExportError), export.whole():
                export.export(inner.forward, [inner], (x,), (True,))
            inside.set()
            time.sleep(0.5)
            over.append(True)
        return a.relu()

    def other():
        inside.wait(60)
        export.evaluated(lambda: came.append(bool(over)))

    thread = threading.Thread(target=other)
    thread.start()
    with contextlib.suppress(export.ExportError):
        export.export(forward, [], (x,), (True,))
    thread.join(60)
    assert came == [True]


def test_a_model_is_looked_at_by_many_threads_while_one_exports_it(image):
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    errors = []
    try:
        for _ in range(2):
            model = SmallCNN()
            theirs = Occlusion(model).attribute(image, WINDOW, STRIDES, target=1)
            exporting = threading.Event()

            def linger(module, args, output, seen=exporting):
                if torch.compiler.is_exporting():  # the model's parameters are fakes
                    seen.set()
                    time.sleep(0.3)

            model.stem.register_forward_hook(linger)

            def explain(first, seen=exporting, model=model, theirs=theirs):
                try:
                    occlusion = KryptonOcclusion(model)
                    if not first:
                        seen.wait(60)
                        occlusion.plan(image, WINDOW, STRIDES)  # asks the model nothing before
                    mine = occlusion.attribute(image, WINDOW, STRIDES, target=1)
                    assert torch.allclose(mine, theirs, atol=1e-5)
                except BaseException as error:  # shown below
                    errors.append(error)

            threads = [threading.Thread(target=explain, args=(i == 0,)) for i in range(5)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
    finally:
        sys.setswitchinterval(interval)
    assert not errors


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_training_flags_in_a_child_of_a_process_that_explains():
    """Whose thread, which would give them back, is not in the child."""
    program = """if True:
        import os, threading, time, warnings, torch, torch.nn as nn
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        from krypton_engine import KryptonOcclusion
        asked = threading.Event()
        class Slow(nn.Module):
            def __init__(self):
                super().__init__()
                self.rest = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Dropout(0.5))
            def forward(self, x):
                asked.set()
                time.sleep(0.5)
                return self.rest(x)
        model, x = Slow().train(), torch.rand(1, 3, 8, 8)
        def explain():
            KryptonOcclusion(model).attribute(x, (3, 4, 4), (3, 4, 4), target=1)
        threading.Thread(target=explain, daemon=True).start()
        asked.wait(60)
        assert not model.training
        child = os.fork()
        if not child:
            right = all(module.training for module in model.modules())
            os._exit(0 if right else 1)
        assert os.waitpid(child, 0)[1] == 0
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=120)


def test_captures_of_a_model_that_is_being_exported(image):
    """`capture` reads parameters to know whether something has changed: not while they are fakes."""
    model, ready, errors = SmallCNN(), threading.Event(), []

    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            if torch.compiler.is_exporting():
                ready.set()
                time.sleep(0.3)
            return self.model(x)

    def look():
        ready.wait(60)
        try:
            capture(Source(model, (image,), 0))
        except BaseException as error:  # shown below
            errors.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    capture(Source(Slow().eval(), (image,), 0))
    thread.join(60)
    assert not errors
