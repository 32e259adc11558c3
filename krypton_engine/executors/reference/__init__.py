"""The reference executor: PyTorch on changed boxes, for any device, dtype, rank and operator."""
