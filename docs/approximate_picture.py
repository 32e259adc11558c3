"""Draws docs/images/approximate.png: an exact map beside one with a stated similarity.

python docs/approximate_picture.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from krypton_engine import KryptonOcclusion, zoo
from krypton_engine.heatmap.status import Status

FILE = Path(__file__).parent / "images" / "approximate.png"
WINDOW, STRIDES, BLACK = (3, 16, 16), (3, 4, 4), 0.0


def main():
    net = zoo.load_model("vgg16-brain-mri")
    x = net.preprocess(zoo.load_image("mri:axial:90+lesion"))[None]
    occlusion = KryptonOcclusion(net.model)
    call = dict(x=x, sliding_window_shapes=WINDOW, strides=STRIDES, baselines=BLACK, activation="softmax")
    occlusion.heatmap(**call, ssim_target=0.1)  # captures, plans and proves, once for this model and window
    approximate, exact = occlusion.heatmap(**call, ssim_target=0.9), occlusion.heatmap(**call)
    reached = approximate.compare(exact).ssim

    changes = np.zeros(len(exact.window), dtype=bool)  # windows over nothing but black are free
    changes[exact.window.touching(x[0] != BLACK)] = True
    on_brain = approximate.measured.flatten().numpy() & changes
    top, left = exact.positions.reshape(-1, 2)[np.flatnonzero(on_brain)].T.numpy()
    picture, limits = net.display(x[0]), exact.limits()

    figure = Figure(figsize=(10.2, 3.6), layout=ConstrainedLayoutEngine(h_pad=0.07))
    slices = figure.subplots(1, 3)
    maps = [heatmap.overlay(picture, scale=limits) for heatmap in (exact, approximate)]
    for axes, shown, title in zip(
        slices,
        (*maps, picture),
        (
            f"exact: {changes.sum()} windows that change something",
            f"ssim_target=0.9: SSIM {reached:.2f}",
            f"{on_brain.sum()} windows measured for it",
        ),
        strict=True,
    ):
        axes.imshow(shown)
        axes.set_title(title, fontsize=9.5, loc="left")
        axes.set_axis_off()
    slices[2].plot(left + 7.5, top + 7.5, "o", color="#ffd34d", markersize=2.4, markeredgewidth=0)
    figure.savefig(FILE, dpi=120)

    interpolated = int((approximate.status == Status.INTERPOLATED).sum())
    print(f"{on_brain.sum()} of {changes.sum()} windows measured, {interpolated} interpolated")
    print(f"SSIM {reached:.3f}; estimated {approximate.ssim_estimate}")
    print(f"exact {exact.seconds:.2f} s, approximate {approximate.seconds:.2f} s")


if __name__ == "__main__":
    main()
