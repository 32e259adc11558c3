"""Captum's private helpers: all that Krypton uses of them, so that a new Captum is met in one file."""

from collections.abc import Callable
from typing import TypeVar, cast

from captum._utils.common import _expand_additional_forward_args as expand_additional_forward_args
from captum._utils.common import _format_additional_forward_args as format_additional_forward_args
from captum._utils.common import _format_feature_mask as format_feature_mask
from captum._utils.common import _run_forward as run_forward
from captum._utils.common import _select_targets as select_targets
from captum.attr._core.feature_ablation import _parse_forward_out as parse_forward_out
from captum.attr._utils.common import (
    _format_and_verify_sliding_window_shapes as format_and_verify_sliding_window_shapes,
)
from captum.attr._utils.common import _format_and_verify_strides as format_and_verify_strides
from captum.attr._utils.common import _format_input_baseline as format_input_baseline
from captum.log import log_usage

Method = TypeVar("Method", bound=Callable[..., object])

counted = cast(Callable[[Method], Method], log_usage(part_of_slo=True))
"""Captum's record of which of its methods are used."""

__all__ = [
    "counted",
    "expand_additional_forward_args",
    "format_additional_forward_args",
    "format_and_verify_sliding_window_shapes",
    "format_and_verify_strides",
    "format_feature_mask",
    "format_input_baseline",
    "parse_forward_out",
    "run_forward",
    "select_targets",
]
