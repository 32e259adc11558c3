"""The CUDA executor: the reference executor's boxes on a GPU, with the kernels of ``csrc/cuda``.

Convolutions are PyTorch's (cuDNN), or products of matrices whose rows a kernel of ours gathers, whichever is
faster; boxes are put together, pooled and finished by our own kernels, which read cells where they lie. A
group of positions is described by one small table of coordinates, so that the work of the GPU is the same for
every group of the same extents: recorded once as a CUDA graph, and replayed.
"""
