"""The state that a callable's answer may depend on: modules, values, hooks, global flags."""

from __future__ import annotations

import dis
import enum
import functools
import itertools
import types
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from krypton_engine.common.calling import Forward

T = TypeVar("T")

State = Mapping[str, object]
"""Values by a name such as ``"closure.gain"``; a value equals a later one exactly where nothing changed."""

_LARGEST_DEPTH = 3
"""Objects within objects that are looked into."""

_ITEMS_AT_EACH_END = 32
"""Items of a long list that are looked at, at either end of it."""

_LARGEST_ARRAY = 2**20
"""Bytes of the largest NumPy array whose content is compared; of a larger one, its place in memory is."""

_MOST_SAMPLED = 1024
"""Numbers of a tensor that are looked at."""

_LEFT_BEHIND = ("a tensor without numbers",)

_PLAIN = (int, float, complex, str, bytes, bool, type(None), enum.Enum, torch.dtype, torch.device, torch.Size)
_QUICK = {int, str, bool, type(None)}
_TENSORS = {"_parameters", "_buffers"}
_APART = {"_modules", "_non_persistent_buffers_set"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_LIBRARIES = {"torch", "torchvision", "timm", "monai", "transformers"}
"""Packages whose classes hold no state of the user's."""


class _This:
    """A tensor at one moment: equal to the same tensor later for as long as the tensor is not written to."""

    __slots__ = ("now", "ref")

    def __init__(self, tensor: Tensor, content: int | None) -> None:
        self.ref = weakref.ref(tensor)
        # ``.data = other`` changes the place alone; ``.data`` and NumPy write past the counter.
        self.now = version_of(tensor), place_of(tensor), content

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self) or self.now != other.now:
            return False
        mine = self.ref()
        return mine is not None and mine is other.ref()

    __hash__ = None  # type: ignore[assignment]


class _Weights(_This):
    """A parameter or buffer, whose memory a graph shares."""

    __slots__ = ()


def _is_left_behind(tensor: Tensor) -> bool:
    """Whether a tensor holds no numbers: hooks keep such ones of an export."""
    return type(tensor).__module__.startswith("torch._subclasses.")


def _of_weights(tensor: Tensor) -> object:
    """State of a parameter or buffer."""
    if _is_left_behind(tensor):
        return _LEFT_BEHIND
    # Elsewhere a look takes a while.
    return _Weights(tensor, _checksum(tensor) if tensor.device.type == "cpu" else None)


def _of_tensor(tensor: Tensor) -> object:
    """State of a tensor that no module holds as its own: its content, as far as that is small."""
    if _is_left_behind(tensor):
        return _LEFT_BEHIND
    content = _checksum(tensor)
    if content is None or tensor.numel() > _MOST_SAMPLED:
        return _This(tensor, content)
    return str(tensor.device), tensor.dtype, tuple(tensor.shape), content


def _checksum(tensor: Tensor) -> int | None:
    """Checksum of a tensor's numbers in the order of its memory: of ``_MOST_SAMPLED`` of them at most.

    None for tensors whose bytes cannot be read so: sparse ones, those without memory, some kinds of others.
    """
    try:
        dense = tensor.detach()
        if not dense.is_contiguous():
            dense = dense.permute(sorted(range(dense.dim()), key=dense.stride, reverse=True))
        if not dense.is_contiguous():
            return None
        every = max(1, -(-dense.numel() // _MOST_SAMPLED))
        some = dense.as_strided((-(-dense.numel() // every),), (every,)).contiguous()
        return zlib.crc32(some.view(torch.uint8).cpu().numpy().data)
    except Exception:  # every layout and subclass refuses in its own words
        return None


def version_of(tensor: Tensor) -> int:
    """Counter of in-place changes; constant for those that do not count, such as inference tensors.

    Examples:
        >>> x = torch.zeros(2)
        >>> before = version_of(x)
        >>> version_of(x.add_(1)) - before
        1
    """
    try:
        return -1 if tensor.is_inference() else tensor._version
    except Exception:  # of a lazy module, say, in words of its own
        return -1


def place_of(tensor: Tensor) -> int:
    """Address of a tensor's memory; 0 where that has several pieces, or none.

    Examples:
        >>> place_of(x) == place_of(x.flatten()), place_of(x) == place_of(x.clone())
        (True, False)
    """
    try:
        return tensor.data_ptr()
    except Exception:  # every layout and subclass refuses in its own words
        return 0


def modules_of(function: Forward) -> list[nn.Module]:
    """The modules that ``function`` is, or closes over, or names among its globals.

    Examples:
        >>> modules_of(lambda images: model(images).softmax(1)) == [model]
        True
    """
    found = (item for _, item in _walk("", function, _LARGEST_DEPTH, set()) if isinstance(item, nn.Module))
    return list({id(module): module for module in found}.values())


def observe(function: Forward, *arguments: object) -> State:
    """The state that an answer may depend on, as far as Python shows it.

    Args:
        function: The callable.
        arguments: Further arguments of the callable that are no tensors.

    Examples:
        >>> gain = 2.0
        >>> def scaled(images):
        ...     return gain * images
        >>> before, gain = observe(scaled), 3.0
        >>> differences(before, observe(scaled))
        {'.globals.gain'}
    """
    found: dict[str, object] = {}
    modules: dict[int, tuple[str, nn.Module]] = {}
    roots = {"": function} | {f"argument{i}": argument for i, argument in enumerate(arguments)}
    for root, value in roots.items():
        for name, item in _walk(root, value, _LARGEST_DEPTH, set()):
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


def may_be_idle(value: object, read: Iterable[Tensor | None] = ()) -> bool:
    """Whether a value of a state may change without changing what is computed: counters, logs, results.

    Args:
        value: A value of a state.
        read: Parameters and buffers whose memory a graph shares: it cannot hold their old and new content.

    Examples:
        >>> may_be_idle(3), may_be_idle(True), may_be_idle("mean")
        (True, False, False)
    """
    if isinstance(value, bool):
        return False
    if type(value) is _Weights:
        tensor = value.ref()
        return tensor is not None and all(tensor is not each for each in read)
    return value is None or isinstance(value, (tuple, int, _This))


def differences(mine: State, other: State) -> Set[str]:
    """Names under which two states are not the same.

    Examples:
        >>> sorted(differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}))
        ['b', 'c']
    """
    return {
        name
        for name in mine.keys() | other.keys()
        if name not in mine or name not in other or mine[name] != other[name]
    }


def environment(device: torch.device) -> tuple[object, ...]:
    """Global flags that decide PyTorch's results: under other flags, another capture is needed.

    Examples:
        >>> before = environment(torch.device("cpu"))
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     before == environment(torch.device("cpu"))
        False
    """
    autocasts = dict.fromkeys(["cpu", device.type])
    return (
        *((kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in autocasts),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
    )


def _of_module(name: str, module: nn.Module) -> Iterator[tuple[str, object]]:
    """State of one module without the modules inside it."""
    # By name, since a class may hold what a state must not.
    yield name, f"{type(module).__module__}.{type(module).__qualname__}"
    for own, value in list(vars(module).items()):
        if own in _HOOKS:
            yield from _of_hooks(f"{name}.{own}", value)
        elif own in _TENSORS:
            yield from ((f"{name}.{key}", None if t is None else _of_weights(t)) for key, t in value.items())
        elif type(value) in _QUICK:
            yield f"{name}.{own}", value
        elif own not in _APART and "hook" not in own:
            yield from _values(f"{name}.{own}", value)


def _of_hooks(name: str, hooks: Mapping[int, object]) -> Iterator[tuple[str, object]]:
    """The hooks of a module, and the values that they close over."""
    yield name, tuple(map(str, hooks))
    for number, hook in list(hooks.items()):
        yield from _values(f"{name}.{number}", hook)


def _of_class(name: str, kind: type) -> Iterator[tuple[str, object]]:
    """Numbers that a class of the user's holds, and globals that its methods name."""
    for base in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        if base.__module__.split(".")[0] in _LIBRARIES:
            continue
        for own, value in list(vars(base).items()):
            described = callable(value) or own.startswith("__") or hasattr(value, "__get__")
            if isinstance(value, types.FunctionType) or not described:
                yield from _values(f"{name}.{base.__qualname__}.{own}", value)


def _values(name: str, value: object) -> Iterator[tuple[str, object]]:
    """The parts of a module's ``value`` that a state compares, without modules within."""
    return ((inner, item) for inner, item in _walk(name, value, 1, set()) if not isinstance(item, nn.Module))


def _walk(name: str, value: object, depth: int, seen: set[int]) -> Iterator[tuple[str, object]]:
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


def _frozen(value: object, depth: int) -> object:
    """``value`` as something to compare later; NotImplemented where that has parts of its own to look at."""
    if type(value) in _QUICK or isinstance(value, types.CodeType):
        return value
    if isinstance(value, Tensor):
        return _of_tensor(value)
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


def _parts(value: object) -> Iterator[tuple[str, object]]:
    """The parts of an object, with their names."""
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
        yield from ((f"globals.{name}", known[name]) for name in _globals(value.__code__) if name in known)
        yield from ((f"defaults.{i}", each) for i, each in enumerate(value.__defaults__ or ()))
        yield from ((f"defaults.{name}", each) for name, each in (value.__kwdefaults__ or {}).items())
    else:
        yield from _ends(list(getattr(value, "__dict__", {}).items()))
        for kind in type(value).__mro__:
            slots = vars(kind).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(value, name):
                    yield name, getattr(value, name)


def _ends(items: Sequence[T]) -> Iterator[T]:
    """The items of a list; of a long one only those at its two ends."""
    yield from (
        items
        if len(items) <= 2 * _ITEMS_AT_EACH_END
        else itertools.chain(items[:_ITEMS_AT_EACH_END], items[-_ITEMS_AT_EACH_END:])
    )


_GLOBAL_LOADS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}  # the last since Python 3.12


@functools.lru_cache(maxsize=4096)
def _globals(code: types.CodeType) -> tuple[str, ...]:
    """Names that a function looks up among the globals; not those of attributes, which others may share."""
    own = (each.argval for each in dis.get_instructions(code) if each.opname in _GLOBAL_LOADS)
    inner = (
        name for const in code.co_consts if isinstance(const, types.CodeType) for name in _globals(const)
    )
    return tuple(dict.fromkeys([*own, *inner]))


def names(code: types.CodeType) -> list[str]:
    """Names that a function looks up, of attributes too, those of functions within among them.

    Examples:
        >>> names((lambda x: torch.relu(x) + gain).__code__)
        ['torch', 'relu', 'gain']
    """
    inner = (name for const in code.co_consts if isinstance(const, types.CodeType) for name in names(const))
    return list(dict.fromkeys([*code.co_names, *inner]))
