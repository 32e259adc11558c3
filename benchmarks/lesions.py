"""Trains the lesion finder of `krypton_engine.zoo.lesions`, and says how well it finds.

    python benchmarks/lesions.py        ten minutes on a core; writes the weights that the package has

Patches of the MNI152 template, most of them with a lesion, and some with boxes of one colour over parts of
them, so that a covered part is no lesion. AdamW, one cycle; cross-entropy and Dice.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from krypton_engine.common import files
from krypton_engine.zoo.calibration import seeded
from krypton_engine.zoo.lesions import (
    MILLILITRES,
    WEIGHTS,
    LesionFinder,
    brain_scan,
    lesion_finder,
    with_lesion,
)

STEPS, BATCH, SIDE = 2600, 4, 48
RATE = 3e-3
HELD_OUT = range(100, 116)
"""Seeds of lesions to judge by; training draws from others."""


def patch(brain: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A cube of the brain, and the share of a lesion in its cells."""
    first = [int(generator.integers(0, n - SIDE + 1)) for n in brain.shape[1:]]
    cube = brain[(slice(None), *(slice(at, at + SIDE) for at in first))] * generator.uniform(0.85, 1.1)
    share = torch.zeros_like(cube)
    if generator.random() > 0.3 and bool((cube > 0.5).any()):
        cube, share = with_lesion(cube, generator)
    for _ in range(int(generator.integers(0, 4))):
        low = generator.integers(0, SIDE - 4, 3)
        high = low + generator.integers(3, 13, 3)
        box = (slice(None), *(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)))
        cube[box] = 0.0 if generator.random() < 0.6 else float(generator.uniform(0, 0.8))
        share[box] = 0.0
    return cube, share


def dice(p: Tensor, truth: Tensor, smooth: float = 0.0) -> Tensor:
    """How much of a lesion and of what was found is both."""
    return (2 * (p * truth).sum() + smooth) / ((p + truth).sum() + smooth)


def trained() -> LesionFinder:
    """The network, from random weights."""
    torch.manual_seed(0)
    generator, model = np.random.default_rng(10_000), LesionFinder().train()
    nn.init.constant_(model.head.bias, -5.0)  # type: ignore[arg-type]  # lesions are rare
    brain = brain_scan(None)[0].tensor
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS)
    for _ in tqdm(range(STEPS), "training"):
        x, truth = map(torch.stack, zip(*(patch(brain, generator) for _ in range(BATCH)), strict=True))
        logits = model(x)
        loss = 5 * nn.functional.binary_cross_entropy_with_logits(logits, truth)
        loss = loss + 1 - dice(logits.sigmoid(), truth, smooth=1.0)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return model.eval()


def main() -> None:
    """Train, write, judge."""
    with seeded():
        state = trained().state_dict()
    content = io.BytesIO()
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    torch.save(half, content)
    files.write(WEIGHTS, content.getvalue())
    model = lesion_finder()
    with torch.no_grad():
        for seed in HELD_OUT:
            scan, share = brain_scan(seed)
            found = model(scan.tensor[None]).sigmoid()[0]
            ml = [f"{float(each.sum()) * MILLILITRES:.1f}" for each in (found, share)]
            print(f"lesion {seed}: Dice {float(dice(found, share)):.2f}, {ml[0]} ml of {ml[1]}")
        healthy = model(brain_scan(None)[0].tensor[None]).sigmoid().sum()
    print(f"without one: {float(healthy) * MILLILITRES:.2f} ml")


if __name__ == "__main__":
    main()
