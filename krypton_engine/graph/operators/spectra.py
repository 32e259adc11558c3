"""Fourier transforms, and complex numbers as pairs."""

from __future__ import annotations

from krypton_engine.graph.box_operators import Apply
from krypton_engine.graph.operators import base
from krypton_engine.graph.regions import WindowMap


@base.rule("stft")
def _stft(call: base.Call) -> base.Local:
    """Spectra of windows along a wave."""
    node = base.local_operand(call, call["self"])
    window = call["window"]
    if window is not None and call.node(window).depends:
        raise base.NotLocal("stft by a window that changes")
    if call.bound.get("center") or len(node.shape) != 2:
        raise base.NotLocal("stft that pads, or of one wave alone")
    axis = base.axis_of(call, node, 1)
    size, step = call["n_fft"], call["hop_length"] or call["n_fft"] // 4
    frames = call.shape[2]
    ends = (None,) * (len(call.shape) - 3)
    return base.Local(
        (node.roles[0], None, axis, *ends),
        Apply(),
        (node.index,),
        ({axis: WindowMap(node.shape[1], frames, size, step)},),
    )


@base.rule("fft_fft", "fft_ifft", "fft_rfft", "fft_irfft", "fft_hfft", "fft_ihfft")
def _transform(call: base.Call) -> base.Local:
    return base.mixing(base.only_dependent(call), [call["dim"]])


@base.rule("_fft_r2c", "_fft_c2c", "_fft_c2r")
def _transforms(call: base.Call) -> base.Local:
    return base.mixing(base.only_dependent(call), call["dim"])


@base.rule("view_as_real")
def _as_pairs(call: base.Call) -> base.Local:
    node = base.only_dependent(call)
    return base.rearranged(node, [*node.roles, None])


@base.rule("view_as_complex")
def _as_numbers(call: base.Call) -> base.Local:
    return base.mixing(base.only_dependent(call), [-1], keep=False)
