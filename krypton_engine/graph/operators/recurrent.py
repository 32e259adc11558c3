"""Recurrent layers, of which every output reads its sequence from the beginning."""

from __future__ import annotations

from typing import NoReturn

from krypton_engine.graph.operators import base


@base.rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def _recurrent(call: base.Call) -> NoReturn:
    raise base.NotLocal(f"{call.name} goes along a sequence from end to end")
