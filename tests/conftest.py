"""Shared fixtures: seeds, models that several tests explain, and what a test of the GPU needs."""

from __future__ import annotations

import gc
import os
from collections import Counter

import pytest
import torch
from hypothesis import settings

pytest.register_assert_rewrite("support")

from support.tiny_models import Segmenter, SmallCNN  # noqa: E402

# Times vary with what else runs on the machine; a slow example is no failure.
settings.register_profile("krypton", deadline=None, print_blob=True)
settings.load_profile("krypton")


def pytest_collection_modifyitems(items):
    """Files of few tests come first, since these are the long ones: no worker is left alone with one."""
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: tests[item.path])


def pytest_runtest_setup(item):
    """A GPU test is skipped without one, unless the machine is said to have one: no skip hides a fault."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        if os.environ.get("KRYPTON_REQUIRE_CUDA") == "1":
            pytest.fail("KRYPTON_REQUIRE_CUDA is 1, but PyTorch finds no CUDA device", pytrace=False)
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def seeds():
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def frozen():
    """Collections pass over what was there before a file: a million objects, most of them PyTorch's."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_width(monkeypatch):
    """Workers of pytest-xdist are told one, at which text would be broken."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def cnn():
    """A small image classifier, shared so that it is captured once; not to be changed."""
    torch.manual_seed(1)
    return SmallCNN()


@pytest.fixture(scope="session")
def segmenter():
    torch.manual_seed(2)
    return Segmenter()


@pytest.fixture(scope="session")
def image():
    """Fits `cnn` and `segmenter`: one example, not square."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(1, 3, 24, 20, generator=generator)


@pytest.fixture(scope="session")
def images():
    """A batch for `cnn`."""
    generator = torch.Generator().manual_seed(4)
    return torch.randn(3, 3, 24, 20, generator=generator)


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window; only the tests of pages need Playwright."""
    from playwright.sync_api import sync_playwright
    from support.jupyter_pages import CHROMIUM, CHROMIUM_FLAGS

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


if "PYTEST_XDIST_WORKER" in os.environ:  # two workers with two threads each would wait for one another
    torch.set_num_threads(1)
