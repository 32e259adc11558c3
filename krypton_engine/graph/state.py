"""What the answer of a callable may depend on beside its arguments: modules, values, hooks, global flags."""

from __future__ import annotations

import enum
import functools
import itertools
import types
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

State = Mapping[str, Any]
"""By a name such as ``"closure.gain"``: a value that equals another exactly where nothing has changed."""

_DEPTH = 3
"""Objects within objects that are looked into."""

_ENDS = 32
"""Items of a long list that are looked at, at either end of it."""

_LARGEST_ARRAY = 2**20
"""Bytes of the largest NumPy array whose content is compared; of a larger one it is its place in memory."""

_SAMPLED = 1024
"""Numbers of a parameter that are looked at."""

_PLAIN = (int, float, complex, str, bytes, bool, type(None), enum.Enum, torch.dtype, torch.device, torch.Size)
_QUICK = {int, str, bool, type(None)}
_TENSORS = {"_parameters", "_buffers"}
_APART = {"_modules", "_non_persistent_buffers_set"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_LIBRARIES = {"torch", "torchvision", "timm", "monai", "transformers"}
"""Whose classes hold no state of the user's."""


class _This:
    """A tensor as it is now: equal to the same tensor for as long as nobody writes to it."""

    __slots__ = ("now", "ref")

    def __init__(self, tensor: Tensor) -> None:
        self.ref = weakref.ref(tensor)
        place = tensor.data_ptr() if tensor.layout == torch.strided and not tensor.is_meta else 0
        self.now: tuple[Any, ...] = version_of(tensor), place  # ``.data = other`` changes the place alone

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _This) or self.now != other.now:
            return False
        mine = self.ref()
        return mine is not None and mine is other.ref()

    __hash__ = None  # type: ignore[assignment]


class _Weights(_This):
    """A parameter or buffer, whose content is sampled too: ``.data`` and NumPy write past its counter."""

    __slots__ = ()

    def __init__(self, tensor: Tensor) -> None:
        super().__init__(tensor)
        dense = tensor.is_contiguous() or (
            tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
        )
        if dense and tensor.device.type == "cpu" and tensor.numel():  # elsewhere it takes a while to look
            every = -(-tensor.numel() // _SAMPLED)
            some = tensor.detach().as_strided((-(-tensor.numel() // every),), (every,))
            self.now = *self.now, repr(some.sum().item())  # NaN is like itself


def version_of(tensor: Tensor) -> int:
    """Counter of in-place changes; constant for inference tensors, which do not count."""
    return -1 if tensor.is_inference() else tensor._version


def modules_of(function: Callable[..., Any]) -> list[nn.Module]:
    """The modules that ``function`` is, or closes over, or names among its globals."""
    found = (item for _, item in _walk("", function, _DEPTH, set()) if isinstance(item, nn.Module))
    return list({id(module): module for module in found}.values())


def observe(function: Callable[..., Any], *arguments: Any) -> State:
    """The state that an answer may depend on, as far as Python lets one see it.

    Args:
        function: Is to answer.
        arguments: Further arguments of it that are no tensors.
    """
    found: dict[str, Any] = {}
    modules: dict[int, tuple[str, nn.Module]] = {}
    roots = {"": function} | {f"argument{i}": argument for i, argument in enumerate(arguments)}
    for root, value in roots.items():
        for name, item in _walk(root, value, _DEPTH, set()):
            if isinstance(item, nn.Module):
                modules.setdefault(id(item), (name, item))
            else:
                found[name] = item
    seen: set[int] = set()
    kinds: dict[type, str] = {}
    for name, top in modules.values():
        for path, module in top.named_modules():
            if id(module) not in seen:
                seen.add(id(module))
                kinds.setdefault(type(module), f"{name}.{path}.class")
                found.update(_of_module(f"{name}.{path}", module))
    for kind, name in kinds.items():
        found.update(_of_class(name, kind))
    for hooks in _HOOKS:
        found.update(_of_hooks(f"global{hooks}", getattr(nn.modules.module, f"_global{hooks}")))
    return found


def may_be_idle(value: Any) -> bool:
    """Whether a value of a state may change without changing what is computed: counters and logs do."""
    return value is None or (isinstance(value, (tuple, int)) and not isinstance(value, bool))


def differences(mine: State, other: State) -> Set[str]:
    """Names under which two states are not the same."""
    return {
        name
        for name in mine.keys() | other.keys()
        if name not in mine or name not in other or mine[name] != other[name]
    }


def environment(device: torch.device) -> tuple[Any, ...]:
    """Global flags that decide what PyTorch computes: a capture made under others is another one."""
    autocasts = dict.fromkeys(["cpu", device.type])
    return (
        *((kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in autocasts),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
    )


def _of_module(name: str, module: nn.Module) -> Iterator[tuple[str, Any]]:
    """State of one module without those within."""
    # By name, since a class may hold what a state must not.
    yield name, f"{type(module).__module__}.{type(module).__qualname__}"
    for own, value in list(vars(module).items()):
        if own in _HOOKS:
            yield from _of_hooks(f"{name}.{own}", value)
        elif own in _TENSORS:
            yield from ((f"{name}.{key}", None if t is None else _Weights(t)) for key, t in value.items())
        elif type(value) in _QUICK:
            yield f"{name}.{own}", value
        elif own not in _APART and "hook" not in own:
            yield from _values(f"{name}.{own}", value)


def _of_hooks(name: str, hooks: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Which hooks there are, and what they close over."""
    yield name, tuple(map(str, hooks))
    for number, hook in list(hooks.items()):
        yield from _values(f"{name}.{number}", hook)


def _of_class(name: str, kind: type) -> Iterator[tuple[str, Any]]:
    """Numbers that a class of the user's holds, and globals that its methods name."""
    for base in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        if base.__module__.split(".")[0] in _LIBRARIES:
            continue
        for own, value in list(vars(base).items()):
            described = callable(value) or own.startswith("__") or hasattr(value, "__get__")
            if isinstance(value, types.FunctionType) or not described:
                yield from _values(f"{name}.{base.__qualname__}.{own}", value)


def _values(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What a state compares of ``value``, which belongs to a module, without modules within."""
    return ((inner, item) for inner, item in _walk(name, value, 1, set()) if not isinstance(item, nn.Module))


def _walk(name: str, value: Any, depth: int, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Modules, and the values that a state compares, in ``value``."""
    known = _frozen(value, depth)
    if isinstance(value, nn.Module):
        yield name, value
    elif known is not NotImplemented:
        yield name, known
    elif depth < 0 or id(value) in seen or isinstance(value, (type, types.ModuleType)):
        return
    else:
        seen.add(id(value))
        for part, inner in _parts(value):
            yield from _walk(f"{name}.{part}", inner, depth - 1, seen)


def _frozen(value: Any, depth: int) -> Any:
    """``value`` as something to compare later; NotImplemented where that has parts of its own to look at."""
    if type(value) in _QUICK or isinstance(value, types.CodeType):
        return value
    if isinstance(value, Tensor):
        return _This(value)
    if isinstance(value, np.ndarray):
        content = zlib.crc32(value.tobytes()) if value.nbytes <= _LARGEST_ARRAY else value.ctypes.data
        return value.dtype.str, value.shape, content
    if isinstance(value, (*_PLAIN, np.generic)):
        return type(value).__qualname__, repr(value)  # repr: NaN is like itself, and 0.0 unlike -0.0
    if depth < 0 or not isinstance(value, (list, tuple, set, frozenset, dict)):
        return NotImplemented
    items = [_frozen(item, depth - 1) for item in _ends(list(value))]
    if isinstance(value, dict):
        items += [_frozen(item, depth - 1) for item in _ends(list(value.values()))]
    return NotImplemented if any(item is NotImplemented for item in items) else (len(value), *items)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object is made of, and how each part is called."""
    if isinstance(value, dict):
        yield from ((repr(key), inner) for key, inner in _ends(list(value.items())))
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((str(i), inner) for i, inner in _ends(list(enumerate(value))))
    elif isinstance(value, functools.partial):
        yield from (("function", value.func), ("arguments", value.args), ("keywords", value.keywords))
    elif isinstance(value, types.MethodType):
        yield from (("object", value.__self__), ("function", value.__func__))
    elif isinstance(value, types.FunctionType):
        yield "code", value.__code__
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            with suppress(ValueError):  # a cell that is still empty
                yield name, cell.cell_contents
        known = value.__globals__
        yield from ((f"globals.{name}", known[name]) for name in names(value.__code__) if name in known)
        yield from ((f"defaults.{i}", each) for i, each in enumerate(value.__defaults__ or ()))
        yield from ((f"defaults.{name}", each) for name, each in (value.__kwdefaults__ or {}).items())
    else:
        yield from _ends(list(getattr(value, "__dict__", {}).items()))
        for kind in type(value).__mro__:
            slots = vars(kind).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(value, name):
                    yield name, getattr(value, name)


def _ends(items: Sequence[Any]) -> Iterator[Any]:
    """Items of a list, of a long one those at its ends."""
    yield from items if len(items) <= 2 * _ENDS else itertools.chain(items[:_ENDS], items[-_ENDS:])


def names(code: types.CodeType) -> list[str]:
    """Names that a function looks up, those of functions within among them."""
    inner = (name for const in code.co_consts if isinstance(const, types.CodeType) for name in names(const))
    return list(dict.fromkeys([*code.co_names, *inner]))
