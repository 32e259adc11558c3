"""Names that the examples in docstrings use without making them: a small model and an image."""

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def example_names(request, doctest_namespace, monkeypatch, tmp_path_factory):
    """``torch``, ``np``, ``model`` (five classes) and ``x``, anew for every docstring, in an empty folder."""
    if not isinstance(request.node, pytest.DoctestItem):
        return
    monkeypatch.chdir(tmp_path_factory.mktemp("example"))
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(8, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 12 * 10, 5),
    ).eval()
    doctest_namespace |= {"torch": torch, "np": np, "model": model, "x": torch.rand(1, 3, 24, 20)}
