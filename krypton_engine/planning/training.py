"""Evaluation semantics for a model in training mode, while it is explained."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from weakref import WeakKeyDictionary

import torch
from torch import nn

from krypton_engine.common.calling import Forward
from krypton_engine.graph.export import whole
from krypton_engine.graph.state import modules_of, names

_RATES = ("p", "dropout", "drop_prob")
"""Attributes of modules that drop something at random, which at 0 do the same in training."""


def _trains(module: nn.Module) -> bool:
    """Whether what a module computes depends on its training flag, as far as its code says."""
    if isinstance(module, (nn.modules.batchnorm._NormBase, nn.modules.instancenorm._InstanceNorm)):
        return module.track_running_stats
    if any(getattr(module, rate, None) == 0 for rate in _RATES):
        return False
    if isinstance(module, torch.jit.ScriptModule):
        return "training" in str(getattr(module, "code", ""))
    kinds = type(module).__mro__[: type(module).__mro__.index(nn.Module)]
    others = {"__init__", "train", "eval"}
    methods = [item for kind in kinds for name, item in vars(kind).items() if name not in others]
    return any("training" in names(item.__code__) for item in methods if isinstance(item, FunctionType))


_held: WeakKeyDictionary[nn.Module, list[int]] = WeakKeyDictionary()
"""Modules that only `evaluation_mode` keeps from training mode, and the threads of its blocks."""

_holding = threading.Lock()


def _forked() -> None:
    """Give flags back in a child process, where only the thread that forked goes on."""
    global _holding
    _holding = threading.Lock()
    for module, threads in list(_held.items()):
        threads[:] = [thread for thread in threads if thread == threading.get_ident()]
        if not threads:
            del _held[module]
            module.training = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@contextmanager
def evaluation_mode(forward_func: Forward, warn: Callable[[str], None]) -> Iterator[None]:
    """Evaluation semantics while the block runs; every submodule gets its own flag back.

    Several threads may explain one model: the flags come back with the last of them.

    Examples:
        >>> dropping = torch.nn.Dropout().train()
        >>> with evaluation_mode(dropping, print):
        ...     dropping.training
        the model is in training mode; ...
        False
        >>> dropping.training
        True
    """
    mine: list[nn.Module] = []
    try:
        with whole(), _holding:  # no signal leaves a flag behind
            modules = dict.fromkeys(m for each in modules_of(forward_func) for m in each.modules())
            # Frozen scripts have no flag.
            training = [module for module in modules if getattr(module, "training", False)]
            trains = any(map(_trains, training))
            for module in (*training, *(module for module in modules if module in _held)):
                mine.append(module)
                _held.setdefault(module, []).append(threading.get_ident())
                module.training = False
        if trains:
            warn(
                "the model is in training mode; "
                "occlusion evaluates it as after .eval() and restores its flags"
            )
        yield
    finally:
        with whole(), _holding:
            for module in mine:
                _held[module].remove(threading.get_ident())
                if not _held[module]:
                    del _held[module]
                    module.training = True
