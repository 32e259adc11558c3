"""PyTorch's rounding where it was allowed to round more."""

from __future__ import annotations

from typing import Any

import torch


def precisions() -> tuple[str, str]:
    """Rounding of convolutions and matrix products of float32 on a GPU: ``"tf32"``, or something exact.

    Examples:
        >>> convolutions, products = precisions()
        >>> {convolutions, products} <= {"tf32", "ieee", "none"}
        True
    """
    convolutions: Any = torch.backends.cudnn
    return convolutions.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
